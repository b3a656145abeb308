"""Send several writes to PostgreSQL at once.

Each write consists of one or more statements, and gets the rows of its own.
"""

from __future__ import annotations

import collections.abc as cabc
import itertools
import json
import typing as t

import sqlalchemy as sa

from .blobs import Rows
from .sql import Bound
from .step_sql import LINES

Batch = list[tuple[Bound, ...]]


def run_joined(
    connection: sa.Connection, link: t.Any, batch: Batch
) -> list[list[Rows]]:
    """Run writes that can all be joined, as a single statement in autocommit.

    :param link: the driver's cursor, or libpq, as for :meth:`.Bound.run`
    """
    return _shared_out(_joined(batch).run(connection, link), batch)


def run_pipelined(connection: sa.Connection, batch: Batch) -> list[list[Rows]]:
    """Send all writes in one pipeline; PostgreSQL commits at its end."""
    driver: t.Any = connection.connection.dbapi_connection

    with driver.pipeline():
        sent = [_send(driver, part) for part in _parts(batch)]

    return [rows for answer in sent for rows in answer()]


def _parts(batch: Batch) -> cabc.Iterator[Batch]:
    """Group neighbours that can be joined. The batch keeps its order, in which rows are
    locked: otherwise two commits could deadlock."""
    for joins, run in itertools.groupby(batch, can_join):
        if joins:
            yield list(run)
        else:
            yield from ([each] for each in run)


def can_join(bounds: tuple[Bound, ...]) -> bool:
    """Tell whether a write can be joined with others in one statement."""
    return all(bound.statement.many is not None for bound in bounds)


def _send(driver: t.Any, part: Batch) -> cabc.Callable[[], list[list[Rows]]]:
    """Send some writes; call what is returned after the pipeline, for their rows."""
    if len(part) == 1 and (len(part[0]) == 1 or not can_join(part[0])):
        sent = [(bound, bound.execute(driver.cursor())) for bound in part[0]]
        return lambda: [[bound.rows(cursor) for bound, cursor in sent]]

    joined = _joined(part)
    cursor = joined.execute(driver.cursor())
    return lambda: _shared_out(joined.rows(cursor), part)


def _joined(part: Batch) -> Bound:
    """Make one statement of several of a kind, with their values as JSON."""
    statement = part[0][0].statement
    assert statement.many is not None
    lines = [
        {
            name: value.hex() if type(value) is bytes else value
            for name, value in zip(statement.form.names, bound.values, strict=True)
        }
        for bounds in part
        for bound in bounds
    ]
    return statement.many.bind({LINES: json.dumps(lines)})


def _shared_out(written: Rows, part: Batch) -> list[list[Rows]]:
    """Return rows for each write if all were done, else for none of them: then each
    writer tries by itself, and so finds out which of the writes failed."""
    whole = len(written) == sum(map(len, part))
    return [[[()] if whole else []] * len(bounds) for bounds in part]
