"""The journal's statements. Parameters are the names given to ``param``."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import sqlalchemy as sa

from . import history
from .database import Database
from .once import once
from .records import StepRecord
from .sql import Bound
from .sql import db_now
from .sql import param
from .sql import Values
from .step_sql import CLAIMABLE
from .step_sql import column_param
from .step_sql import constant
from .step_sql import mark_running
from .step_sql import MARKS
from .step_sql import mine
from .step_sql import record
from .step_sql import record_all
from .step_sql import record_and_ask
from .step_sql import RUNNING
from .step_sql import SUSPENDED
from .step_sql import unasked
from .tables import events
from .tables import executions as e
from .tables import steps as s

Select = t.Any
"""A query; SQLAlchemy 2.0 and 2.1 spell the types of its columns differently."""


EXECUTION_COLUMNS = (
    e.c.id,
    e.c.endpoint,
    e.c.status,
    e.c.attempt,
    e.c.owner,
    e.c.ready_at,
    e.c.created_at,
    e.c.finished_at,
    e.c.crashes,
    e.c.errors,
    e.c.rejections,
    e.c.refusals,
    e.c.error,
    db_now().label("now"),
    e.c.wakes,
    e.c.role,
    e.c.parent_id,
    e.c.parent_step,
    e.c.cancel_requested,
    e.c.on_failure,
    e.c.deadline_at,
)

ENDED_COLUMNS = (
    e.c.id,
    e.c.status,
    e.c.role,
    e.c.parent_id,
    e.c.parent_step,
    e.c.on_failure,
)
"""What ``follow_ups`` needs to know of an execution that ends."""

STEP_COLUMNS = (
    s.c.id,
    s.c.kind,
    s.c.status,
    s.c.tries,
    s.c.position,
    s.c.attempt,
    s.c.started_at,
    s.c.finished_at,
    s.c.wake_at,
    s.c.error_type,
)


JOURNAL = (s.c.error, s.c.output, s.c.topic, s.c.event)
"""Further columns of a step that only replays need."""


class Statements:
    """All statements, for one database."""

    def __init__(self, database: Database) -> None:
        prepare = database.prepare
        insert = database.insert
        self.begin = prepare(_begin, insert)
        self.start = prepare(_start, insert)
        self.claim = prepare(_claim)
        many = None if database.sqlite else prepare(record_all, insert)
        self.record = prepare(_record, insert, many=many)
        self.record_and_ask = prepare(record_and_ask, insert)
        self.mark = prepare(_mark, insert)
        self.mark_running = prepare(mark_running, insert)
        self.suspend = prepare(_suspend)
        self.lock_topic = None if database.sqlite else prepare(lock_topic)
        self.next_event = prepare(_next_event, events.c.number, events.c.data)
        self.any_event = prepare(_next_event, events.c.number)
        self.finish = prepare(_finish)
        self.nonce = prepare(_by_id, e.c.nonce)
        self.step_nonce = prepare(_of_step, s.c.nonce)
        self.step_status = prepare(_of_step, s.c.status)
        self.journal = prepare(_journal, row=StepRecord)
        self.newest_steps = prepare(_newest_steps)
        self.execution = prepare(_by_id, *EXECUTION_COLUMNS)
        self.child = prepare(_child)
        self.same = prepare(_same)
        self.replay = prepare(
            _by_id, e.c.attempt, e.c.status, e.c.identity, e.c.ready_at
        )
        self.outgoing = prepare(_outgoing)
        self.response = prepare(_by_id, e.c.response, e.c.response_body)

    @once
    def bind_record(self) -> cabc.Callable[[Values], Bound]:
        """Binds ``record`` to its values: a step's, an execution's id, its attempt and
        a nonce."""
        return self.record.binder(
            (*StepRecord._fields, "execution_id", "attempt", "nonce")
        )


def _record(insert: t.Any) -> t.Any:
    return record(insert, unasked(mine()))


def _mark(insert: t.Any) -> t.Any:
    return record(insert, _suspended_now())


def _journal() -> Select:
    return _steps(*JOURNAL).order_by(s.c.position)


def _newest_steps() -> Select:
    return (
        _steps()
        .order_by(sa.case((s.c.status.in_(MARKS), 0), else_=1))
        .order_by(s.c.position.desc())
        .limit(param("limit", sa.Integer()))
    )


def _child() -> Select:
    return sa.select(*EXECUTION_COLUMNS).where(
        e.c.parent_id == column_param(e.c.parent_id),
        e.c.parent_step == column_param(e.c.parent_step),
    )


def _same() -> Select:
    same = e.c.idempotency == column_param(e.c.idempotency)
    return sa.select(e.c.id, e.c.fingerprint).where(same)


def _outgoing() -> Select:
    due = e.c.ready_at <= db_now()
    head = (e.c.app, e.c.status, e.c.attempt, e.c.rejections, due.label("due"))
    request = (e.c.request, e.c.secrets, e.c.body, e.c.digest, e.c.identity)
    return _by_id(*head, e.c.ready_at, *request)


def _by_id(*columns: sa.ColumnElement[t.Any]) -> Select:
    return sa.select(*columns).where(e.c.id == param("execution_id", sa.Text()))


def _of_step(column: sa.Column[t.Any]) -> Select:
    return sa.select(column).where(
        s.c.execution_id == param("execution_id", sa.Text()),
        s.c.id == param("id", sa.Text()),
    )


def _steps(*more: sa.Column[t.Any]) -> Select:
    return sa.select(*STEP_COLUMNS, *more).where(
        s.c.execution_id == param("execution_id", sa.Text())
    )


def _begin(insert: t.Any) -> t.Any:
    """Store an execution whose first attempt is running."""
    end = db_now() + param("lease", sa.Double())
    return _new(
        insert, status=RUNNING, attempt=1, owner=column_param(e.c.owner), ready_at=end
    )


def _start(insert: t.Any) -> t.Any:
    """Store an execution whose first attempt may begin."""
    return _new(
        insert, status=constant("pending"), attempt=0, owner=None, ready_at=db_now()
    )


def _new(insert: t.Any, **values: t.Any) -> t.Any:
    given = (e.c.id, e.c.app, e.c.endpoint, e.c.nonce, e.c.digest, e.c.on_failure)
    blobs = (e.c.identity, e.c.request, e.c.secrets, e.c.body)
    more = (e.c.parent_id, e.c.parent_step, e.c.idempotency, e.c.fingerprint)
    return (
        insert(e)
        .values({column: column_param(column) for column in (*given, *blobs, *more)})
        .values(**values, due_at=values["ready_at"], created_at=db_now())
        .values(deadline_at=db_now() + param("deadline", sa.Double()))
        .values(looks=0, crashes=0, errors=0, rejections=0, refusals=0)
        # If it is sent again, the first one may have arrived after all.
        .on_conflict_do_nothing()
        .returning(e.c.created_at)
    )


def _claim() -> sa.Update:
    end = db_now() + param("lease", sa.Double())
    return (
        e.update()
        .where(
            e.c.id == param("execution_id", sa.Text()),
            e.c.attempt == param("attempt", sa.Integer()) - 1,
            e.c.status.in_(CLAIMABLE),
            e.c.ready_at <= db_now(),
        )
        .values(
            status=RUNNING,
            attempt=e.c.attempt + 1,
            owner=column_param(e.c.owner),
            nonce=column_param(e.c.nonce),
            ready_at=end,
            due_at=end,
            looks=0,
            rejections=0,
            refusals=0,
            history=history.note(history.BEGUN, e.c.attempt + 1),
        )
        .returning(*EXECUTION_COLUMNS)
    )


def _suspended_now() -> sa.ColumnElement[bool]:
    """The fence within a suspension, whose first statement has set the nonce."""
    return sa.and_(
        e.c.id == param("execution_id", sa.Text()),
        e.c.attempt == param("attempt", sa.Integer()),
        e.c.nonce == column_param(e.c.nonce),
    )


def _suspend() -> sa.Update:
    # If it was woken meanwhile, it goes on at once: what it waits for may be there.
    ready = sa.case(
        (e.c.wakes != param("wakes", sa.Integer()), db_now()),
        else_=column_param(e.c.ready_at),
    )
    return (
        e.update()
        .where(mine())
        .values(
            status=SUSPENDED,
            nonce=column_param(e.c.nonce),
            ready_at=ready,
            due_at=ready,
            errors=column_param(e.c.errors),
            error=column_param(e.c.error),
            crashes=0,
            history=history.note(history.SUSPENDED),
        )
        .returning(e.c.id)
    )


def lock_topic() -> Select:
    """Keep others from sending to a topic or waiting for it until we commit."""
    key = sa.func.hashtextextended(param("topic", sa.Text()), 0)
    return sa.select(sa.func.pg_advisory_xact_lock(key))


def _next_event(*columns: sa.Column[t.Any]) -> Select:
    return (
        sa.select(*columns)
        .where(
            events.c.topic == param("topic", sa.Text()),
            events.c.number > param("after", sa.BigInteger()),
            events.c.created_at >= param("since", sa.Double()),
        )
        .order_by(events.c.number)
        .limit(1)
    )


def ended() -> dict[str, t.Any]:
    return {
        "nonce": column_param(e.c.nonce),
        "finished_at": db_now(),
        "ready_at": None,
        "due_at": None,
        "secrets": None,
        "error": column_param(e.c.error),
        "response": column_param(e.c.response),
        "response_body": column_param(e.c.response_body),
    }


def _finish() -> sa.Update:
    return (
        e.update()
        .where(mine())
        .values(status=column_param(e.c.status), **ended())
        .returning(*ENDED_COLUMNS)
    )
