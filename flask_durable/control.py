"""What operators do to executions: list, cancel, resume, rerun, delete."""

from __future__ import annotations

import sqlalchemy as sa

from .control_sql import ControlStatements
from .errors import ControlError
from .errors import ExecutionNotFound
from .follow_ups import FollowUps
from .ids import new_id
from .ids import new_nonce
from .notices import Notices
from .purge import Purge
from .records import EndedRow
from .records import Execution
from .records import Failure
from .resuming import Resuming
from .store import response_values
from .store import Store

CANCELLED = Failure("flask_durable.errors.Cancelled", "It was cancelled.").encode()


class Control:
    """The operations on executions, whichever process runs these."""

    def __init__(self, store: Store, notices: Notices | None = None) -> None:
        self._store = store
        self._notices = notices or Notices()
        self._follow_ups = FollowUps(store)
        self._sql = ControlStatements(store.database)
        self._resuming = Resuming(store, self._sql)
        self._purge = Purge(store)

    def find(
        self, status: str | None, endpoint: str | None, before: str | None, limit: int
    ) -> list[Execution]:
        """Read executions, the newest first.

        :param before: only those that are older than this one
        """
        rows = self._store.ask(
            self._sql.find,
            app=self._store.app,
            status=status,
            endpoint=endpoint,
            before=before,
            limit=limit,
        )
        return [Execution(*row) for row in rows]

    def count(self) -> list[tuple[str, str, int]]:
        """Count executions by endpoint and status."""
        rows = self._store.ask(self._sql.count, app=self._store.app)
        return [tuple(row) for row in rows]

    def lateness(self) -> float:
        """Return for how many seconds the longest overdue execution has been due."""
        rows = self._store.ask(self._sql.lateness, app=self._store.app)
        return max(0.0, rows[0][0] or 0.0)

    def cancel(self, execution_id: str) -> bool:
        """Cancel an execution: a running one ends at its next step, others at once.

        Its children end first. If the caller is killed in between, the next attempt
        finds the mark that was left, and does the rest.

        :return: whether it had not ended before
        """
        key = {"execution_id": execution_id}
        execution = self._store.execution(execution_id)

        if not self._store.ask(self._sql.ask_to_end, **key):
            return False

        self.cancel_children(execution_id)
        self._end(execution)
        return True

    def cancel_children(self, execution_id: str) -> None:
        """Cancel the children of an execution that have not ended."""
        for row in self._store.ask(self._sql.children, execution_id=execution_id):
            self.cancel(row.id)

    def _end(self, execution: Execution) -> None:
        def work(connection: sa.Connection) -> bool:
            with self._store.database.transaction(connection):
                parent = (execution.parent_id, execution.parent_step)
                self._follow_ups.lock(connection, *parent)
                rows = self._sql.cancel(
                    connection,
                    execution_id=execution.id,
                    nonce=new_nonce(),
                    **response_values(None, CANCELLED),
                )

                if rows:
                    self._follow_ups(connection, EndedRow(*rows[0]))

            return bool(rows)

        if self._store.database.run(work):
            self._notices.ended(execution, "cancelled", CANCELLED)

    def resume(self, execution_id: str, force: bool = False) -> None:
        """Let a failed execution go on where it failed.

        The step that failed last is tried again, as are those that failed in parallel
        to it, and the failed children that these began. An execution whose view had
        gone on after that, and failed because of something else, goes on from there.

        :param force: also if the view has recorded steps after the failure, which are
            then deleted. Also if its ``on_failure`` has not ended
        :raises ControlError: if it has not failed, or needs force
        """
        self._resuming(execution_id, force)

    def rerun(self, execution_id: str, from_step: str | None = None) -> str:
        """Begin a new execution with the same request, and return its id.

        :param from_step: keep what was recorded before this step
        :raises ExecutionNotFound: if there is none with this id
        :raises ControlError: if the journal has no such step, or if the execution is
            the failure handler of another
        """
        execution = self._store.execution(execution_id)

        if execution.role != "view":
            raise ControlError(
                f"Execution {execution_id} follows the failure of execution"
                f" {execution.parent_id}, and is not run again by itself: resume it if"
                f" it failed, or rerun {execution.parent_id}."
            )

        position = self._position(execution_id, from_step)
        mine, nonce = new_id(), new_nonce()

        def work(connection: sa.Connection) -> bool:
            with self._store.database.transaction(connection):
                # An earlier try may have been committed, its answer lost. The id is
                # proof enough; the nonce may differ, as it may be running by now.
                if self._store.sql.nonce(connection, execution_id=mine):
                    return True

                if self._sql.copy(connection, of=execution_id, id=mine, nonce=nonce):
                    self._sql.copy_steps(
                        connection, of=execution_id, id=mine, position=position
                    )
                    return True

            return False

        if not self._store.database.run(work):
            raise ExecutionNotFound(
                f"There is no execution {execution_id} any more: it was just purged."
            )

        return mine

    def _position(self, execution_id: str, name: str | None) -> int:
        if name is None:
            return 0

        for line in self._store.journal(execution_id):
            if line.id == name:
                return line.position

        raise ControlError(f'Execution {execution_id} has no step "{name}".')

    def purge(self, age: float) -> int:
        """Delete executions that ended longer ago than so many seconds.

        Events of that age are deleted, too. What others still wait for is kept.

        :return: how many executions
        """
        return self._purge.all(age)

    def purge_some(self, age: float) -> tuple[int, bool]:
        """Delete a batch of these.

        :return: how many executions, and whether there may be more to delete
        """
        return self._purge.some(age)
