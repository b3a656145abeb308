"""A workflow of DBOS that dies after many steps, and is recovered.

``python -m tests.benchmarks.apps.recovery URL COUNT`` runs it twice in one: the first
process ends in the step after the last, the second prints the seconds from the
workflow's begin to that step.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from dbos import DBOS

from .work import work

ended = threading.Event()
began = 0.0
dies = sys.argv[3] == "dies"


@DBOS.step()
def one(name: str) -> dict[str, object]:
    """Do the work of a step."""
    return work(name)


@DBOS.step()
def last() -> float:
    """End the process, or give how long it took to come here."""
    took = time.perf_counter() - began

    if dies:
        os._exit(0)

    print(took, flush=True)
    ended.set()
    return took


@DBOS.workflow()
def steps(count: int) -> None:
    """Run many steps, and one more."""
    global began
    began = time.perf_counter()

    for number in range(count):
        one(f"step-{number}")

    last()


if __name__ == "__main__":
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": sys.argv[1],
            "log_level": "ERROR",
            "application_version": "1",
        }
    )
    DBOS.launch()

    if dies:
        steps(int(sys.argv[2]))

    ended.wait(60)
    os._exit(0)
