"""Deletes what is old: executions that ended long ago, and events."""

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
from .step_sql import constant
from .step_sql import SUSPENDED
from .store import Store
from .tables import events
from .tables import executions as e
from .tables import RARE
from .tables import steps as s

BATCH = 100
"""Executions that are deleted in one transaction.

They may be large, and on SQLite nobody else can write meanwhile."""

EVENTS_BATCH = 5_000
"""The same for events, which are small."""


class Purge:
    """Deletes what is too old to keep."""

    def __init__(self, store: Store) -> None:
        prepare, sqlite = store.database.prepare, store.database.sqlite
        self._store = store
        self.old = prepare(_old)
        self.delete = prepare(_delete, sqlite)
        self.delete_steps = prepare(_delete_steps, sqlite)
        self.delete_topics = prepare(_delete_topics, sqlite)
        self.old_events = prepare(_old_events)
        self._delete_events = prepare(_delete_events, sqlite)

    def all(self, age: float) -> int:
        """Delete all executions that ended, and events sent, over ``age`` seconds ago.

        :return: how many executions
        """
        count, more = 0, True

        while more:
            deleted, more = self.some(age)
            count += deleted

        return count

    def some(self, age: float) -> tuple[int, bool]:
        """Delete a batch of these.

        :return: how many executions, and whether there may be more to delete
        """
        found = self._store.ask(self.old, app=self._store.app, age=age, limit=BATCH)
        deleted = self._delete_all([row.id for row in found], age) if found else 0
        # Events come last: each batch looks through all those that stay.
        more = len(found) == BATCH or self._delete_some_events(age) == EVENTS_BATCH
        return deleted, more

    def _delete_all(self, found: cabc.Sequence[str], age: float) -> int:
        """Delete those that were not deleted or resumed since they were found."""

        def work(connection: sa.Connection) -> int:
            with self._store.database.transaction(connection):
                rows = self.delete(connection, ids=json.dumps(found), age=age)
                ids = json.dumps([row.id for row in rows])
                self.delete_steps(connection, ids=ids)
                self.delete_topics(connection, ids=ids)

            return len(rows)

        return self._store.database.run(work)

    def _delete_some_events(self, age: float) -> int:
        """Delete a batch of the events sent to all; return how many were found.

        A SELECT finds them first: going through all that stay takes a while, and in a
        DELETE nobody else could write to SQLite meanwhile.
        """
        app = self._store.app
        # How topics made by ``waits.event_topic`` begin.
        head = json.dumps([app, "event"])[:-1] + ", "
        found = self._store.ask(
            self.old_events, app=app, head=head, age=age, limit=EVENTS_BATCH
        )

        if found:
            numbers = json.dumps([row.number for row in found])
            self._store.ask(self._delete_events, numbers=numbers)

        return len(found)


def _items(values: sa.ColumnElement[str], sqlite: bool) -> sa.ColumnElement[str]:
    """The items of a JSON list, as a column of its own."""
    if sqlite:
        return sa.func.json_each(values).table_valued("value").c.value

    as_json = sa.cast(values, postgresql.JSON)
    return sa.func.json_array_elements_text(as_json).table_valued("value").c.value


def _among(
    column: sa.Column[t.Any], values: Select, sqlite: bool
) -> sa.ColumnElement[bool]:
    """Whether a column has one of the values, found by its index."""
    if sqlite:
        return column.in_(values)

    # A join may read the whole table. An array is looked up in the index.
    return column == sa.any_(sa.func.array(values.scalar_subquery()))


def _old() -> Select:
    above = _above()
    child = e.alias("child")
    needed_above = sa.select(above.c.parent_id).where(_is_needed(above.c.finished_at))
    needed_below = sa.select(child.c.id).where(
        child.c.parent_id == e.c.id, _is_needed(child.c.finished_at)
    )
    return (
        sa.select(e.c.id)
        .where(
            e.c.app == column_param(e.c.app),
            _is_old(),
            # Parents read their children's answers, failure handlers their parents; and
            # who is resumed goes on with the children that failed, and with theirs.
            ~needed_above.exists(),
            ~needed_below.exists(),
        )
        .order_by(e.c.finished_at, e.c.id)
        .limit(param("limit", sa.Integer()))
    )


def _above() -> sa.CTE:
    """The parent of an execution, that one's parent, and so on."""
    parent, next_one = e.alias("parent"), e.alias("next_one")
    first = sa.select(parent.c.parent_id, parent.c.finished_at)
    above = (
        first.where(parent.c.id == e.c.parent_id)
        .correlate(e)
        .cte("above", recursive=True, nesting=True)
    )
    others = sa.select(next_one.c.parent_id, next_one.c.finished_at)
    return above.union_all(others.where(next_one.c.id == above.c.parent_id))


def _is_needed(ended: sa.ColumnElement[t.Any]) -> sa.ColumnElement[bool]:
    return sa.or_(ended.is_(None), ~_is_old(ended))


def _ids(sqlite: bool) -> sa.ColumnElement[str]:
    return _items(param("ids", sa.Text()), sqlite)


def _delete(sqlite: bool) -> t.Any:
    locked = (
        sa.select(e.c.id)
        .where(_among(e.c.id, sa.select(_ids(sqlite)), sqlite), _is_old())
        # In the order of ids, so that two that delete at once don't deadlock.
        .order_by(e.c.id)
        .with_for_update()
        .cte("locked")
    )
    mine = e.c.id.in_(sa.select(locked.c.id))
    return e.delete().where(mine).returning(e.c.id)


def _is_old(
    ended: sa.ColumnElement[t.Any] = e.c.finished_at,
) -> sa.ColumnElement[bool]:
    return ended < db_now() - param("age", sa.Double())


def _delete_steps(sqlite: bool) -> t.Any:
    mine = _among(s.c.execution_id, sa.select(_ids(sqlite)), sqlite)
    return s.delete().where(mine).returning(s.c.id)


def _delete_topics(sqlite: bool) -> t.Any:
    """Delete the events of executions: callbacks, ends of children, progress."""
    # How topics made by ``waits.callback_topic`` and others begin: the id, then a word.
    head = constant('["').concat(_ids(sqlite)).concat(constant('", "'))
    other = events.alias("other")
    found = sa.select(other.c.number).where(
        # The index finds this range, whatever the database's collation.
        other.c.topic >= head,
        other.c.topic < head.concat(constant("z")),
        _begins_with(other.c.topic, head),
    )
    mine = _among(events.c.number, found, sqlite)
    return events.delete().where(mine).returning(events.c.number)


def _begins_with(
    column: sa.Column[str], head: sa.ColumnElement[str]
) -> sa.ColumnElement[bool]:
    first = sa.literal_column("1", sa.Integer())
    return sa.func.substr(column, first, sa.func.length(head)) == head


def _old_events() -> Select:
    # An execution that began before an event may still wait for it. One that has not
    # ended has a due time, or is suspended until it is woken; each has an index.
    mine = sa.select(e.c.created_at).where(e.c.app == column_param(e.c.app))
    waits = sa.and_(RARE, e.c.status == SUSPENDED)
    goes_on = sa.union_all(mine.where(e.c.due_at.is_not(None)), mine.where(waits))
    first = sa.select(sa.func.min(goes_on.subquery().c.created_at))
    now = db_now()
    return (
        sa.select(events.c.number)
        .where(
            events.c.created_at < now - param("age", sa.Double()),
            events.c.created_at < sa.func.coalesce(first.scalar_subquery(), now),
            _begins_with(events.c.topic, param("head", sa.Text())),
        )
        .order_by(events.c.number)
        .limit(param("limit", sa.Integer()))
    )


def _delete_events(sqlite: bool) -> t.Any:
    numbers = _items(param("numbers", sa.Text()), sqlite)
    found = sa.select(sa.cast(numbers, events.c.number.type))
    mine = _among(events.c.number, found, sqlite)
    return events.delete().where(mine).returning(events.c.number)
