"""What is deleted after a while: executions that ended, and events."""

from __future__ import annotations

import collections.abc as cabc
import json
import typing as t

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from .sql import db_now
from .sql import param
from .statements import Select
from .step_sql import column_param
from .store import Store
from .tables import events
from .tables import executions as e
from .tables import steps as s

BATCH = 500
"""Executions that are deleted in one transaction."""

EVENTS_BATCH = 5_000
"""The same of events, which are small."""


class Purge:
    """Deletes what is too old to keep."""

    def __init__(self, store: Store) -> None:
        prepare, sqlite = store.database.prepare, store.database.sqlite
        self._store = store
        self._old = prepare(_old)
        self._delete = prepare(_delete)
        self._delete_steps = prepare(_delete_steps)
        self.old_events = prepare(_old_events)
        self._delete_events = prepare(_delete_events, sqlite)

    def all(self, age: float) -> int:
        """Delete all that ended or was sent longer ago than so many seconds.

        :return: how many executions
        """
        count = 0
        values = {"app": self._store.app, "age": age, "limit": BATCH}

        while found := self._store.ask(self._old, **values):
            count += self._delete_all([row.id for row in found], age)

        while self._delete_some_events(age) == EVENTS_BATCH:
            pass

        return count

    def _delete_all(self, ids: cabc.Iterable[str], age: float) -> int:
        """Delete those that nobody else deleted or resumed since they were found."""

        def work(connection: sa.Connection) -> int:
            count = 0

            with self._store.database.transaction(connection):
                for mine in ids:
                    if self._delete(connection, execution_id=mine, age=age):
                        self._delete_steps(connection, execution_id=mine)
                        count += 1

            return count

        return self._store.database.run(work)

    def _delete_some_events(self, age: float) -> int:
        """Delete a batch, and give how many there were to delete.

        They are looked for before: to walk over all that stay takes a while, and on
        SQLite nobody else could write meanwhile.
        """
        found = self._store.ask(self.old_events, age=age, limit=EVENTS_BATCH)

        if found:
            numbers = json.dumps([row.number for row in found])
            self._store.ask(self._delete_events, numbers=numbers)

        return len(found)


def _among(
    column: sa.Column[t.Any], values: sa.ColumnElement[str], sqlite: bool
) -> sa.ColumnElement[bool]:
    """Whether a column has one of the values in a JSON list, found by its index."""
    if sqlite:
        items = sa.func.json_each(values).table_valued("value")
        return column.in_(sa.select(items.c.value))

    as_json = sa.cast(values, postgresql.JSON)
    items = sa.func.json_array_elements_text(as_json).table_valued("value")
    found = sa.select(sa.cast(items.c.value, column.type))
    # A join may read the whole table. An array is looked up in the index.
    return column == sa.any_(sa.func.array(found.scalar_subquery()))


def _old() -> Select:
    other = e.alias("other")
    # Parents read their children's answers, failure handlers their parents.
    related = sa.or_(other.c.id == e.c.parent_id, other.c.parent_id == e.c.id)
    needed = sa.select(other.c.id).where(related, other.c.finished_at.is_(None))
    return (
        sa.select(e.c.id)
        .where(
            e.c.app == column_param(e.c.app),
            _is_old(),
            sa.not_(needed.exists()),
        )
        .order_by(e.c.finished_at, e.c.id)
        .limit(param("limit", sa.Integer()))
    )


def _delete() -> t.Any:
    mine = e.c.id == param("execution_id", sa.Text())
    return e.delete().where(mine, _is_old()).returning(e.c.id)


def _is_old() -> sa.ColumnElement[bool]:
    return e.c.finished_at < db_now() - param("age", sa.Double())


def _delete_steps() -> t.Any:
    mine = s.c.execution_id == param("execution_id", sa.Text())
    return s.delete().where(mine).returning(s.c.id)


def _old_events() -> Select:
    # One that has begun before an event may still come to wait for it. All that have
    # not ended are due some time, and found by the index of those.
    first = sa.select(sa.func.min(e.c.created_at)).where(e.c.due_at.is_not(None))
    now = db_now()
    return (
        sa.select(events.c.number)
        .where(
            events.c.created_at < now - param("age", sa.Double()),
            events.c.created_at < sa.func.coalesce(first.scalar_subquery(), now),
        )
        .order_by(events.c.number)
        .limit(param("limit", sa.Integer()))
    )


def _delete_events(sqlite: bool) -> t.Any:
    numbers = param("numbers", sa.Text())
    mine = _among(events.c.number, numbers, sqlite)
    return events.delete().where(mine).returning(events.c.number)
