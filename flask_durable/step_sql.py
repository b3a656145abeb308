"""The statements that write steps, and what they share with others."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .sql import param
from .tables import executions as e
from .tables import steps as s


def constant(value: str) -> sa.ColumnElement[str]:
    """A constant in the statement's text, as partial indexes need it."""
    return sa.literal_column(f"'{value}'", sa.Text())


RUNNING = constant("running")
SUSPENDED = constant("suspended")
MARKS = tuple(map(constant, ("running", "retrying", "sleeping", "waiting")))
CLAIMABLE = (constant("pending"), constant("suspended"))

GIVEN = [c for c in s.c if c.name not in ("execution_id", "attempt")]
"""The columns whose values are given; the fence finds those of the others."""

HEX = [c for c in GIVEN if isinstance(c.type, sa.LargeBinary)]
"""Those of them that JSON can't hold; they are sent as hex."""

LINES = "lines"
"""The parameter that holds several steps."""


def column_param(column: sa.Column[t.Any]) -> sa.ColumnElement[t.Any]:
    """A parameter of a column's name and type."""
    return param(column.name, column.type)


def is_running() -> sa.ColumnElement[bool]:
    """Whether an execution that is found by its id is running.

    With a plain comparison, the index of all running executions would do, too.
    PostgreSQL may prefer it, and then walks through whatever ran since its last vacuum.
    """
    return e.c.status.concat(sa.literal_column("''")) == RUNNING


def mine() -> sa.ColumnElement[bool]:
    """The fence: this attempt is still the execution's running one."""
    return _is_run_by(param("execution_id", sa.Text()), param("attempt", sa.Integer()))


def unasked(fence: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """The fence, and that nobody asked the execution to end."""
    return sa.and_(fence, e.c.cancel_requested == sa.literal_column("0"))


def _is_run_by(
    execution_id: sa.ColumnElement[str], attempt: sa.ColumnElement[int]
) -> sa.ColumnElement[bool]:
    return sa.and_(e.c.id == execution_id, e.c.attempt == attempt, is_running())


def record(insert: t.Any, fence: sa.ColumnElement[bool]) -> t.Any:
    """Write an outcome or a mark under the fence; outcomes are never changed.

    ``FOR SHARE`` makes a claim that is committing and this write wait for each
    other; without it a stale attempt's outcome can land after the claim. It returns no
    row, which would cost time at each step.
    """
    source = sa.select(e.c.id, e.c.attempt, *map(column_param, GIVEN)).where(fence)
    return _over_marks(insert, source.with_for_update(read=True))


def record_and_ask(insert: t.Any) -> t.Any:
    """Do the same even if the execution was asked to end, and return whether it was."""
    asked = sa.select(e.c.cancel_requested).where(
        # The id of the written row; as a column of its table it would make a join.
        e.c.id == sa.literal_column("execution_id", sa.Text())
    )
    return record(insert, mine()).returning(asked.scalar_subquery())


def record_all(insert: t.Any) -> t.Any:
    """Do the same for several steps of executions that were not asked to end.

    The parameter is a JSON list: one text costs the driver less than many values.
    """
    types = [sa.Text() if c in HEX else c.type for c in s.c]
    columns = [sa.column(c.name, each) for c, each in zip(s.c, types, strict=True)]
    text = sa.cast(param(LINES, sa.Text()), sa.JSON())
    found = sa.func.json_to_recordset(text).table_valued(*columns, name="line")
    lines = found.render_derived(with_types=True)
    line = lines.c
    hex_: t.Any = sa.literal_column("'hex'")
    values = [
        sa.func.decode(line[c.name], hex_) if c in HEX else line[c.name] for c in GIVEN
    ]
    # Each row is found by its key: a join may be planned as a walk through all. Rows
    # are locked in the order of the lines, which is that of ids in all transactions.
    fence = (
        sa.select(e.c.id, e.c.attempt)
        .where(unasked(_is_run_by(line.execution_id, line.attempt)))
        .with_for_update(read=True)
        .lateral("fence")
    )
    source = sa.select(fence.c.id, fence.c.attempt, *values).select_from(lines, fence)
    return _over_marks(insert, source)


def _over_marks(insert: t.Any, source: t.Any) -> t.Any:
    names = ["execution_id", "attempt", *(c.name for c in GIVEN)]
    statement = insert(s).from_select(names, source)
    kept = ("execution_id", "id", "position", "started_at")
    return statement.on_conflict_do_update(
        index_elements=[s.c.execution_id, s.c.id],
        set_={c.name: statement.excluded[c.name] for c in s.c if c.name not in kept},
        where=s.c.status.in_(MARKS),
    )


def mark_running(insert: t.Any) -> t.Any:
    """Mark a step that takes long as running, unless its try has ended by now."""
    names = (s.c.id, s.c.kind, s.c.tries, s.c.position, s.c.nonce, s.c.started_at)
    source = sa.select(e.c.id, e.c.attempt, RUNNING, *map(column_param, names)).where(
        mine()
    )
    statement = insert(s).from_select(
        ["execution_id", "attempt", "status", *(c.name for c in names)],
        source.with_for_update(read=True),
    )
    changed = ("attempt", "status", "tries", "nonce")
    return statement.on_conflict_do_update(
        index_elements=[s.c.execution_id, s.c.id],
        set_={name: statement.excluded[name] for name in changed},
        where=sa.and_(
            s.c.status.in_((RUNNING, constant("retrying"))),
            s.c.tries
            < statement.excluded.tries + sa.case((s.c.status == RUNNING, 1), else_=0),
        ),
    ).returning(s.c.id)
