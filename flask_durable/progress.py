"""SQL for watchers: progress messages, and which steps have changed."""

from __future__ import annotations

import json
import typing as t

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from .ids import new_nonce
from .records import Event
from .records import StepRecord
from .sql import db_now
from .sql import param
from .statements import lock_topic
from .statements import Select
from .statements import STEP_COLUMNS
from .step_sql import column_param
from .store import Store
from .tables import events
from .tables import steps as s

MAX_LINES = 1_000
"""Most messages that are read at a time."""


def progress_topic(execution_id: str) -> str:
    """Return the topic under which an execution's progress messages are stored."""
    return json.dumps([execution_id, "progress"])


class Progress:
    """Stores and reads progress messages, and reads the steps that have changed."""

    def __init__(self, store: Store) -> None:
        prepare = store.database.prepare
        self._store = store
        self._insert = prepare(_insert, store.database.insert)
        self._lines = prepare(_lines)
        self._newest = prepare(_newest)
        self._changed = prepare(_changed)

    def say(self, execution_id: str, data: bytes) -> None:
        """Store a message; no execution is woken by it."""
        topic = progress_topic(execution_id)
        self._store.ask(self._insert, topic=topic, dedup=f"~{new_nonce()}", data=data)

    def lines(self, execution_id: str, after: int) -> list[Event]:
        """Read the messages after the one with a number, oldest first."""
        topic = progress_topic(execution_id)
        rows = self._store.ask(self._lines, topic=topic, after=after)
        return [Event(*row) for row in rows]

    def newest(self, execution_id: str, count: int) -> list[Event]:
        """Read the last messages, oldest first."""
        topic = progress_topic(execution_id)
        rows = self._store.ask(self._newest, topic=topic, count=count)
        return [Event(*row) for row in reversed(rows)]

    def changed_steps(self, execution_id: str, since: float) -> list[StepRecord]:
        """Read the steps without an outcome, and those that ended since a time."""
        rows = self._store.ask(self._changed, execution_id=execution_id, since=since)
        return [StepRecord(*row) for row in rows]


def _insert(insert: t.Any) -> t.Any:
    names = (events.c.topic, events.c.dedup, events.c.data)
    source = sa.select(*map(column_param, names), db_now())

    if insert is postgresql.insert:
        # One after the other, so that a reader of one message has missed none with a
        # smaller number: the number is drawn after the subquery has taken the lock.
        locked = lock_topic().subquery("locked")
        source = source.select_from(locked)

    statement = insert(events).from_select([*names, events.c.created_at], source)
    key = [events.c.topic, events.c.dedup]
    return statement.on_conflict_do_nothing(index_elements=key).returning(
        events.c.number
    )


def _lines() -> Select:
    return (
        sa.select(events.c.number, events.c.data)
        .where(
            events.c.topic == column_param(events.c.topic),
            events.c.number > param("after", sa.BigInteger()),
        )
        .order_by(events.c.number)
        .limit(MAX_LINES)
    )


def _newest() -> Select:
    return (
        sa.select(events.c.number, events.c.data)
        .where(events.c.topic == column_param(events.c.topic))
        .order_by(events.c.number.desc())
        .limit(param("count", sa.Integer()))
    )


def _changed() -> Select:
    return (
        sa.select(*STEP_COLUMNS)
        .where(
            s.c.execution_id == param("execution_id", sa.Text()),
            sa.or_(
                s.c.finished_at.is_(None),
                s.c.finished_at >= param("since", sa.Double()),
            ),
        )
        .order_by(s.c.finished_at.nulls_last(), s.c.position)
    )
