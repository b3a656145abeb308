"""A wide ``step.map`` of short functions, against threads alone.

``python -m tests.benchmarks.maps [ROUNDS [COUNT]]``
"""

from __future__ import annotations

import concurrent.futures
import gc
import sys
import time

from flask import Flask

from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.state import spare_loaded

from .databases import database
from .databases import NAMES
from .figures import Comparison
from .figures import shown

SECONDS = 0.001
"""What each function takes."""

THREADS = 16
"""Of a map, if it is told nothing else."""


def work(number: int) -> int:
    """Wait as for an answer."""
    time.sleep(SECONDS)
    return number


def alone(count: int) -> float:
    """Do the work in threads, and give the seconds."""
    began = time.perf_counter()

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        assert len(list(pool.map(work, range(count)))) == count

    return time.perf_counter() - began


class Wide:
    """An app whose endpoint maps a function."""

    def __init__(self, url: str) -> None:
        self.app = Flask("maps")
        self.app.config.update(DURABLE_DATABASE_URL=url, SECRET_KEY="benchmark")
        durable = FlaskDurable(self.app)
        self.took = 0.0

        @self.app.post("/map/<int:count>")
        @durable.endpoint
        def wide(count: int) -> str:
            began = time.perf_counter()
            step.map("work", work, range(count))
            self.took = time.perf_counter() - began
            return "done"

    def run(self, count: int) -> float:
        """Map the function, and give the seconds."""
        assert self.app.test_client().post(f"/map/{count}").status_code == 200
        return self.took


def measure(kind: str, rounds: int, count: int) -> Comparison:
    """Take turns, and compare."""
    ours, theirs = [], []

    with database(kind) as url:
        wide = Wide(url)
        wide.run(THREADS)
        # As in a worker of gunicorn's that has our hooks.
        spare_loaded()

        for _ in range(rounds):
            ours.append(1000 * wide.run(count))
            theirs.append(1000 * alone(count))

        gc.unfreeze()
        wide.app.extensions["durable"].close()

    what = f"map of {count} functions of 1 ms"
    return Comparison(what, NAMES[kind], "threads", ours, theirs, "ms", 1.5, False)


def main(rounds: int = 7, count: int = 1000) -> list[Comparison]:
    """Print a line for each database."""
    return shown(measure(kind, rounds, count) for kind in NAMES)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
