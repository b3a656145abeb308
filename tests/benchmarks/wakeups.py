"""From the time that an execution is due to the first new step of its view.

``python -m tests.benchmarks.wakeups [COUNT]``
"""

from __future__ import annotations

import random
import sys
import time

from ..integration.sites import new_order
from ..integration.sites import Shop
from .figures import in_milliseconds
from .sites import KINDS
from .sites import site

PACE = 0.05
"""Seconds between two requests, so that the machine is not the measure."""

SHORTEST, LONGEST = 0.1, 2.5
"""Seconds that an execution sleeps: some less, some longer than a sweeper's look."""


def measure(kind: str, count: int) -> list[float]:
    """Have executions sleep, and give how late each one went on, in seconds."""
    choose = random.Random(count)

    with site(kind) as found:
        orders = [new_order() for _ in range(count)]
        ids = [_sleep(found, o, choose.uniform(SHORTEST, LONGEST)) for o in orders]
        return [_late(found, *pair) for pair in zip(orders, ids, strict=True)]


def _sleep(found: Shop, order: str, nap: float) -> str:
    time.sleep(PACE)
    answer = found.post("/sleep", order, nap=nap, seconds=0)
    return answer.headers["Durable-Execution"]


def _late(found: Shop, order: str, execution_id: str) -> float:
    found.journal.wait_for(execution_id, timeout=60)
    (nap,) = (s for s in found.journal.steps(execution_id) if s.id == "nap")
    called = found.wait_for_call(order, "slow")
    wall = time.time() - time.monotonic()
    return float(called.at + wall - nap.wake_at)


def main(count: int) -> None:
    """Print one line a kind."""
    for kind in KINDS:
        print(f"{kind:9} {in_milliseconds(measure(kind, count))}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
