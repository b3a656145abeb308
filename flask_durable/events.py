"""SQL of events: send one, and wake the executions that wait for it."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .sql import db_now
from .statements import Select
from .step_sql import column_param
from .step_sql import constant
from .step_sql import SUSPENDED
from .store import Store
from .tables import events
from .tables import executions as e
from .tables import steps as s


class Events:
    """What is sent to the executions of an app."""

    def __init__(self, store: Store) -> None:
        prepare = store.database.prepare
        self._store = store
        self._insert = prepare(_insert, store.database.insert)
        self._sent = prepare(_sent)
        self._wake = prepare(_wake)

    def send(
        self, connection: sa.Connection, topic: str, data: bytes, dedup: str
    ) -> bool:
        """Store an event and wake those who wait for it, in the caller's transaction.

        :return: whether it is new; one with the same ``dedup`` is not stored again
        """
        self._store.lock_topic(connection, topic)
        new = self._insert(connection, topic=topic, data=data, dedup=dedup)

        if new:
            self._wake(connection, topic=topic)

        return bool(new)

    def sent(self, connection: sa.Connection, topic: str, dedup: str) -> bytes | None:
        """Return the data of an event that was sent before."""
        rows = self._sent(connection, topic=topic, dedup=dedup)
        return rows[0][0] if rows else None


def _insert(insert: t.Any) -> t.Any:
    names = (events.c.topic, events.c.dedup, events.c.data)
    values = {column: column_param(column) for column in names}
    return (
        insert(events)
        .values({**values, events.c.created_at: db_now()})
        .on_conflict_do_nothing(index_elements=[events.c.topic, events.c.dedup])
        .returning(events.c.number)
    )


def _sent() -> Select:
    return sa.select(events.c.data).where(
        events.c.topic == column_param(events.c.topic),
        events.c.dedup == column_param(events.c.dedup),
    )


def _wake() -> sa.Update:
    """Make all that wait for a topic ready; a running one is once its attempt ends."""
    waiting = sa.select(s.c.execution_id).where(
        s.c.topic == column_param(s.c.topic), s.c.status == constant("waiting")
    )
    locked = (
        sa.select(e.c.id)
        .where(e.c.id.in_(waiting), e.c.finished_at.is_(None))
        # In the order of ids, so that two senders can't deadlock.
        .order_by(e.c.id)
        .with_for_update()
        .cte("locked")
    )
    return (
        e.update()
        .where(e.c.id.in_(sa.select(locked.c.id)))
        .values(
            wakes=e.c.wakes + 1,
            ready_at=sa.case((e.c.status == SUSPENDED, db_now()), else_=e.c.ready_at),
            due_at=sa.case((e.c.status == SUSPENDED, db_now()), else_=e.c.due_at),
        )
        .returning(e.c.id)
    )
