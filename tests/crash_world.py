"""The laboratory's app, and what is outside of it: a ledger, clients, a clock."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import json
import os
import pathlib
import sqlite3
import typing as t

import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event

from flask_durable import current_execution
from flask_durable import current_step
from flask_durable import ExecutionInfo
from flask_durable import FlaskDurable
from flask_durable import purge
from flask_durable import recovery
from flask_durable import Retry
from flask_durable import step
from flask_durable.state import opened_state
from flask_durable.state import State
from flask_durable.sweeper import Sweeper
from flask_durable.tables import metadata
from flask_durable.tables import steps

from .driving import CallerHands
from .driving import Drive

MOST_ATTEMPTS = 50

ledger_rows = sa.Table("crash_lab_rows", sa.MetaData(), sa.Column("step", sa.Text))
"""The user's own table in the journal's database."""


class World:
    """An app, and what is outside of it and outlives every kill.

    :param folder: where the ledger is of the calls of step functions
    :param testing: whether the app is without threads
    """

    def __init__(self, url: str, folder: pathlib.Path, testing: bool) -> None:
        # A handful of executions are several batches.
        purge.BATCH = 2
        # Nobody waits after a second kill.
        recovery.MAX_BACKOFF = 0.0
        self.folder = folder
        self.app = Flask("crash_lab", instance_path=str(folder))
        self.app.config.update(
            DURABLE_DATABASE_URL=url,
            DURABLE_INLINE_RETRY=0,
            DURABLE_RETRY=Retry(initial=0.05, jitter=0),
            PROPAGATE_EXCEPTIONS=False,
            SECRET_KEY="laboratory",
            TESTING=testing,
        )
        self.durable = FlaskDurable(self.app)
        opened_state(self.app)
        event.listen(self.engine, "connect", _dont_sync)
        self.drive = Drive(self.app)
        self.watched = True
        """Whether statements count; those of the turning clock are nobody's."""

    @property
    def state(self) -> State:
        """The extension's state, with the journal open."""
        return opened_state(self.app)

    @property
    def engine(self) -> sa.Engine:
        """What all statements go through but those of the heartbeat."""
        return self.state.store.database.engine

    def make_tables(self) -> None:
        """Make the journal's tables and the user's own."""
        self.state.store.check()
        ledger_rows.metadata.create_all(self.engine)

    def clear(self) -> None:
        """Forget everything that happened."""
        with self.engine.connect() as connection:
            for table in (*reversed(metadata.sorted_tables), ledger_rows):
                connection.execute(table.delete())

        for path in self.folder.glob("*.note"):
            path.unlink()

    # What step functions do.

    def call(self, value: t.Any = None) -> t.Any:
        """Be a step's function: note the call, and give the value or the step's id."""
        with (self.folder / "ledger.note").open("a") as ledger:
            ledger.write(f"{current_execution.id} {current_step.id}\n")

        return current_step.id if value is None else value

    def run(self, name: str) -> str:
        """Run a step that does no more than that."""
        return t.cast(str, step.run(name, self.call))

    def insert(self, connection: sa.Connection) -> t.Any:
        """Be the function of a transaction: write a row of the user's own."""
        connection.execute(ledger_rows.insert().values(step=current_step.id))
        return self.call()

    # What the outside knows.

    def note(self, name: str, text: str = "") -> None:
        """Keep something outside of the journal; another process reads all of it."""
        draft = self.folder / f"{name}.{os.getpid()}.draft"
        draft.write_text(text)
        draft.replace(self.folder / f"{name}.note")

    def read(self, name: str) -> str | None:
        """Read what was kept, if it was."""
        path = self.folder / f"{name}.note"
        return path.read_text() if path.exists() else None

    def calls(self) -> list[str]:
        """List the calls of step functions: an execution's id and a step's."""
        return (self.read("ledger") or "").splitlines()

    def executions(self) -> list[ExecutionInfo]:
        """Read all executions with their steps, the oldest first."""
        with self.app.app_context():
            found = self.durable.executions()
            return [self.durable.get(execution.id) for execution in reversed(found)]

    def roots(self) -> list[ExecutionInfo]:
        """Read those that no other execution began."""
        return [found for found in self.executions() if found.parent_id is None]

    def done(self) -> set[str]:
        """List the steps that have an outcome, named as in the ledger."""
        return {
            f"{execution.id} {line.id}"
            for execution in self.executions()
            for line in execution.steps
            if line.status in ("completed", "failed", "interrupted")
        }

    def remember(self) -> None:
        """Note what has been called and done until now, beside what was noted so."""
        with self.unwatched():
            moment = [len(self.calls()), sorted(self.done())]

        earlier = json.loads(self.read("moments") or "[]")
        self.note("moments", json.dumps([*earlier, moment]))

    def called_again(self, but: cabc.Container[str]) -> list[str]:
        """List the calls of steps that were done at a moment that was noted.

        :param but: ids of steps that are left out
        """
        calls = self.calls()
        return [
            call
            for count, done in json.loads(self.read("moments") or "[]")
            for call in calls[count:]
            if call in done and call.split(" ", 1)[1] not in but
        ]

    def answer(self, execution: ExecutionInfo) -> t.Any:
        """Read the JSON that an execution answered, if it is completed."""
        response = self.state.store.response(execution.id)

        if execution.status != "completed" or response is None:
            return None

        return json.loads(response.body or b"null")

    def count(self) -> dict[str, int]:
        """Count the rows beside those of executions."""
        known = [execution.id for execution in self.executions()]
        orphans = steps.c.execution_id.not_in(known)
        found = {
            "rows": sa.select(sa.func.count()).select_from(ledger_rows),
            "events": sa.select(sa.func.count()).select_from(
                metadata.tables["durable_events"]
            ),
            "orphans": sa.select(sa.func.count()).select_from(steps).where(orphans),
        }

        with self.engine.connect() as connection:
            return {key: connection.scalar(found[key]) or 0 for key in found}

    def has_ended(self) -> bool:
        """Tell whether no execution is under way."""
        with self.app.app_context():
            return all(found.finished_at for found in self.durable.executions())

    # What the outside does.

    def post(self, endpoint: str, headers: dict[str, str] | None = None) -> None:
        """Send a client's request."""
        self.app.test_client().post(f"/{endpoint}", headers=headers)

    @contextlib.contextmanager
    def operating(self) -> cabc.Iterator[FlaskDurable]:
        """Give what scripts and operators use."""
        with self.app.app_context():
            yield self.durable

    def finish(self) -> None:
        """Replay what is due, and turn the clock, until nothing more can happen."""
        for _ in range(MOST_ATTEMPTS):
            self.drive.run_due()

            if not self._turn():
                return

        raise AssertionError(f"still not ended, process {os.getpid()}")

    def bury(self) -> None:
        """Look for processes of this machine that died, and begin what is due."""
        Sweeper(self.state, CallerHands(self.app)).look()

    def outlast(self) -> None:
        """Outlast the leases of a machine that is lost, as the sweeper does."""
        sweeper = Sweeper(self.state, CallerHands(self.app))
        # It has seen no error for long enough.
        sweeper._began -= 2 * self.state.config.lease

        for _ in range(2):
            with self.unwatched():
                self.drive.advance(self.state.config.lease + 0.001)

            while sweeper.sweep(1):
                pass

    @contextlib.contextmanager
    def unwatched(self) -> cabc.Iterator[None]:
        """Send statements that are nobody's."""
        self.watched = False

        try:
            yield
        finally:
            self.watched = True

    def _turn(self) -> bool:
        """Turn the clock to what is due next, if anything is."""
        with self.unwatched():
            left = self.state.upkeep.next_due()

            if left is not None:
                self.drive.advance(max(0.0, left) + 0.001)

        return left is not None


def _dont_sync(connection: t.Any, record: object) -> None:
    """Spare the disk: what a process wrote outlives it anyway."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF").close()
