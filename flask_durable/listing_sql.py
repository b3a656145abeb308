"""SQL of what the console reads."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .blobs import OPTIONAL
from .sql import param
from .statements import EXECUTION_COLUMNS
from .statements import JOURNAL
from .statements import Select
from .statements import STEP_COLUMNS
from .step_sql import column_param
from .tables import executions as e
from .tables import RARE
from .tables import steps as s

SCAN = 20_000
"""Executions that are looked through for a page, or counted."""

MAX_STEPS = 500
"""Steps that are shown, the newest."""

MAX_FAILURES = 100
"""Steps whose errors are read, the newest."""

MAX_CHILDREN = 100

INDEXED = frozenset({"failed", "cancelled", "suspended"})
"""Statuses that an index finds."""


def _response() -> t.Any:
    """The head of a response; if it can't be decrypted, a list is readable without."""
    head: t.Any = e.c.response.label("response")
    head.info = {OPTIONAL: True}
    return head


def is_indexed(status: str | None, endpoint: bool) -> bool:
    return not endpoint and (status is None or status in INDEXED)


def _range(status: str | None) -> list[sa.ColumnElement[bool]]:
    """The executions between two ids, as far as indexes find them."""
    found = [
        e.c.app == column_param(e.c.app),
        e.c.id >= param("low", sa.Text()),
        e.c.id < param("high", sa.Text()),
    ]

    if status in INDEXED:
        # SQLite uses a partial index only where a query repeats its condition.
        found += [RARE, e.c.status == sa.literal_column(f"'{status}'")]

    return found


def page(status: str | None, endpoint: bool) -> Select:
    columns = sa.select(*EXECUTION_COLUMNS, _response()).order_by(e.c.id.desc())
    limit = param("limit", sa.Integer())

    if is_indexed(status, endpoint):
        return columns.where(*_range(status)).limit(limit)

    near = _near(status, e.c.status, e.c.endpoint)
    ids = sa.select(near.c.id).order_by(near.c.id.desc()).limit(limit)

    if status is not None:
        ids = ids.where(near.c.status == sa.literal_column(f"'{status}'"))

    if endpoint:
        ids = ids.where(near.c.endpoint == column_param(e.c.endpoint))

    return columns.where(e.c.id.in_(ids))


def _near(status: str | None, *columns: sa.Column[t.Any]) -> sa.Subquery:
    """The newest executions of a range, as many as are looked through."""
    query = sa.select(e.c.id, *columns).where(*_range(status))
    return query.order_by(e.c.id.desc()).limit(SCAN).subquery()


def scan(status: str | None) -> Select:
    near = _near(status)
    return sa.select(sa.func.min(near.c.id), sa.func.count()).select_from(near)


def one(*columns: sa.ColumnElement[t.Any]) -> Select:
    return sa.select(*columns).where(
        e.c.id == param("execution_id", sa.Text()), e.c.app == column_param(e.c.app)
    )


def head() -> Select:
    return one(*EXECUTION_COLUMNS, e.c.history)


def _of(*columns: sa.ColumnElement[t.Any]) -> Select:
    mine = s.c.execution_id == param("execution_id", sa.Text())
    return sa.select(*columns).where(mine)


def steps() -> Select:
    return _of(*STEP_COLUMNS).order_by(s.c.position.desc()).limit(MAX_STEPS)


def failures() -> Select:
    failed = _of(s.c.id, s.c.error).where(s.c.error.is_not(None))
    return failed.order_by(s.c.position.desc()).limit(MAX_FAILURES)


def step() -> Select:
    columns = (*STEP_COLUMNS, *JOURNAL[:2])
    return _of(*columns).where(s.c.id == column_param(s.c.id))


def children() -> Select:
    return (
        sa.select(e.c.id, e.c.parent_step, e.c.status)
        .where(
            e.c.parent_id == param("execution_id", sa.Text()),
            # One that was replaced by another child has none any more.
            e.c.parent_step.is_not(None),
        )
        .order_by(e.c.id)
        .limit(MAX_CHILDREN)
    )


def counts() -> Select:
    near = (
        sa.select(e.c.endpoint, e.c.status, e.c.created_at, e.c.finished_at)
        .where(e.c.app == column_param(e.c.app), e.c.id >= param("low", sa.Text()))
        .order_by(e.c.id.desc())
        .limit(SCAN)
        .subquery()
    )
    passed = sa.cast(near.c.created_at * 1000, sa.BigInteger)
    bucket = (passed - param("begin", sa.BigInteger())) // param(
        "width", sa.BigInteger()
    )
    inner = sa.select(
        near.c.endpoint,
        near.c.status,
        bucket.label("bucket"),
        (near.c.finished_at - near.c.created_at).label("seconds"),
    ).subquery()
    keys = (inner.c.endpoint, inner.c.status, inner.c.bucket)
    return sa.select(
        *keys,
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(inner.c.seconds), 0.0),
        sa.func.coalesce(sa.func.max(inner.c.seconds), 0.0),
    ).group_by(*keys)
