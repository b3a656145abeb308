"""The queries that read the journal."""

from __future__ import annotations

import dataclasses
import threading
import typing as t

import sqlalchemy as sa

from . import schema
from .blobs import Rows
from .commits import Commits
from .database import Database
from .errors import ExecutionNotFound
from .errors import JournalUnavailable
from .libpq import libpq_of
from .records import Event
from .records import Execution
from .records import Outgoing
from .records import ReplayRecord
from .records import RequestRecord
from .records import ResponseRecord
from .records import StepRecord
from .records import Wait
from .sql import Statement
from .statements import Statements


class Reader:
    """Reads the journal in one database.

    :param app: the name of the app whose executions these are
    :param create_tables: whether missing tables are created at the first use
    :param checked: whether another store has checked the tables already
    """

    def __init__(
        self,
        database: Database,
        app: str = "app",
        create_tables: bool = True,
        checked: bool = False,
    ) -> None:
        self.database = database
        self.app = app
        self.sql = Statements(database)
        self.commits = Commits(database)
        self._create_tables = create_tables
        self._checked = checked
        self._checking = threading.Lock()
        self._failure: JournalUnavailable | None = None
        """The error of the last check of the tables that failed."""

    def check(self) -> None:
        """Check once that the tables exist and are of our version.

        :raises JournalUnavailable: if the database is away; in all waiting threads
        """
        if self._checked:
            return

        before = self._failure

        with self._checking:
            if self._checked:
                return

            # A check of our own would take as long again as the one just waited for.
            if self._failure is not None and self._failure is not before:
                raise JournalUnavailable(str(self._failure))

            try:
                schema.ensure(self.database, self._create_tables)
            except JournalUnavailable as error:
                self._failure = JournalUnavailable(str(error))
                raise

            self._checked = True

    def ask(self, statement: Statement, /, **values: t.Any) -> Rows:
        """Run one statement and return its rows; an outage is not waited out."""
        self.check()
        return self.database.run(lambda c: statement(c, **values))

    def execution(self, execution_id: str) -> Execution:
        """Read an execution.

        :raises ExecutionNotFound: if there is none with this id
        """
        return Execution(*self._one(self.sql.execution, execution_id))

    def child(self, parent_id: str, step: str) -> Execution:
        """Read the execution that a step of another one began."""
        rows = self.ask(self.sql.child, parent_id=parent_id, parent_step=step)

        if not rows:
            raise ExecutionNotFound(f"Step {step} of {parent_id} began no execution.")

        return Execution(*rows[0])

    def replay(self, execution_id: str) -> ReplayRecord:
        """Read what a replay's ticket must match, and the execution's identity."""
        return ReplayRecord(*self._one(self.sql.replay, execution_id))

    def outgoing(self, execution_id: str) -> Outgoing:
        """Read the captured request, and whether an attempt may begin."""
        row = self._one(self.sql.outgoing, execution_id)
        request = RequestRecord(row.request, row.secrets, row.body, row.digest)
        head = (row.app, row.status, row.attempt, row.rejections, bool(row.due))
        return Outgoing(*head, row.ready_at, row.identity, request)

    def response(self, execution_id: str) -> ResponseRecord | None:
        """Read the final response, if there is one."""
        head, body = self._one(self.sql.response, execution_id)
        return None if head is None else ResponseRecord(head, body)

    def next_event(self, wait: Wait) -> Event | None:
        """Read the next event that a wait is for, if it has been sent."""
        rows = self.ask(self.sql.next_event, **dataclasses.asdict(wait))
        return Event(*rows[0]) if rows else None

    def journal(self, execution_id: str) -> list[StepRecord]:
        """Read all steps in the order of their first calls."""
        return list(self.ask(self.sql.journal, execution_id=execution_id))

    def newest_steps(self, execution_id: str, limit: int) -> list[StepRecord]:
        """Read the newest steps, oldest first, without errors and outputs.

        Those that have no outcome yet are always among them.
        """
        rows = self.ask(self.sql.newest_steps, execution_id=execution_id, limit=limit)
        steps = [StepRecord(*row) for row in rows]
        return sorted(steps, key=lambda step: step.position)

    def _one(self, statement: Statement, execution_id: str) -> t.Any:
        self.check()
        bound = statement.bind({"execution_id": execution_id})
        rows = self.database.run(lambda c: bound.run(c, libpq_of(c)))

        if not rows:
            raise ExecutionNotFound(f"There is no execution {execution_id}.")

        return rows[0]

    def _wrote(self, found: Rows, nonce: str) -> bool:
        """Tell whether a row's last write was this one."""
        return bool(found) and found[0][0] == nonce

    def _wrote_execution(
        self, connection: sa.Connection, execution_id: str, nonce: str
    ) -> bool:
        found = self.sql.nonce(connection, execution_id=execution_id)
        return self._wrote(found, nonce)

    def _wrote_step(
        self, connection: sa.Connection, execution_id: str, step_id: str, nonce: str
    ) -> bool:
        key = {"execution_id": execution_id, "id": step_id}
        return self._wrote(self.sql.step_nonce(connection, **key), nonce)
