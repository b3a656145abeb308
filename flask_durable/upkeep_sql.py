"""SQL of the upkeep: leases, and executions that are due."""

from __future__ import annotations

import sqlalchemy as sa

from . import history
from .database import Database
from .sql import db_now
from .sql import param
from .statements import ended
from .statements import ENDED_COLUMNS
from .statements import Select
from .step_sql import CLAIMABLE
from .step_sql import column_param
from .step_sql import constant
from .step_sql import MARKS
from .step_sql import mine
from .step_sql import RUNNING
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


def renew(count: int) -> sa.Update:
    """Renew leases; rows are locked in the order of ids, in which batches lock, too."""
    end = db_now() + param("lease", sa.Double())
    held = (
        sa.select(e.c.id)
        .where(
            e.c.id.in_([param(f"id_{n}", sa.Text()) for n in range(count)]),
            e.c.owner == param("owner", sa.Text()),
            e.c.status == RUNNING,
        )
        .order_by(e.c.id)
        .with_for_update()
        .cte("held")
    )
    return (
        e.update()
        .where(e.c.id.in_(sa.select(held.c.id)))
        .values(ready_at=end, due_at=end, looks=0)
        .returning(e.c.id, e.c.attempt)
    )


def _next_due() -> Select:
    first = sa.select(sa.func.min(e.c.due_at)).where(
        e.c.app == column_param(e.c.app), e.c.due_at.is_not(None)
    )
    return sa.select(db_now(), first.scalar_subquery())


def _as_seen() -> sa.ColumnElement[bool]:
    """The lease still has the owner that was seen, and was not renewed since."""
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
    """No attempt has followed this one yet, although the next one may begin."""
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
    """Take due executions; they become due again only after a while."""
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
