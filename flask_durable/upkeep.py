"""Upkeep of executions that are due or whose process died: leases and sweeps."""

from __future__ import annotations

import collections.abc as cabc
import functools
import typing as t

import sqlalchemy as sa

from . import history
from .database import Database
from .errors import ExecutionNotFound
from .follow_ups import FollowUps
from .ids import new_nonce
from .notices import Notices
from .notices import Reason
from .records import Due
from .records import EndedRow
from .records import Held
from .records import ResponseRecord
from .sql import db_now
from .sql import param
from .sql import Statement
from .statements import ended
from .statements import ENDED_COLUMNS
from .statements import Select
from .step_sql import CLAIMABLE
from .step_sql import column_param
from .step_sql import constant
from .step_sql import MARKS
from .step_sql import mine
from .step_sql import RUNNING
from .store import response_values
from .store import Store
from .tables import executions as e
from .tables import steps as s


class UpkeepStatements:
    """The statements of upkeep, for one database."""

    def __init__(self, database: Database) -> None:
        prepare = database.prepare
        self.release = prepare(_release)
        self.give_up = prepare(_give_up)
        self.reject = prepare(_reject)
        self.refuse = prepare(_refuse)
        self.owners = prepare(_owners)
        self.held = prepare(_held)
        self.next_due = prepare(_next_due)
        self.sweep = prepare(_sweep)


class Upkeep:
    """What heartbeats, sweepers and replays do to executions.

    None of it waits for a database that is away: it is done again soon.
    """

    def __init__(self, store: Store, notices: Notices | None = None) -> None:
        self._store = store
        self._notices = notices or Notices()
        self._follow_ups = FollowUps(store)
        self._sql = UpkeepStatements(store.database)

    def renew(
        self, owner: str, execution_ids: cabc.Sequence[str], lease: float
    ) -> dict[str, int]:
        """Renew the leases that an owner still holds, and give their attempts."""
        # Padded, so that few different statements are compiled.
        count = 1 << (len(execution_ids) - 1).bit_length()
        ids: dict[str, t.Any] = {
            f"id_{n}": execution_ids[n % len(execution_ids)] for n in range(count)
        }
        statement = self._store.database.prepare(_renew, count)
        rows = self._store.ask(statement, owner=owner, lease=lease, **ids)
        return {row.id: row.attempt for row in rows}

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
        """Take up to so many executions that are due.

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
        """Give the seconds until the next execution is due, by its database."""
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
        self, execution_id: str, attempt: int, response: ResponseRecord, error: bytes
    ) -> bool:
        """End an unclaimed execution as failed with what the app answered."""
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


def _renew(count: int) -> sa.Update:
    end = db_now() + param("lease", sa.Double())
    return (
        e.update()
        .where(
            e.c.id.in_([param(f"id_{n}", sa.Text()) for n in range(count)]),
            e.c.owner == param("owner", sa.Text()),
            e.c.status == RUNNING,
        )
        .values(ready_at=end, due_at=end, looks=0)
        .returning(e.c.id, e.c.attempt)
    )


def _next_due() -> Select:
    first = sa.select(sa.func.min(e.c.due_at)).where(
        e.c.app == column_param(e.c.app), e.c.due_at.is_not(None)
    )
    return sa.select(db_now(), first.scalar_subquery())


def _as_seen() -> sa.ColumnElement[bool]:
    """The lease is still the owner's that was seen, and not renewed since."""
    return sa.and_(
        e.c.owner == param("owner", sa.Text()),
        e.c.ready_at == param("ready_at", sa.Double()),
    )


def _release() -> sa.Update:
    """Make a running attempt that its owner lost ready for the next one."""
    ready = db_now() + param("delay", sa.Double())
    return (
        e.update()
        .where(mine(), _as_seen())
        .values(
            status=constant("suspended"),
            nonce=column_param(e.c.nonce),
            ready_at=ready,
            due_at=ready,
            crashes=column_param(e.c.crashes),
            history=history.note(history.LOST),
        )
        .returning(e.c.id, e.c.ready_at)
    )


def _give_up() -> sa.Update:
    """End an execution whose attempts kill their process."""
    return (
        e.update()
        .where(mine(), _as_seen())
        .values(status=constant("failed"), crashes=column_param(e.c.crashes), **ended())
        .returning(*ENDED_COLUMNS)
    )


def _unclaimed() -> sa.ColumnElement[bool]:
    """No attempt followed this one yet, although it could have."""
    return sa.and_(
        e.c.id == param("execution_id", sa.Text()),
        e.c.attempt == param("attempt", sa.Integer()),
        e.c.status.in_(CLAIMABLE),
        e.c.ready_at <= db_now(),
    )


def _refuse() -> sa.Update:
    """End an execution whose replays the app turns away."""
    return (
        e.update()
        .where(_unclaimed())
        .values(status=constant("failed"), **ended())
        .returning(*ENDED_COLUMNS)
    )


def _reject() -> sa.Update:
    """Put off an execution whose replay did not reach its endpoint."""
    ready = db_now() + param("delay", sa.Double())
    return (
        e.update()
        .where(_unclaimed(), e.c.app == column_param(e.c.app))
        .values(
            ready_at=ready,
            due_at=ready,
            rejections=e.c.rejections + 1,
            refusals=e.c.refusals + param("refused", sa.Integer()),
        )
        .returning(e.c.id)
    )


def _owners() -> Select:
    return sa.select(e.c.owner).where(e.c.status == RUNNING).distinct()


def _held() -> Select:
    progressed = (
        sa.select(s.c.id)
        .where(
            s.c.execution_id == e.c.id,
            s.c.attempt == e.c.attempt,
            s.c.status.not_in(MARKS),
        )
        .exists()
    )
    return (
        sa.select(
            e.c.id,
            e.c.attempt,
            e.c.ready_at,
            e.c.crashes,
            sa.case((progressed, 1), else_=0),
        )
        .where(e.c.status == RUNNING, e.c.owner == param("owner", sa.Text()))
        .order_by(e.c.id)
    )


def _sweep() -> sa.Update:
    """Take the executions that are due, and look again only after a while."""
    found = (
        sa.select(e.c.id)
        .where(e.c.app == column_param(e.c.app), e.c.due_at <= db_now())
        .order_by(e.c.due_at)
        .limit(param("limit", sa.Integer()))
        .with_for_update(skip_locked=True)
        .cte("found")
    )
    again = sa.case(
        (e.c.status == RUNNING, param("second_look", sa.Double())),
        else_=param("patience", sa.Double()),
    )
    return (
        e.update()
        .where(e.c.id.in_(sa.select(found.c.id)))
        .values(due_at=db_now() + again, looks=e.c.looks + 1)
        .returning(
            e.c.id,
            e.c.status,
            e.c.attempt,
            e.c.owner,
            e.c.ready_at,
            e.c.looks,
            e.c.rejections,
        )
    )
