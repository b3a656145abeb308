"""From the time that an execution is due to the first new step of its view.

``python -m tests.benchmarks.wakeups [COUNT]``
"""

from __future__ import annotations

import collections.abc as cabc
import random
import sys
import time

from ..integration.sites import new_order
from ..integration.sites import Shop
from .figures import Comparison
from .figures import in_milliseconds
from .figures import percentile
from .figures import shown
from .sites import KINDS
from .sites import site

PACE = 0.05
"""Seconds between two requests, so that the machine is not the measure."""

SHORTEST, LONGEST = 0.1, 2.5
"""Seconds that an execution sleeps: some less, some longer than a sweeper's look."""

GOALS = {"embedded": {0.5: 20.0, 0.99: 150.0}, "rq": {0.5: 40.0, 0.99: 150.0}}
"""Milliseconds that each may take at most, by the share of all that do."""


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


def main(count: int = 200) -> list[Comparison]:
    """Print a line for each kind and each goal.

    :raises RuntimeError: if one began early
    """
    return shown(compare(count))


def compare(count: int) -> cabc.Iterator[Comparison]:
    """Compare with the goals, each on its own."""
    for kind in KINDS:
        late = measure(kind, count)
        print(f"{kind:9} {in_milliseconds(late)}", flush=True)

        if min(late) < 0:
            raise RuntimeError(f"One began {-min(late):g} s early.")

        for share, goal in GOALS[kind].items():
            what = f"due to start, {kind}, p{share * 100:g}"
            ours = [percentile(late, share) * 1000]
            yield Comparison(
                what, "PostgreSQL", "1 ms", ours, [1.0], "ms", goal, at_least=False
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
