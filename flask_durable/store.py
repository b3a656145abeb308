"""What the journal can be asked and told; every write is fenced."""

from __future__ import annotations

import collections.abc as cabc
import threading
import typing as t

import sqlalchemy as sa

from . import schema
from .database import Database
from .database import Rows
from .database import Statement
from .errors import ExecutionNotFound
from .errors import JournalLostError
from .errors import JournalUnavailable
from .errors import LeaseLostError
from .ids import new_nonce
from .records import Execution
from .records import ExecutionStatus
from .records import Outgoing
from .records import ReplayRecord
from .records import RequestRecord
from .records import ResponseRecord
from .records import StepRecord
from .statements import Statements

OUTAGE_PATIENCE = 30.0
"""Seconds for which an attempt's writes wait for a database that is away."""


class Store:
    """The journal in one database.

    :param app: the name of the app whose executions these are
    :param create_tables: whether missing tables are made at the first use
    :param checked: whether another store has looked at the tables
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
        self._create_tables = create_tables
        self._checked = checked
        self._checking = threading.Lock()

    def check(self) -> None:
        """Make sure once that the tables are there and of our version."""
        if self._checked:
            return

        with self._checking:
            if not self._checked:
                schema.ensure(self.database, self._create_tables)
                self._checked = True

    def ask(self, statement: Statement, /, **values: t.Any) -> Rows:
        """Run one statement and give its rows, without waiting for an outage."""
        self.check()
        return self.database.run(lambda c: statement(c, **values))

    # An attempt's writes

    def begin(
        self,
        execution_id: str,
        endpoint: str,
        owner: str,
        lease: float,
        request: RequestRecord,
        identity: bytes | None,
    ) -> float:
        """Store a new execution whose first attempt is running.

        :return: the database's time
        :raises JournalUnavailable: with ``unknown`` set if the connection was
            lost so late that the execution may have been stored
        """
        self.check()
        nonce = new_nonce()
        sent = False

        def insert(connection: sa.Connection) -> float:
            nonlocal sent
            sent = True
            rows = self.sql.begin(
                connection,
                id=execution_id,
                app=self.app,
                endpoint=endpoint,
                owner=owner,
                lease=lease,
                nonce=nonce,
                digest=request.digest,
                identity=identity,
                request=request.head,
                secrets=request.secrets,
                body=request.body,
            )

            return rows[0][0] if rows else self._begun(connection, execution_id, nonce)

        try:
            return self.database.run(insert)
        except JournalUnavailable as error:
            error.unknown = sent
            raise

    def _begun(self, connection: sa.Connection, execution_id: str, nonce: str) -> float:
        """Give the database's time if this very write was there before."""
        if not self._wrote_execution(connection, execution_id, nonce):
            raise LeaseLostError(f"Execution {execution_id} is somebody else's.")

        found = self.sql.execution(connection, execution_id=execution_id)
        return t.cast(float, found[0].now)

    def claim(
        self, execution_id: str, attempt: int, owner: str, lease: float
    ) -> Execution | None:
        """Begin an attempt, if it is due and nobody else began it.

        :param attempt: the new attempt's number
        """
        self.check()
        nonce = new_nonce()
        key = {"execution_id": execution_id}

        def update(connection: sa.Connection) -> Rows:
            rows = self.sql.claim(
                connection,
                attempt=attempt,
                owner=owner,
                lease=lease,
                nonce=nonce,
                **key,
            )

            if not rows and self._wrote(self.sql.nonce(connection, **key), nonce):
                return self.sql.execution(connection, **key)

            return rows

        rows = self.database.run(update)
        return Execution(*rows[0]) if rows else None

    def record(self, execution_id: str, attempt: int, step: StepRecord) -> None:
        """Commit a step's outcome or mark.

        :raises LeaseLostError: if another attempt took over
        :raises JournalLostError: if the database stays away
        """
        nonce = new_nonce()
        values = _step_values(step) | {"attempt": attempt}

        def insert(connection: sa.Connection) -> bool:
            key = {"execution_id": execution_id, "id": step.id}
            rows = self.sql.record(
                connection, execution_id=execution_id, nonce=nonce, **values
            )
            return bool(rows) or self._wrote(
                self.sql.step_nonce(connection, **key), nonce
            )

        self._fenced(insert, execution_id, attempt)

    def mark_running(self, execution_id: str, attempt: int, step: StepRecord) -> None:
        """Show that a step's try has begun, unless it has ended by now."""
        names = ("id", "kind", "tries", "position", "started_at")
        self.ask(
            self.sql.mark_running,
            execution_id=execution_id,
            attempt=attempt,
            nonce=new_nonce(),
            **{name: getattr(step, name) for name in names},
        )

    def suspend(
        self,
        execution_id: str,
        attempt: int,
        ready_at: float,
        mark: StepRecord | None = None,
        errors: int = 0,
        error: bytes | None = None,
    ) -> None:
        """End an attempt and have the next one start at a given time.

        :param mark: a step's mark to commit with it
        :param errors: how many attempts in a row ended in an error
        """
        nonce = new_nonce()
        key = {"execution_id": execution_id, "attempt": attempt}

        def update(connection: sa.Connection) -> bool:
            with self.database.transaction(connection):
                rows = self.sql.suspend(
                    connection,
                    ready_at=ready_at,
                    errors=errors,
                    error=error,
                    nonce=nonce,
                    **key,
                )

                # The execution comes first: who writes steps locks it as well.
                if rows and mark is not None:
                    values = _step_values(mark) | key
                    self.sql.mark(connection, nonce=nonce, **values)

            return bool(rows) or self._wrote_execution(connection, execution_id, nonce)

        self._fenced(update, execution_id, attempt)

    def finish(
        self,
        execution_id: str,
        attempt: int,
        status: ExecutionStatus,
        response: ResponseRecord | None,
        error: bytes | None = None,
    ) -> None:
        """End an execution with its final response."""
        nonce = new_nonce()

        def update(connection: sa.Connection) -> bool:
            rows = self.sql.finish(
                connection,
                execution_id=execution_id,
                attempt=attempt,
                status=status,
                nonce=nonce,
                **response_values(response, error),
            )
            return bool(rows) or self._wrote_execution(connection, execution_id, nonce)

        self._fenced(update, execution_id, attempt)

    def _fenced(
        self,
        write: cabc.Callable[[sa.Connection], bool],
        execution_id: str,
        attempt: int,
    ) -> None:
        try:
            written = self.database.run(write, OUTAGE_PATIENCE)
        except JournalUnavailable as error:
            raise JournalLostError(
                f"Attempt {attempt} of execution {execution_id} ends: its journal"
                f" stayed away for {OUTAGE_PATIENCE:g} s. A later attempt goes on."
            ) from error

        if not written:
            raise LeaseLostError(
                f"Attempt {attempt} of execution {execution_id} ends: another attempt"
                " took over, or the execution has ended."
            )

    def _wrote(self, found: Rows, nonce: str) -> bool:
        """Tell whether a row's last write was this one."""
        return bool(found) and found[0][0] == nonce

    def _wrote_execution(
        self, connection: sa.Connection, execution_id: str, nonce: str
    ) -> bool:
        found = self.sql.nonce(connection, execution_id=execution_id)
        return self._wrote(found, nonce)

    # Reading

    def execution(self, execution_id: str) -> Execution:
        """Read an execution.

        :raises ExecutionNotFound: if there is none with this id
        """
        return Execution(*self._one(self.sql.execution, execution_id))

    def replay(self, execution_id: str) -> ReplayRecord:
        """Read what a replay's ticket must agree with, and whose it is."""
        return ReplayRecord(*self._one(self.sql.replay, execution_id))

    def outgoing(self, execution_id: str) -> Outgoing:
        """Read the captured request, and whether an attempt may begin."""
        row = self._one(self.sql.outgoing, execution_id)
        request = RequestRecord(row.request, row.secrets, row.body, row.digest)
        head = (row.app, row.status, row.attempt, row.rejections, bool(row.due))
        return Outgoing(*head, request)

    def response(self, execution_id: str) -> ResponseRecord | None:
        """Read the final response, if there is one."""
        head, body = self._one(self.sql.response, execution_id)
        return None if head is None else ResponseRecord(head, body)

    def journal(self, execution_id: str) -> list[StepRecord]:
        """Read all steps in the order of their first calls."""
        rows = self.ask(self.sql.journal, execution_id=execution_id)
        return [StepRecord(*row) for row in rows]

    def newest_steps(self, execution_id: str, limit: int) -> list[StepRecord]:
        """Read the newest steps, oldest first, without errors and outputs.

        Those that have no outcome yet are always among them.
        """
        rows = self.ask(self.sql.newest_steps, execution_id=execution_id, limit=limit)
        steps = [StepRecord(*row) for row in rows]
        return sorted(steps, key=lambda step: step.position)

    def _one(self, statement: Statement, execution_id: str) -> t.Any:
        rows = self.ask(statement, execution_id=execution_id)

        if not rows:
            raise ExecutionNotFound(f"There is no execution {execution_id}.")

        return rows[0]


def _step_values(step: StepRecord) -> dict[str, t.Any]:
    return {name: getattr(step, name) for name in StepRecord.__dataclass_fields__}


def response_values(
    response: ResponseRecord | None, error: bytes | None
) -> dict[str, t.Any]:
    return {
        "error": error,
        "response": response.head if response else None,
        "response_body": response.body if response else None,
    }
