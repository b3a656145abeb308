"""The journal's statements in PostgreSQL while it fills up.

``python -m tests.benchmarks.volume [SUSPENDED FINISHED]`` times each statement in
an almost empty journal and in a full one, and prints the plans that it has there.
"""

from __future__ import annotations

import collections.abc as cabc
import statistics
import sys
import time
import typing as t

import sqlalchemy as sa

from flask_durable.database import Database
from flask_durable.ids import new_id
from flask_durable.records import RequestRecord
from flask_durable.records import ResponseRecord
from flask_durable.records import StepRecord
from flask_durable.store import Store
from flask_durable.upkeep import Upkeep

from .. import servers
from .figures import Comparison
from .figures import shown

REQUEST = RequestRecord(b'{"environ": {}, "headers": []}' * 20, None, b"{}", "digest")
OWNER = "boot:1:2:3"
YEAR = 365 * 86_400.0
ROUNDS = 200

FILL = """
INSERT INTO durable_executions (id, app, endpoint, status, attempt, owner, nonce,
    ready_at, due_at, looks, created_at, finished_at, crashes, errors, rejections,
    refusals, digest, request, body, response, response_body)
SELECT :status || n, 'app', 'view', :status, 2, 'boot:1:2:3', md5(n::text),
    :due + n, :due + n, 0, n, CASE WHEN :due IS NULL THEN n END, 0, 0, 0, 0, 'digest',
    convert_to(repeat('x', 600), 'UTF8'), '', convert_to(repeat('y', 200), 'UTF8'),
    convert_to(repeat('z', 200), 'UTF8')
FROM generate_series(1, :count) n
"""

FILL_STEPS = """
INSERT INTO durable_steps (execution_id, id, kind, status, tries, position, attempt,
    nonce, started_at, finished_at, output)
SELECT :status || n, 'step' || s, 'run', 'completed', 1, s, 1, md5(n::text), n, n,
    convert_to('{"id": 12345}', 'UTF8')
FROM generate_series(1, :count) n, generate_series(1, 2) s
"""


class Bench:
    """A journal in which single statements are timed."""

    def __init__(self, url: str) -> None:
        self.store = Store(Database.open(url))
        self.store.check()
        self.upkeep = Upkeep(self.store)

    def fill(self, status: str, count: int) -> None:
        """Make so many executions of a status, with two steps each."""
        due = time.time() + YEAR if status == "suspended" else None

        def work(connection: sa.Connection) -> None:
            values = {"status": status, "count": count}
            text = FILL.replace(":due", "CAST(:due AS double precision)")
            text = text.replace(":status", "CAST(:status AS text)")
            connection.execute(sa.text(text), {**values, "due": due})
            connection.execute(sa.text(FILL_STEPS), values)
            connection.execute(sa.text("VACUUM ANALYZE"))

        self.store.database.run(work)

    def measure(self) -> dict[str, float]:
        """Give the median of each statement, in seconds."""
        times: dict[str, list[float]] = {}

        for _ in range(ROUNDS):
            for name, seconds in self._life():
                times.setdefault(name, []).append(seconds)

        return {name: statistics.median(values) for name, values in times.items()}

    def _life(self) -> cabc.Iterator[tuple[str, float]]:
        """Time the statements of one execution's life."""
        store, upkeep, mine = self.store, self.upkeep, new_id()
        line = StepRecord("pay", "run", "completed", 1, 0, 1, 0.0, output=b"{}")
        response = ResponseRecord(b"{}", b"done")
        yield timed(
            "begin", lambda: store.begin(mine, "view", OWNER, 15, REQUEST, None)
        )
        yield timed("step", lambda: store.record(mine, 1, line))
        yield timed("renew", lambda: upkeep.renew(OWNER, [mine], 15))
        yield timed("suspend", lambda: store.suspend(mine, 1, 0.0))
        yield timed("next due", upkeep.next_due)
        yield timed("sweep", lambda: upkeep.sweep(4, 5.0, 6.0))
        yield timed("claim", lambda: store.claim(mine, 2, OWNER, 15))
        yield timed("journal", lambda: store.journal(mine))
        yield timed("owners", upkeep.owners)
        yield timed("finish", lambda: store.finish(mine, 2, "completed", response))


def timed(name: str, call: cabc.Callable[[], t.Any]) -> tuple[str, float]:
    """Give a call's duration."""
    began = time.perf_counter()
    call()
    return name, time.perf_counter() - began


def plans(bench: Bench) -> cabc.Iterator[tuple[str, str]]:
    """Give the plans of the statements that look for what is due."""
    for name in ("next_due", "sweep", "owners"):
        statement = getattr(bench.upkeep._sql, name)
        yield name, explain(bench, statement)

    yield "claim", explain(bench, bench.store.sql.claim)


def explain(bench: Bench, statement: t.Any) -> str:
    """Have a compiled statement explained, with values that fit no row."""
    values = tuple(map(EXAMPLES.get, statement.form.names))
    parameters = statement.form.parameters(values)

    def work(connection: sa.Connection) -> list[str]:
        found = connection.exec_driver_sql(
            f"EXPLAIN (COSTS OFF) {statement.form.text}", parameters
        )
        return [row[0] for row in found]

    return "\n".join(f"    {line}" for line in bench.store.database.run(work))


EXAMPLES: dict[str, t.Any] = {
    "app": "app",
    "attempt": 2,
    "execution_id": "none",
    "lease": 15.0,
    "limit": 100,
    "nonce": "none",
    "owner": OWNER,
    "patience": 5.0,
    "second_look": 6.0,
}


def main(suspended: int = 100_000, finished: int = 1_000_000) -> list[Comparison]:
    """Print a line a statement, the plans, and the statement that suffers most."""
    with servers.postgres(fsync=True) as server, server.database() as url:
        bench = Bench(url)
        bench.measure()
        few = bench.measure()
        bench.fill("suspended", suspended)
        bench.fill("completed", finished)
        many = bench.measure()
        print(f"{'':10} {'empty':>8} {'full':>8} {'ratio':>6}   (ms, medians)")

        for name, before in few.items():
            after = many[name]
            print(
                f"{name:10} {before * 1000:8.2f} {after * 1000:8.2f}"
                f" {after / before:6.2f}"
            )

        for name, text in plans(bench):
            print(f"\n{name}\n{text}")

        bench.store.database.close()

    worst = max(few, key=lambda name: many[name] / few[name])
    what = f"{suspended + finished:,} stored: {worst}"
    ours, theirs = [many[worst] * 1000], [few[worst] * 1000]
    return shown(
        [Comparison(what, "PostgreSQL", "empty", ours, theirs, "ms", 1.3, False)]
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
