"""Records what was really called, and how often.

The ledger stands for the providers' own records. It is a separate database that knows
nothing of the journal, so it can prove what a booking's steps really did.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import dataclasses
import datetime
import json
import os
import typing as t

from flask_durable import current_execution
from flask_durable import current_step

from .database import database

T = t.TypeVar("T")

TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    pid INTEGER NOT NULL,
    execution TEXT NOT NULL,
    step TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT
);
CREATE INDEX IF NOT EXISTS calls_by_execution ON calls (execution);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (idempotency_key);
CREATE TABLE IF NOT EXISTS effects (
    idempotency_key TEXT PRIMARY KEY,
    execution TEXT NOT NULL,
    step TEXT NOT NULL,
    effect TEXT NOT NULL,
    value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS kills (
    id INTEGER PRIMARY KEY,
    execution TEXT NOT NULL,
    at TEXT NOT NULL,
    pid INTEGER NOT NULL,
    moment TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS kills_by_execution ON kills (execution);
"""


@dataclasses.dataclass
class Entry:
    """One call in the ledger."""

    number: int
    """How many calls came with this idempotency key, this one included."""
    key: str
    first_at: str
    """When the first of these calls came."""
    outcome: str = "ok"

    def once(self, effect: str, change: cabc.Callable[[], T]) -> T:
        """Make a change only once for the call's idempotency key.

        :return: what the change returned the first time.
        """
        with database("ledger") as db:
            db.execute("BEGIN IMMEDIATE")
            known = db.execute(
                "SELECT value FROM effects WHERE idempotency_key = ?", [self.key]
            )
            if row := known.fetchone():
                self.outcome = f"already {effect}: the same answer again"
                return t.cast(T, json.loads(row["value"]))
            value = change()
            db.execute(
                "INSERT INTO effects VALUES (?, ?, ?, ?, ?)",
                [
                    self.key,
                    current_execution.id,
                    current_step.id,
                    effect,
                    json.dumps(value),
                ],
            )
        self.outcome = effect
        return value


@contextlib.contextmanager
def call(action: str, key: str) -> cabc.Iterator[Entry]:
    """Record a call when it comes in, and its outcome when it is answered.

    If the server is killed in between, the call has no outcome.
    """
    with database("ledger") as db:
        inserted = db.execute(
            "INSERT INTO calls (at, pid, execution, step, idempotency_key, action)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [now(), os.getpid(), current_execution.id, current_step.id, key, action],
        )
        counted = db.execute(
            "SELECT count(*), min(at) FROM calls WHERE idempotency_key = ?", [key]
        )
        number, first_at = counted.fetchone()
    entry = Entry(number, key, first_at)
    try:
        yield entry
    except Exception as error:
        settle(inserted.lastrowid, f"{type(error).__name__}: {error}")
        raise
    settle(inserted.lastrowid, entry.outcome)


def settle(call_id: int | None, outcome: str) -> None:
    """Record how a call ended."""
    with database("ledger") as db:
        db.execute("UPDATE calls SET outcome = ? WHERE id = ?", [outcome, call_id])


def may_kill(moment: str) -> bool:
    """Record that the running execution is about to kill this server.

    :return: whether it may: a booking kills one server, not each that continues it.
    """
    with database("ledger") as db:
        inserted = db.execute(
            "INSERT INTO kills (execution, at, pid, moment) SELECT ?, ?, ?, ? WHERE NOT"
            " EXISTS (SELECT 1 FROM kills WHERE execution = ? AND moment = ?)",
            [
                *(current_execution.id, now(), os.getpid(), moment),
                *(current_execution.id, moment),
            ],
        )
        return inserted.rowcount == 1


def note_kill(execution: str, pid: int, moment: str) -> None:
    """Record that somebody kills a server."""
    with database("ledger") as db:
        db.execute(
            "INSERT INTO kills (execution, at, pid, moment) VALUES (?, ?, ?, ?)",
            [execution, now(), pid, moment],
        )


def last_pid(execution: str) -> int | None:
    """Return the server process that made an execution's last call."""
    with database("ledger") as db:
        query = "SELECT pid FROM calls WHERE execution = ? ORDER BY id DESC LIMIT 1"
        row = db.execute(query, [execution]).fetchone()

    return row["pid"] if row else None


def account(execution: str) -> dict[str, t.Any]:
    """Return all that the providers know of an execution."""
    with database("ledger") as db:
        return {
            table: [dict(row) for row in db.execute(query, [execution])]
            for table, query in {
                "calls": "SELECT at, pid, step, action, outcome FROM calls"
                " WHERE execution = ? ORDER BY id",
                "effects": "SELECT step, effect FROM effects WHERE execution = ?",
                "kills": "SELECT at, pid, moment FROM kills WHERE execution = ?"
                " ORDER BY id",
            }.items()
        }


def now() -> str:
    """Return the current time as the ledger stores it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def seconds_since(moment: str) -> float:
    """Return how many seconds ago a moment of the ledger was."""
    passed = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(
        moment
    )
    return passed.total_seconds()
