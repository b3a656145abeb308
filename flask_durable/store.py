"""What an attempt tells the journal; every write is fenced."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import math
import typing as t

import sqlalchemy as sa

from .database import Rows
from .errors import JournalLostError
from .errors import JournalUnavailable
from .errors import LeaseLostError
from .ids import new_nonce
from .reader import Reader
from .records import Execution
from .records import ExecutionStatus
from .records import RequestRecord
from .records import ResponseRecord
from .records import StepRecord
from .records import Wait

OUTAGE_PATIENCE = 30.0
"""Seconds for which an attempt's writes wait for a database that is away."""


class Store(Reader):
    """The journal in one database."""

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
            rows = self.sql.record(
                connection, execution_id=execution_id, nonce=nonce, **values
            )
            return bool(rows) or self._wrote_step(
                connection, execution_id, step.id, nonce
            )

        self._fenced(insert, execution_id, attempt)

    def transact(
        self,
        execution_id: str,
        attempt: int,
        work: cabc.Callable[[sa.Connection], StepRecord],
    ) -> StepRecord:
        """Commit a step's outcome in one transaction with the work that gives it.

        :param work: may be done again if the connection breaks, but is committed
            once
        :raises LeaseLostError: if another attempt took over; nothing is committed
        :raises JournalLostError: if the database stays away
        """
        nonce = new_nonce()
        done: list[StepRecord] = []

        def run(connection: sa.Connection) -> bool:
            if done and self._wrote_step(connection, execution_id, done[-1].id, nonce):
                return True

            with self.database.shared_transaction(connection) as ensure_open:
                try:
                    step = work(connection)
                except Exception as error:
                    if connection.invalidated:
                        raise

                    raise _WorkError(error) from error

                ensure_open()
                done.append(step)
                values = _step_values(step) | {"attempt": attempt, "nonce": nonce}
                # Last, so that the execution's row is locked for a moment only.
                rows = self.sql.record(connection, execution_id=execution_id, **values)

                if not rows:
                    raise _fence_error(execution_id, attempt)

            return True

        try:
            self._fenced(run, execution_id, attempt)
        except _WorkError as failed:
            raise failed.error from None

        return done[-1]

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
        wakes: int = 0,
        waits: cabc.Iterable[Wait] = (),
    ) -> None:
        """End an attempt and have the next one start at a given time.

        It starts at once if something woke the execution since the attempt began.

        :param ready_at: the time; infinite if only a waker ends it
        :param mark: a step's mark to commit with it
        :param errors: how many attempts in a row ended in an error
        :param wakes: how often it had been woken when the attempt began
        :param waits: the events that it waits for
        """
        nonce = new_nonce()
        key = {"execution_id": execution_id, "attempt": attempt}

        def update(connection: sa.Connection) -> bool:
            with self.database.transaction(connection):
                there = self._any_event(connection, waits)
                rows = self.sql.suspend(
                    connection,
                    # A number that no counter has says that it was woken.
                    wakes=-1 if there else wakes,
                    ready_at=None if math.isinf(ready_at) else ready_at,
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

    def _any_event(self, connection: sa.Connection, waits: cabc.Iterable[Wait]) -> bool:
        """Tell whether one of several events is there; no other can come until we
        commit, by which senders see that it is waited for."""
        found = False

        for wait in sorted(waits, key=lambda wait: wait.topic):
            self.lock_topic(connection, wait.topic)
            values = dataclasses.asdict(wait)
            found = bool(self.sql.any_event(connection, **values)) or found

        return found

    def lock_topic(self, connection: sa.Connection, topic: str) -> None:
        """Keep others from sending to a topic, and from beginning to wait for it.

        A SQLite transaction has the whole file to itself.
        """
        if self.sql.lock_topic is not None:
            self.sql.lock_topic(connection, topic=topic)

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
            raise _fence_error(execution_id, attempt)

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


class _WorkError(Exception):
    """Carries an error of a user's function past the handling of outages."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _fence_error(execution_id: str, attempt: int) -> LeaseLostError:
    return LeaseLostError(
        f"Attempt {attempt} of execution {execution_id} ends: another attempt"
        " took over, or the execution has ended."
    )


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
