"""A supervisor whose children do one of a few simple things.

``python -m tests.supervised COUNT WORK [--once]``
"""

from __future__ import annotations

import logging
import os
import pathlib
import signal
import sys
import time

from flask_durable import supervisor
from flask_durable.supervisor import Supervisor
from flask_durable.supervisor import wait_for_stop


def say(word: str) -> None:
    """Tell what this process does."""
    print(word, os.getpid(), flush=True)


def wait() -> None:
    """Do nothing until asked to end."""
    say("waits")
    wait_for_stop()
    say("ends")


def finish() -> None:
    """Be done at once."""
    say("done")


def finish_at_last() -> None:
    """Fail in the first process, be done in the next."""
    file = pathlib.Path("failed")

    if not file.exists():
        file.touch()
        sys.exit(3)

    say("done")


def linger() -> None:
    """Hear of the first request to end, and end at the second."""
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    say("waits")

    while len(heard) < 2:
        time.sleep(0.05)

    say("ends")


def refuse() -> None:
    """Never end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("waits")
    time.sleep(3_600)


WORKS = {work.__name__: work for work in (wait, finish, finish_at_last, linger, refuse)}


def main(count: str, work: str, *options: str) -> int:
    """Supervise, with little patience."""
    logging.basicConfig(level=logging.INFO)
    supervisor.STOP_GRACE = 0.5
    supervisor.FORCE_GRACE = 0.5 if work == "refuse" else 10.0
    return Supervisor(WORKS[work], int(count), "--once" in options).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
