"""When the attempts of an execution began and ended.

The notes are a text in the execution's row, written by statements that change the row
anyway. Each is a letter, the attempt, and the milliseconds since the execution began.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

import sqlalchemy as sa

from .sql import db_now
from .tables import executions as e

LENGTH = 4_000
"""Length of the text, in characters, at which the older half is dropped."""

BEGUN = "b"
SUSPENDED = "s"
LOST = "l"
ENDED = "e"

_NOTE = re.compile(r"([bsle])(\d+):(-?\d+);")


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """One attempt, in seconds since the execution began."""

    number: int
    begun: float
    ended: float | None
    """``None`` if it is not known to have ended."""
    how: str = ""
    """The letter of its end."""


def note(
    letter: str,
    attempt: sa.ColumnElement[int] = e.c.attempt,
    when: sa.ColumnElement[t.Any] | None = None,
) -> sa.ColumnElement[t.Any]:
    """Return the SQL for the notes of an execution's row with one more.

    :param when: the time of the note, else now
    """
    moment = db_now() if when is None else when
    passed = sa.cast((moment - e.c.created_at) * 1000, sa.BigInteger)
    known = sa.func.coalesce(e.c.history, sa.literal_column("''"))
    kept: sa.ColumnElement[t.Any] = sa.case(
        (
            sa.func.length(known) > sa.literal_column(str(LENGTH)),
            sa.func.substr(known, sa.literal_column(str(LENGTH // 2))),
        ),
        else_=known,
    )
    parts: tuple[sa.ColumnElement[t.Any], ...] = (
        sa.literal_column(f"'{letter}'"),
        sa.cast(attempt, sa.Text),
        sa.literal_column("':'"),
        sa.cast(passed, sa.Text),
        sa.literal_column("';'"),
    )

    for part in parts:
        kept = kept.op("||")(part)

    return kept


def read(notes: str | None, attempt: int, lasted: float | None) -> list[Span]:
    """Return an execution's attempts, the oldest first, as far as they are noted.

    :param attempt: the number of the last one
    :param lasted: how long the execution took, if it has ended
    """
    found: dict[int, Span] = {}

    for letter, digits, milliseconds in _NOTE.findall(notes or ""):
        number, moment = int(digits), int(milliseconds) / 1000

        if letter == BEGUN:
            found[number] = Span(number, moment, None)
        elif number in found or number == 1:
            # The first attempt begins with the execution, unless a note says otherwise.
            span = found.get(number, Span(number, 0.0, None))
            found[number] = dataclasses.replace(span, ended=moment, how=letter)

    if attempt == 1 and not found:
        found[1] = Span(1, 0.0, None)

    last = found.get(attempt)

    if last is not None and last.ended is None and lasted is not None:
        found[attempt] = dataclasses.replace(last, ended=lasted, how=ENDED)

    return list(found.values())
