"""SQL of leaders: which process of an app sweeps for all."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .records import Leader
from .sql import db_now
from .sql import param
from .statements import Select
from .step_sql import column_param
from .store import Store
from .tables import leaders


class Leaders:
    """Who leads the processes of an app."""

    def __init__(self, store: Store) -> None:
        prepare = store.database.prepare
        self._store = store
        self._find = prepare(_find)
        self._set = prepare(_set, store.database.insert)
        self._end = prepare(_end)

    def find(self) -> Leader | None:
        """Return the leader, if there ever was one."""
        rows = self._store.ask(self._find, app=self._store.app)
        return Leader(*rows[0]) if rows else None

    def set(self, owner: str, instead_of: str, seconds: float) -> bool:
        """Make a process the leader for so many seconds.

        :param instead_of: the leader that was seen; any other one is not replaced
        """
        rows = self._store.ask(
            self._set,
            app=self._store.app,
            owner=owner,
            instead_of=instead_of,
            seconds=seconds,
        )
        return bool(rows)

    def end(self, owner: str) -> None:
        """Let another process lead at once."""
        self._store.ask(self._end, app=self._store.app, owner=owner)


def _find() -> Select:
    left = leaders.c.until - db_now()
    return sa.select(leaders.c.owner, left).where(
        leaders.c.app == column_param(leaders.c.app)
    )


def _set(insert: t.Any) -> t.Any:
    statement = insert(leaders).values(
        {
            leaders.c.app: column_param(leaders.c.app),
            leaders.c.owner: column_param(leaders.c.owner),
            leaders.c.until: db_now() + param("seconds", sa.Double()),
        }
    )
    return statement.on_conflict_do_update(
        index_elements=[leaders.c.app],
        set_={name: statement.excluded[name] for name in ("owner", "until")},
        where=leaders.c.owner == param("instead_of", sa.Text()),
    ).returning(leaders.c.app)


def _end() -> sa.Update:
    return (
        leaders.update()
        .where(
            leaders.c.app == column_param(leaders.c.app),
            leaders.c.owner == column_param(leaders.c.owner),
        )
        .values(until=db_now())
        .returning(leaders.c.app)
    )
