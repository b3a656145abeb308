"""Upkeep of executions that are due or whose process died: leases and sweeps."""

from __future__ import annotations

import collections.abc as cabc
import functools
import typing as t

import sqlalchemy as sa

from .errors import ExecutionNotFound
from .follow_ups import FollowUps
from .ids import new_nonce
from .notices import Notices
from .notices import Reason
from .records import Due
from .records import EndedRow
from .records import Held
from .records import ResponseRecord
from .records import StepRecord
from .sql import Statement
from .store import response_values
from .store import Store
from .upkeep_sql import renew
from .upkeep_sql import UpkeepStatements


class Upkeep:
    """What heartbeats, sweepers and replays do with executions.

    Nothing here waits out an outage of the database: it is tried again soon.
    """

    def __init__(self, store: Store, notices: Notices | None = None) -> None:
        self._store = store
        self._notices = notices or Notices()
        self._follow_ups = FollowUps(store)
        self._sql = UpkeepStatements(store.database)

    def renew(
        self, owner: str, execution_ids: cabc.Sequence[str], lease: float
    ) -> dict[str, int]:
        """Renew the leases that an owner still holds, and return their attempts."""
        # Padded, so that few different statements are compiled.
        count = 1 << (len(execution_ids) - 1).bit_length()
        ids: dict[str, t.Any] = {
            f"id_{n}": execution_ids[n % len(execution_ids)] for n in range(count)
        }
        statement = self._store.database.prepare(renew, count)
        rows = self._store.ask(statement, owner=owner, lease=lease, **ids)
        return {row.id: row.attempt for row in rows}

    def mark_running(self, execution_id: str, attempt: int, step: StepRecord) -> None:
        """Mark a step as running, unless its try has ended by now."""
        names = ("id", "kind", "tries", "position", "started_at")
        self._store.ask(
            self._store.sql.mark_running,
            execution_id=execution_id,
            attempt=attempt,
            nonce=new_nonce(),
            **{name: getattr(step, name) for name in names},
        )

    def owners(self) -> list[str]:
        """Name the owners of all running attempts."""
        return [row[0] for row in self._store.ask(self._sql.owners)]

    def held(self, owner: str) -> list[Held]:
        """List an owner's running attempts."""
        return [Held(*row) for row in self._store.ask(self._sql.held, owner=owner)]

    def release(
        self, held: Held, owner: str, crashes: int, delay: float, why: Reason = "crash"
    ) -> bool:
        """Take a running attempt from its owner, so that the next may begin."""
        rows = self._store.ask(
            self._sql.release,
            nonce=new_nonce(),
            crashes=crashes,
            delay=delay,
            **_held_values(held, owner),
        )

        if rows:
            changed = {"ready_at": rows[0].ready_at, "attempt": held.attempt}
            execution = functools.partial(self._store.execution, held.id)
            self._notices.suspended(why, execution, **changed)

        return bool(rows)

    def give_up(self, held: Held, owner: str, crashes: int, error: bytes) -> bool:
        """End an execution as failed whose attempts kill their process."""
        return self._end(
            self._sql.give_up,
            crashes=crashes,
            **response_values(None, error),
            **_held_values(held, owner),
        )

    def _end(self, statement: Statement, /, **values: t.Any) -> bool:
        """End an execution, and do what follows."""
        try:
            execution = self._store.execution(values["execution_id"])
        except ExecutionNotFound:
            return False

        def work(connection: sa.Connection) -> bool:
            with self._store.database.transaction(connection):
                parent = (execution.parent_id, execution.parent_step)
                self._follow_ups.lock(connection, *parent)
                rows = statement(connection, nonce=new_nonce(), **values)

                if rows:
                    self._follow_ups(connection, EndedRow(*rows[0]))

            return bool(rows)

        done = self._store.database.run(work)

        if done:
            self._notices.ended(execution, "failed", values["error"])

        return done

    def sweep(self, limit: int, patience: float, second_look: float) -> list[Due]:
        """Take up to ``limit`` due executions.

        :param patience: seconds until those that nobody claims are due again
        :param second_look: the same for running ones, whose lease ran out
        """
        rows = self._store.ask(
            self._sql.sweep,
            app=self._store.app,
            limit=limit,
            patience=patience,
            second_look=second_look,
        )
        return [Due(*row) for row in rows]

    def next_due(self) -> float | None:
        """Return the seconds until an execution is due, by the database's clock."""
        now, due = self._store.ask(self._sql.next_due, app=self._store.app)[0]
        return None if due is None else due - now

    def reject(
        self, execution_id: str, attempt: int, delay: float, refused: bool
    ) -> bool:
        """Put off an unclaimed execution, and count whether it was refused."""
        rows = self._store.ask(
            self._sql.reject,
            app=self._store.app,
            execution_id=execution_id,
            attempt=attempt,
            delay=delay,
            refused=int(refused),
        )
        return bool(rows)

    def refuse(
        self,
        execution_id: str,
        attempt: int,
        response: ResponseRecord | None,
        error: bytes,
    ) -> bool:
        """End an unclaimed execution as failed, if need be without a response."""
        return self._end(
            self._sql.refuse,
            execution_id=execution_id,
            attempt=attempt,
            **response_values(response, error),
        )


def _held_values(held: Held, owner: str) -> dict[str, t.Any]:
    return {
        "execution_id": held.id,
        "attempt": held.attempt,
        "ready_at": held.ready_at,
        "owner": owner,
    }
