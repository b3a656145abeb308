"""Several writes that PostgreSQL is sent at once.

Each write is one or more statements, and each gets the rows of its own.
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
    """Run writes that can all be joined as one statement, which commits itself.

    :param link: the way to the driver, as for :meth:`.Bound.run`
    """
    return _shared_out(_joined(batch).run(connection, link), batch)


def run_pipelined(connection: sa.Connection, batch: Batch) -> list[list[Rows]]:
    """Send all at once; PostgreSQL commits at the end of a pipeline."""
    driver: t.Any = connection.connection.dbapi_connection

    with driver.pipeline():
        sent = [_send(driver, part) for part in _parts(batch)]

    return [rows for answer in sent for rows in answer()]


def _parts(batch: Batch) -> cabc.Iterator[Batch]:
    """Take together what can be joined and stands together: rows are locked in the
    order of the batch, or two commits could wait for each other."""
    for joins, run in itertools.groupby(batch, can_join):
        if joins:
            yield list(run)
        else:
            yield from ([each] for each in run)


def can_join(bounds: tuple[Bound, ...]) -> bool:
    """Tell whether a write can be lines of a statement for many."""
    return all(bound.statement.many is not None for bound in bounds)


def _send(driver: t.Any, part: Batch) -> cabc.Callable[[], list[list[Rows]]]:
    """Send some writes; what comes back gives the rows of each after the pipeline."""
    if len(part) == 1 and (len(part[0]) == 1 or not can_join(part[0])):
        sent = [(bound, bound.execute(driver.cursor())) for bound in part[0]]
        return lambda: [[bound.rows(cursor) for bound, cursor in sent]]

    joined = _joined(part)
    cursor = joined.execute(driver.cursor())
    return lambda: _shared_out(joined.rows(cursor), part)


def _joined(part: Batch) -> Bound:
    """Give one statement for several of a kind, with their values in JSON."""
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
    """Give each write its rows if all were done, else none of them: which it was that
    could not be done is found out by each for itself."""
    whole = len(written) == sum(map(len, part))
    return [[[()] if whole else []] * len(bounds) for bounds in part]
