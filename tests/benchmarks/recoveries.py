"""From the kill of a server's process to the next call of the step that it ran.

``python -m tests.benchmarks.recoveries [COUNT]``
"""

from __future__ import annotations

import sys
import time

from ..integration.sites import new_order
from ..integration.sites import Shop
from .figures import in_milliseconds
from .sites import KINDS
from .sites import site

FOREVER = 600
"""Seconds that the step would take if nobody killed it."""


def measure(kind: str, count: int) -> list[float]:
    """Kill gunicorn's workers in a step, and give how soon others went on."""
    with site(kind) as found:
        return [_kill(found) for _ in range(count)]


def _kill(found: Shop) -> float:
    found.settle()
    order = new_order()
    found.post_in_background("/slow", order, seconds=FOREVER)
    first = found.wait_for_call(order, "slow")
    killed_at = time.monotonic()
    found.gunicorn.kill_worker(first.pid)
    again = found.wait_for_call(order, "slow", times=2)
    return again.at - killed_at


def main(count: int) -> None:
    """Print one line a kind."""
    for kind in KINDS:
        print(f"{kind:9} {in_milliseconds(measure(kind, count))}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
