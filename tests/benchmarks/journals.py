"""How long a replay takes to walk through a thousand steps that are done.

``python -m tests.benchmarks.journals [ROUNDS [COUNT]]``: from the claim of the next
attempt to the call of its first new step; against the recovery of DBOS.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import typing as t

from flask import Flask

from flask_durable import FlaskDurable
from flask_durable import step

from ..driving import Drive
from ..processes import ROOT
from .apps.work import work
from .databases import database
from .databases import NAMES
from .figures import Comparison
from .figures import shown


class Long:
    """An app whose endpoint sleeps after many steps, and then runs one more."""

    def __init__(self, url: str) -> None:
        self.app = Flask("journals")
        self.app.config.update(
            DURABLE_DATABASE_URL=url, SECRET_KEY="benchmark", TESTING=True
        )
        durable = FlaskDurable(self.app)
        self.claimed_at = self.new_at = 0.0

        @self.app.post("/long/<int:count>")
        @durable.endpoint
        def long(count: int) -> str:
            for number in range(count):
                step.run(f"step-{number}", work, "search")

            step.sleep("nap", 60)
            return step.run("new", self._note)

        self.drive = Drive(self.app)

    def _note(self) -> str:
        self.new_at = time.perf_counter()
        return "done"

    def replay(self, count: int) -> float:
        """Run an execution to its sleep, wake it, and give the seconds."""
        answer = self.app.test_client().post(f"/long/{count}")
        assert answer.status_code == 202, answer.text
        store = self.drive.state.store
        claim = store.claim

        def noted(*args: t.Any) -> t.Any:
            self.claimed_at = time.perf_counter()
            return claim(*args)

        store.claim = noted  # type: ignore[method-assign, assignment]
        self.drive.advance(61)
        assert self.drive.run_due() == 1
        store.claim = claim  # type: ignore[method-assign]
        return self.new_at - self.claimed_at


def recover(url: str, count: int) -> float:
    """Have a workflow of DBOS die after many steps, and give what its recovery took."""
    module = f"{__package__}.apps.recovery"
    command = [sys.executable, "-m", module, url, str(count)]
    subprocess.run([*command, "dies"], cwd=ROOT, check=True, timeout=120)
    done = subprocess.run(
        [*command, "goes-on"],
        cwd=ROOT,
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def measure(kind: str, rounds: int, count: int) -> list[Comparison]:
    """Take turns, and compare."""
    ours, theirs = [], []

    for _ in range(rounds):
        with database(kind) as url:
            long = Long(url)
            long.replay(count)
            ours.append(1000 * statistics.median(long.replay(count) for _ in "12345"))
            long.app.extensions["durable"].close()

        with database(kind) as url:
            theirs.append(1000 * recover(url, count))

    what = f"replay of {count} done steps"
    limit = [1.0] * rounds
    name = NAMES[kind]
    goal = 1 / 30
    return [
        Comparison(what, name, "DBOS", ours, theirs, "ms", goal, False),
        Comparison(what, name, "1 ms", ours, limit, "ms", 20.0, False),
    ]


def main(rounds: int = 5, count: int = 1000) -> list[Comparison]:
    """Print a line for each measure and database."""
    return shown(each for kind in NAMES for each in measure(kind, rounds, count))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
