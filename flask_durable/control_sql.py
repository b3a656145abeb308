"""SQL of what operators do to executions."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from . import history
from .database import Database
from .records import AFTER_FAILURE
from .sql import db_now
from .sql import param
from .statements import ended
from .statements import ENDED_COLUMNS
from .statements import EXECUTION_COLUMNS
from .statements import Select
from .step_sql import CLAIMABLE
from .step_sql import column_param
from .step_sql import constant
from .step_sql import SUSPENDED
from .tables import executions as e
from .tables import steps as s


class ControlStatements:
    """The statements of operators, for one database."""

    def __init__(self, database: Database) -> None:
        prepare = database.prepare
        self.ask_to_end = prepare(_ask_to_end)
        self.cancel = prepare(_cancel)
        self.children = prepare(_children)
        self.ended_children = prepare(_ended_children)
        self.resume = prepare(_resume)
        self.free = prepare(_free)
        self.free_handler = prepare(_free_handler)
        self.forget_steps = prepare(_forget_steps)
        self.copy = prepare(_copy)
        self.copy_steps = prepare(_copy_steps)
        self.find = prepare(_find)
        self.count = prepare(_count)
        self.lateness = prepare(_lateness)


def _mine() -> sa.ColumnElement[bool]:
    return e.c.id == param("execution_id", sa.Text())


def _ask_to_end() -> sa.Update:
    """Mark an execution as to be cancelled: whoever looks at it next ends it."""
    waits = e.c.status.in_(CLAIMABLE)
    return (
        e.update()
        .where(_mine(), e.c.finished_at.is_(None))
        .values(
            cancel_requested=1,
            wakes=e.c.wakes + 1,
            ready_at=sa.case((waits, db_now()), else_=e.c.ready_at),
            due_at=sa.case((waits, db_now()), else_=e.c.due_at),
        )
        .returning(e.c.status)
    )


def _cancel() -> sa.Update:
    return (
        e.update()
        .where(_mine(), e.c.status.in_(CLAIMABLE))
        .values(status=constant("cancelled"), **ended())
        .returning(*ENDED_COLUMNS)
    )


def _children() -> Select:
    return sa.select(e.c.id).where(
        e.c.parent_id == param("execution_id", sa.Text()),
        e.c.role == constant("view"),
        e.c.finished_at.is_(None),
    )


def _ended_children() -> Select:
    return sa.select(*EXECUTION_COLUMNS).where(
        e.c.parent_id == param("execution_id", sa.Text()),
        e.c.role == constant("view"),
        e.c.finished_at.is_not(None),
    )


def _free() -> sa.Update:
    """Detach an ended child from its parent's step, to make way for another child."""
    return (
        e.update()
        .where(_mine(), e.c.finished_at.is_not(None))
        .values(parent_step=None)
        .returning(e.c.id)
    )


def _free_handler() -> sa.Update:
    """Detach a failure handler, so that the next failure gets one, too."""
    return (
        e.update()
        .where(
            e.c.parent_id == param("execution_id", sa.Text()),
            e.c.parent_step == constant(AFTER_FAILURE),
        )
        .values(parent_step=None)
        .returning(e.c.id)
    )


def _resume() -> sa.Update:
    now = db_now()
    return (
        e.update()
        .where(
            _mine(),
            # Only if nothing has run since the journal was looked at.
            e.c.attempt == column_param(e.c.attempt),
            e.c.status == constant("failed"),
        )
        .values(
            status=SUSPENDED,
            nonce=column_param(e.c.nonce),
            ready_at=now,
            due_at=now,
            finished_at=None,
            history=history.note(history.ENDED, when=e.c.finished_at),
            error=None,
            response=None,
            response_body=None,
            deadline_at=None,
            cancel_requested=0,
            wakes=e.c.wakes + 1,
            crashes=0,
            errors=0,
            rejections=0,
            refusals=0,
        )
        .returning(e.c.id)
    )


def _forget_steps() -> t.Any:
    return (
        s.delete()
        .where(
            s.c.execution_id == param("execution_id", sa.Text()),
            s.c.position.between(
                param("low", sa.Integer()), param("high", sa.Integer())
            ),
            sa.or_(
                param("failed", sa.Integer()) == sa.literal_column("0"),
                s.c.status == constant("failed"),
            ),
        )
        .returning(s.c.id)
    )


def _copy() -> t.Any:
    """Store a new execution with another one's request."""
    now = db_now()
    copied = (e.c.app, e.c.endpoint, e.c.digest, e.c.identity, e.c.request, e.c.body)
    values = {
        e.c.id: column_param(e.c.id),
        e.c.nonce: column_param(e.c.nonce),
        e.c.status: constant("pending"),
        e.c.ready_at: now,
        e.c.due_at: now,
        e.c.created_at: now,
        **{column: column for column in (*copied, e.c.on_failure)},
    }
    zeros = (e.c.attempt, e.c.looks, e.c.crashes, e.c.errors, e.c.rejections)
    values |= {column: sa.literal_column("0") for column in (*zeros, e.c.refusals)}
    source = sa.select(*values.values()).where(e.c.id == param("of", sa.Text()))
    # Locked, so that nobody deletes it before its steps are copied as well.
    source = source.with_for_update(read=True)
    names = [column.name for column in values]
    return sa.insert(e).from_select(names, source).returning(e.c.id)


def _copy_steps() -> t.Any:
    others = [column for column in s.c if column.name not in ("execution_id", "event")]
    source = sa.select(param("id", sa.Text()), *others).where(
        s.c.execution_id == param("of", sa.Text()),
        s.c.position < param("position", sa.Integer()),
        s.c.finished_at.is_not(None),
    )
    names = ["execution_id", *(column.name for column in others)]
    return sa.insert(s).from_select(names, source).returning(s.c.id)


def _find() -> Select:
    def fits(column: sa.Column[t.Any], value: sa.ColumnElement[t.Any]) -> t.Any:
        return sa.or_(value.is_(None), column == value)

    before = param("before", sa.Text())
    return (
        sa.select(*EXECUTION_COLUMNS)
        .where(
            e.c.app == column_param(e.c.app),
            fits(e.c.status, column_param(e.c.status)),
            fits(e.c.endpoint, column_param(e.c.endpoint)),
            sa.or_(before.is_(None), e.c.id < before),
        )
        .order_by(e.c.id.desc())
        .limit(param("limit", sa.Integer()))
    )


def _count() -> Select:
    return (
        sa.select(e.c.endpoint, e.c.status, sa.func.count())
        .where(e.c.app == column_param(e.c.app))
        .group_by(e.c.endpoint, e.c.status)
        .order_by(e.c.endpoint, e.c.status)
    )


def _lateness() -> Select:
    return sa.select(db_now() - sa.func.min(e.c.ready_at)).where(
        e.c.app == column_param(e.c.app),
        e.c.due_at.is_not(None),
        e.c.status.in_(CLAIMABLE),
    )
