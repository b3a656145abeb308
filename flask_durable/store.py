"""The writes of attempts to the journal; every one is fenced."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import math
import typing as t
from contextlib import nullcontext

import sqlalchemy as sa

from .beginner import Beginner
from .blobs import Rows
from .errors import JournalLostError
from .errors import JournalUnavailable
from .errors import LeaseLostError
from .ids import new_nonce
from .records import EndedRow
from .records import ExecutionStatus
from .records import Marked
from .records import ResponseRecord
from .records import StepRecord
from .records import Wait
from .shared import do_work
from .shared import shared_transaction
from .shared import WorkError
from .sql import Bound

OUTAGE_PATIENCE = 30.0
"""Seconds for which an attempt's writes wait for a database that is away."""


class FollowUp(t.Protocol):
    """Does what follows an execution's end, in the transaction that ends it."""

    def lock(
        self, connection: sa.Connection, parent_id: str | None, step: str | None
    ) -> None:
        """Lock what it will write to, before the row that ends."""

    def __call__(self, connection: sa.Connection, ended: EndedRow) -> None:
        """Do it."""


class Store(Beginner):
    """The journal in one database."""

    def record(self, execution_id: str, attempt: int, step: StepRecord) -> bool:
        """Commit a step's outcome or mark.

        :return: whether the execution was asked to end
        :raises LeaseLostError: if another attempt took over
        :raises JournalLostError: if the database stays away
        """
        nonce = new_nonce()
        bound = self.sql.bind_record((*step, execution_id, attempt, nonce))
        written = self.commits.write(execution_id, bound)

        if written and written[0]:
            return False

        return self._record_alone(execution_id, attempt, step, nonce)

    def record_all(
        self, execution_id: str, attempt: int, given: cabc.Sequence[Marked]
    ) -> bool:
        """Do the same with several outcomes in one commit."""
        bind, key = self.sql.bind_record, (execution_id, attempt)
        bounds = [bind((*step, *key, nonce)) for step, nonce in given]
        written = self.commits.write(execution_id, *bounds) or [[]] * len(given)
        asked = [
            self._record_alone(execution_id, attempt, *each)
            for each, rows in zip(given, written, strict=True)
            if not rows
        ]
        return any(asked)

    def _record_alone(
        self, execution_id: str, attempt: int, step: StepRecord, nonce: str
    ) -> bool:
        def wrote(connection: sa.Connection) -> bool:
            return self._wrote_step(connection, execution_id, step.id, nonce)

        # Not written: it was asked to end, another attempt took over, or an outage.
        key = {"execution_id": execution_id, "attempt": attempt, "nonce": nonce}
        bound = self.sql.record_and_ask.bind(step._asdict() | key)
        rows = self._commit_alone(execution_id, attempt, wrote, bound)
        return bool(rows and rows[0][0])

    def transact(
        self,
        execution_id: str,
        attempt: int,
        work: cabc.Callable[[sa.Connection], StepRecord],
    ) -> tuple[StepRecord, bool]:
        """Commit a step's outcome in one transaction with the work that gives it.

        :param work: may be called again if the connection breaks, but is committed
            once
        :return: the outcome, and whether the execution was asked to end
        :raises LeaseLostError: if another attempt took over; nothing is committed
        :raises JournalLostError: if the database stays away
        """
        nonce = new_nonce()
        done: list[StepRecord] = []
        asked = False

        def run(connection: sa.Connection) -> bool:
            nonlocal asked

            if done and self._wrote_step(connection, execution_id, done[-1].id, nonce):
                return True

            with shared_transaction(self.database, connection) as ensure_open:
                step = do_work(work, connection)
                ensure_open()
                done.append(step)
                values = step._asdict() | {"attempt": attempt, "nonce": nonce}
                # Last, so that the execution's row is locked for a moment only.
                rows = self.sql.record_and_ask(
                    connection, execution_id=execution_id, **values
                )

                if not rows:
                    raise _fence_error(execution_id, attempt)

                asked = bool(rows[0][0])

            return True

        try:
            self._fenced(run, execution_id, attempt)
        except WorkError as failed:
            raise failed.error from None

        return done[-1], asked

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

        :param ready_at: the time; infinite if only a wake-up ends the suspension
        :param mark: a step's mark to commit with it
        :param errors: how many attempts in a row ended in an error
        :param wakes: how often it had been woken when the attempt began
        :param waits: the events that it waits for
        """
        nonce = new_nonce()
        key = {"execution_id": execution_id, "attempt": attempt, "nonce": nonce}
        values = key | {
            "ready_at": None if math.isinf(ready_at) else ready_at,
            "errors": errors,
            "error": error,
        }
        # The execution's row comes first, because writing a step locks it, too.
        marks = [self.sql.mark.bind(mark._asdict() | key)] if mark else []
        topics = sorted(waits, key=lambda wait: wait.topic)

        def wrote(connection: sa.Connection) -> bool:
            return self._wrote_execution(connection, execution_id, nonce)

        def work(connection: sa.Connection) -> bool:
            return self._suspend_waiting(connection, topics, wakes, values, marks)

        if topics:
            self._fenced(lambda c: work(c) or wrote(c), execution_id, attempt)
        else:
            update = self.sql.suspend.bind(values | {"wakes": wakes})
            self._commit(execution_id, attempt, wrote, update, *marks)

    def _suspend_waiting(
        self,
        connection: sa.Connection,
        topics: list[Wait],
        wakes: int,
        values: dict[str, t.Any],
        marks: list[Bound],
    ) -> bool:
        with self.database.transaction(connection):
            # With a number that the counter never has, it counts as woken.
            woken = -1 if self._any_event(connection, topics) else wakes
            rows = self.sql.suspend(connection, wakes=woken, **values)

            for bound in marks:
                bound.run(connection)

        return bool(rows)

    def _any_event(self, connection: sa.Connection, waits: cabc.Iterable[Wait]) -> bool:
        """Tell whether one of several events is there. No other can be sent until we
        commit, and then its sender sees the wait."""
        found = False

        for wait in waits:
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
        follow_up: FollowUp | None = None,
        parent: tuple[str | None, str | None] = (None, None),
    ) -> None:
        """End an execution with its final response.

        :param follow_up: what commits together with the end, if anything
        :param parent: the execution and the step that began it, if any did
        """
        nonce = new_nonce()
        bound = self.sql.finish.bind(
            {
                "execution_id": execution_id,
                "attempt": attempt,
                "status": status,
                "nonce": nonce,
                **response_values(response, error),
            }
        )

        def wrote(connection: sa.Connection) -> bool:
            return self._wrote_execution(connection, execution_id, nonce)

        if follow_up is None:
            self._commit(execution_id, attempt, wrote, bound)
            return

        def work(connection: sa.Connection) -> bool:
            with self.database.transaction(connection):
                follow_up.lock(connection, *parent)
                rows = bound.run(connection)

                if rows:
                    follow_up(connection, EndedRow(*rows[0]))

            return bool(rows) or wrote(connection)

        self._fenced(work, execution_id, attempt)

    def _commit(
        self,
        execution_id: str,
        attempt: int,
        wrote: cabc.Callable[[sa.Connection], bool],
        *bounds: Bound,
    ) -> Rows:
        """Commit statements of which the first is fenced, and give its rows.

        :param wrote: tells whether it was committed before, and its answer lost
        """
        written = self.commits.write(execution_id, *bounds)

        if written and written[0]:
            return written[0]

        return self._commit_alone(execution_id, attempt, wrote, *bounds)

    def _commit_alone(
        self,
        execution_id: str,
        attempt: int,
        wrote: cabc.Callable[[sa.Connection], bool],
        *bounds: Bound,
    ) -> Rows:
        """Do the same without other threads' writes, and wait out an outage."""
        found: Rows = []

        def work(connection: sa.Connection) -> bool:
            nonlocal found
            single = len(bounds) == 1

            with nullcontext() if single else self.database.transaction(connection):
                found = [bound.run(connection) for bound in bounds][0]

            return bool(found) or wrote(connection)

        self._fenced(work, execution_id, attempt)
        return found

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


def _fence_error(execution_id: str, attempt: int) -> LeaseLostError:
    return LeaseLostError(
        f"Attempt {attempt} of execution {execution_id} ends: another attempt"
        " took over, or the execution has ended."
    )


def response_values(
    response: ResponseRecord | None, error: bytes | None
) -> dict[str, t.Any]:
    return {
        "error": error,
        "response": response.head if response else None,
        "response_body": response.body if response else None,
    }
