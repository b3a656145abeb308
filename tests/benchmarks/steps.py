"""What a step costs, one after the other and by several threads at once.

``python -m tests.benchmarks.steps [ROUNDS [COUNT]]``; against inserts of the same row
by the driver alone, each with its commit.
"""

from __future__ import annotations

import collections.abc as cabc
import sys
import threading
import time
import uuid

from flask import Flask

from flask_durable import FlaskDurable
from flask_durable import step

from .apps.work import work
from .databases import database
from .databases import Driver
from .databases import NAMES
from .figures import Comparison
from .figures import shown

THREADS = 8

Runner = cabc.Callable[[int], float]
"""Writes so many rows, and gives the rows a second."""


class Endpoint:
    """An app whose endpoint runs as many steps as it is asked for."""

    def __init__(self, url: str) -> None:
        self.app = Flask("steps")
        self.app.config.update(DURABLE_DATABASE_URL=url, SECRET_KEY="benchmark")
        durable = FlaskDurable(self.app)
        self.took = threading.local()

        @self.app.post("/steps/<int:count>")
        @durable.endpoint
        def steps(count: int) -> str:
            began = time.perf_counter()

            for number in range(count):
                step.run(f"step-{number}", work, "search")

            self.took.seconds = time.perf_counter() - began
            return "done"

    def run(self, count: int) -> float:
        """Run steps in one execution, and give how many it does in a second.

        The attempt is warm: its beginning and its end are not counted.
        """
        answer = self.app.test_client().post(f"/steps/{count}")
        assert answer.status_code == 200, answer.text
        return count / float(self.took.seconds)

    def run_threads(self, count: int) -> float:
        """Run executions in threads, and give the steps of all in a second."""
        return in_threads(lambda number: self.run(count // THREADS), count)


class Raw:
    """The driver alone."""

    def __init__(self, url: str) -> None:
        self._driver = Driver(url)
        self._connections = [self._driver.connect() for _ in range(THREADS)]

    def run(self, count: int, number: int = 0) -> float:
        """Insert rows, and give how many it does in a second."""
        began = time.perf_counter()
        self._driver.write(self._connections[number], str(uuid.uuid4()), count)
        return count / (time.perf_counter() - began)

    def run_threads(self, count: int) -> float:
        """The same with a connection a thread."""
        return in_threads(lambda number: self.run(count // THREADS, number), count)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()


def in_threads(work: cabc.Callable[[int], object], count: int) -> float:
    """Do work in threads at once, and give how many of it all do in a second."""
    threads = [
        threading.Thread(target=work, args=(number,)) for number in range(THREADS)
    ]
    began = time.perf_counter()

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    return count / (time.perf_counter() - began)


def measure(kind: str, rounds: int, count: int) -> list[Comparison]:
    """Take turns, and compare."""
    with database(kind) as url:
        endpoint = Endpoint(url)
        endpoint.run(count)
        raw = Raw(url)
        raw.run(count)
        one = _turns(endpoint.run, raw.run, rounds, count)
        eight = _turns(endpoint.run_threads, raw.run_threads, rounds, count)
        raw.close()
        endpoint.app.extensions["durable"].close()

    name = NAMES[kind]
    return [
        Comparison("steps, one after the other", name, "the driver", *one, "/s", 0.75),
        Comparison(f"steps, {THREADS} threads", name, "the driver", *eight, "/s", 1.0),
    ]


def _turns(
    ours: Runner, theirs: Runner, rounds: int, count: int
) -> tuple[list[float], list[float]]:
    samples: tuple[list[float], list[float]] = ([], [])

    for _ in range(rounds):
        samples[0].append(ours(count))
        samples[1].append(theirs(count))

    return samples


def main(rounds: int = 15, count: int = 400) -> list[Comparison]:
    """Print a line for each measure and database."""
    return shown(each for kind in NAMES for each in measure(kind, rounds, count))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
