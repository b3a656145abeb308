"""What follows the end of an execution, in the transaction that ends it."""

from __future__ import annotations

import json
import typing as t

import sqlalchemy as sa

from .events import Events
from .ids import new_id
from .ids import new_nonce
from .records import AFTER_FAILURE
from .records import EndedRow
from .sql import db_now
from .sql import param
from .statements import Select
from .step_sql import column_param
from .step_sql import constant
from .store import Store
from .tables import executions as e


def child_topic(parent_id: str, step: str) -> str:
    """Name the topic of a child's end, for which the invoking step waits."""
    return json.dumps([parent_id, "child", step])


class FollowUps:
    """Tells parents of an end, and begins failure handlers."""

    def __init__(self, store: Store) -> None:
        prepare = store.database.prepare
        self._store = store
        self._events = Events(store)
        self._after = prepare(_after_failure, store.database.insert)
        self._lock = prepare(_lock)

    def lock(
        self, connection: sa.Connection, parent_id: str | None, step: str | None
    ) -> None:
        """Lock what an end will touch, before the row that ends is locked.

        All transactions must keep this order, or they could deadlock: a suspension
        locks the topic before its own row, a cancellation the parent's row first.
        """
        if parent_id is not None and step is not None and step != AFTER_FAILURE:
            self._store.lock_topic(connection, child_topic(parent_id, step))
            self._lock(connection, execution_id=parent_id)

    def __call__(self, connection: sa.Connection, ended: EndedRow) -> None:
        """Do what follows an end."""
        if ended.role != "view":
            return

        if ended.parent_id is not None and ended.parent_step is not None:
            topic = child_topic(ended.parent_id, ended.parent_step)
            # The nonce makes the event new: a resumed child ends, and tells, again.
            self._events.send(connection, topic, b"null", new_nonce())

        if ended.on_failure and ended.status in ("failed", "cancelled"):
            self._after(connection, of=ended.id, id=new_id(), nonce=new_nonce())


def _lock() -> Select:
    mine = e.c.id == param("execution_id", sa.Text())
    return sa.select(e.c.id).where(mine).with_for_update()


def _after_failure(insert: t.Any) -> t.Any:
    """Store the execution that handles a failure, once, with the same request.

    It has no credentials: these were erased when the other one ended.
    """
    copied = (e.c.app, e.c.endpoint, e.c.digest, e.c.identity, e.c.request, e.c.body)
    now = db_now()
    values = {
        e.c.id: column_param(e.c.id),
        e.c.nonce: column_param(e.c.nonce),
        e.c.status: constant("pending"),
        e.c.role: constant("on_failure"),
        e.c.parent_id: e.c.id,
        e.c.parent_step: constant(AFTER_FAILURE),
        e.c.ready_at: now,
        e.c.due_at: now,
        e.c.created_at: now,
        **{column: column for column in copied},
    }
    zeros = (e.c.attempt, e.c.looks, e.c.crashes, e.c.errors, e.c.rejections)
    values |= {column: sa.literal_column("0") for column in (*zeros, e.c.refusals)}
    source = sa.select(*values.values()).where(e.c.id == param("of", sa.Text()))
    names = [column.name for column in values]
    statement = insert(e).from_select(names, source)
    return statement.on_conflict_do_nothing().returning(e.c.id)
