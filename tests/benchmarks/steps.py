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


class Watch:
    """A stopwatch that starts when so many threads are there, and stops with the last.

    What they do before and after is not counted.
    """

    def __init__(self, threads: int) -> None:
        self._gate = threading.Barrier(threads)
        self._began: list[float] = []
        self._ended: list[float] = []

    @property
    def seconds(self) -> float:
        """From the first beginning to the last end so far."""
        return max(self._ended) - min(self._began)

    def __enter__(self) -> None:
        self._gate.wait(60)
        self._began.append(time.perf_counter())

    def __exit__(self, *error: object) -> None:
        self._ended.append(time.perf_counter())


class Endpoint:
    """An app whose endpoint runs as many steps as it is asked for."""

    def __init__(self, url: str) -> None:
        self.app = Flask("steps")
        self.app.config.update(DURABLE_DATABASE_URL=url, SECRET_KEY="benchmark")
        durable = FlaskDurable(self.app)
        self._watch = Watch(1)

        @self.app.post("/steps/<int:count>")
        @durable.endpoint
        def steps(count: int) -> str:
            with self._watch:
                for number in range(count):
                    step.run(f"step-{number}", work, "search")

            return "done"

    def run(self, count: int, watch: Watch | None = None) -> float:
        """Run steps in one execution, and give how many it does in a second.

        The attempt is warm: its beginning and its end are not counted.
        """
        self._watch = watch = watch or Watch(1)
        answer = self.app.test_client().post(f"/steps/{count}")
        assert answer.status_code == 200, answer.text
        return count / watch.seconds

    def run_threads(self, count: int) -> float:
        """Run executions in threads, and give the steps of all in a second."""
        share = count // THREADS
        return in_threads(lambda number, watch: self.run(share, watch), count)


class Raw:
    """The driver alone."""

    def __init__(self, url: str) -> None:
        self._driver = Driver(url)
        self._connections = [self._driver.connect() for _ in range(THREADS)]

    def run(self, count: int, number: int = 0, watch: Watch | None = None) -> float:
        """Insert rows, and give how many it does in a second."""
        watch = watch or Watch(1)

        with watch:
            self._driver.write(self._connections[number], str(uuid.uuid4()), count)

        return count / watch.seconds

    def run_threads(self, count: int) -> float:
        """The same with a connection a thread."""
        share = count // THREADS
        return in_threads(lambda number, watch: self.run(share, number, watch), count)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()


def in_threads(work: cabc.Callable[[int, Watch], object], count: int) -> float:
    """Do work in threads at once, and give how many of it all do in a second."""
    watch = Watch(THREADS)
    threads = [
        threading.Thread(target=work, args=(number, watch)) for number in range(THREADS)
    ]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    return count / watch.seconds


def measure(kind: str, rounds: int, count: int) -> list[Comparison]:
    """Take turns, and compare."""
    with database(kind) as url:
        endpoint = Endpoint(url)
        endpoint.run(count)
        raw = Raw(url)
        raw.run(count)
        one = _turns(endpoint.run, raw.run, rounds, count)
        eight = _turns(endpoint.run_threads, raw.run_threads, rounds, 4 * count)
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
