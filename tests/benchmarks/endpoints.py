"""An endpoint of four steps under gunicorn, against DBOS and against no durability.

``python -m tests.benchmarks.endpoints [ROUNDS [SECONDS]]``: two workers with four
threads each, one client and eight.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from ..processes import Gunicorn
from ..processes import ROOT
from .databases import database
from .databases import NAMES
from .figures import Comparison
from .figures import percentile
from .figures import shown

APPS = "tests.benchmarks.apps"
CLIENTS = (1, 8)

Samples = dict[str, list[list[float]]]
"""Durations of requests, round by round, of each server."""


def serve(name: str, folder: pathlib.Path, env: dict[str, str]) -> Gunicorn:
    """Give a server of one of the apps."""
    return Gunicorn(
        f"{APPS}.{name}:app",
        folder,
        workers=2,
        worker_class="gthread",
        threads=4,
        env=env,
        config="python:flask_durable.gunicorn" if name == "ours" else None,
    )


@contextlib.contextmanager
def servers(kind: str) -> cabc.Iterator[dict[str, Gunicorn]]:
    """Run the three servers, each with a database of its own of the same kind."""
    with (
        tempfile.TemporaryDirectory() as name,
        database(kind) as ours,
        database(kind) as peers,
        contextlib.ExitStack() as stack,
    ):
        folder = pathlib.Path(name)
        env = {
            "FLASK_DURABLE_DATABASE_URL": ours,
            "FLASK_SECRET_KEY": "benchmark",
            "BENCHMARK_DATABASE": peers,
            "DBOS_SYSTEM_DATABASE_URL": peers,
        }
        yield {
            app: stack.enter_context(serve(app, folder, env))
            for app in ("plain", "peer", "ours")
        }


def load(server: Gunicorn, path: str, clients: int, seconds: float) -> list[float]:
    """Give the durations of requests that clients send for a while."""
    command = [sys.executable, "-m", f"{__package__}.client", f"{server.url}{path}"]
    done = subprocess.run(
        [*command, str(clients), str(seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    durations: list[float] = json.loads(done.stdout)
    return durations


def take_turns(
    found: dict[str, Gunicorn], path: str, clients: int, rounds: int, seconds: float
) -> Samples:
    """Load one server after the other, again and again."""
    samples: Samples = {name: [] for name in found}

    for server in found.values():
        load(server, path, clients, min(1.0, seconds))

    for _ in range(rounds):
        for name, server in found.items():
            samples[name].append(load(server, path, clients, seconds))

    return samples


def measure(kind: str, rounds: int, seconds: float) -> cabc.Iterator[Comparison]:
    """Compare on one database."""
    name = NAMES[kind]

    with servers(kind) as found:
        for clients in CLIENTS:
            samples = take_turns(found, "/four", clients, rounds, seconds)
            what = f"four steps, {clients} client{'s' * (clients > 1)}"
            rates = _each(samples, lambda durations: len(durations) / seconds)
            goal = 5.0 if clients == 1 else 7.0
            yield _compare(what, name, rates, "DBOS", "peer", "/s", goal)
            yield _compare(what, name, rates, "no durability", "plain", "/s", None)
            high = [percentile(each, 0.99) * 1000 for each in samples["ours"]]
            median = [statistics.median(each) * 1000 for each in samples["ours"]]
            limit = 5.0 if clients == 8 else None
            yield Comparison(
                f"{what}, p99", name, "its p50", high, median, "ms", limit, False
            )

        both = {app: found[app] for app in ("plain", "ours")}
        samples = take_turns(both, "/none", 1, rounds, seconds)
        medians = _each(samples, lambda each: statistics.median(each) * 1000)
        more = [a - b for a, b in zip(medians["ours"], medians["plain"], strict=True)]
        limits = [1.0] * len(more)
        yield Comparison(
            "no steps: time more", name, "1 ms", more, limits, "ms", 2.5, False
        )


def _each(
    samples: Samples, figure: cabc.Callable[[list[float]], float]
) -> dict[str, list[float]]:
    return {name: [figure(each) for each in rounds] for name, rounds in samples.items()}


def _compare(
    what: str,
    database: str,
    figures: dict[str, list[float]],
    other: str,
    app: str,
    unit: str,
    goal: float | None,
) -> Comparison:
    return Comparison(what, database, other, figures["ours"], figures[app], unit, goal)


def main(rounds: int = 5, seconds: float = 3.0) -> list[Comparison]:
    """Print a line for each measure."""
    return shown(each for kind in NAMES for each in measure(kind, rounds, seconds))


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]])
