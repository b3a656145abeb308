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
from flask_durable.supervisor import end_with_parent
from flask_durable.supervisor import PARENT
from flask_durable.supervisor import Stop
from flask_durable.supervisor import Supervisor


def say(word: str) -> None:
    """Tell what this process does, in one write: others write to the same file."""
    os.write(sys.stdout.fileno(), f"{word} {os.getpid()}\n".encode())


def wait() -> None:
    """Do nothing until asked to end."""
    stop = Stop()
    stop.listen()
    say("waits")
    stop.wait()
    say("ends")


def finish() -> None:
    """Be done at once."""
    say("done")


def finish_at_last() -> None:
    """Fail in the first process, wait in the next."""
    file = pathlib.Path("failed")

    if not file.exists():
        file.touch()
        sys.exit(3)

    wait()


def fail() -> None:
    """Fail in every process."""
    sys.exit(3)


def linger() -> None:
    """Finish for long what is in hand, and hand it back when that is asked for."""
    heard: list[int] = []

    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: heard.append(number))

    say("waits")

    while signal.SIGQUIT not in heard:
        time.sleep(0.05)

    say("ends")


def refuse() -> None:
    """Never end."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)

    say("waits")
    time.sleep(3_600)


DOING = (wait, finish, finish_at_last, fail, linger, refuse)
WORKS = {work.__name__: work for work in DOING}


def main(count: str, work: str, *options: str) -> int:
    """Supervise, with little patience; or be a child."""
    logging.basicConfig(level=logging.INFO)

    if PARENT in os.environ:
        end_with_parent()
        WORKS[work]()
        return 0

    supervisor.STOP_GRACE = 0.5
    supervisor.FORCE_GRACE = 0.5 if work == "refuse" else 10.0
    return Supervisor(sys.orig_argv, int(count), "--once" in options).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
