"""Transactions that a user's function shares with us."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import typing as t

import sqlalchemy as sa

from .database import Database
from .errors import NonRetryableError

T = t.TypeVar("T")

IDLE_LIMIT = 60
"""Seconds that a user's function may take between two of its statements."""


@contextlib.contextmanager
def shared_transaction(
    database: Database, connection: sa.Connection
) -> cabc.Iterator[cabc.Callable[[], None]]:
    """Commit the writes of a user's function together with our own.

    An ORM's session on the connection joins the transaction. Yields a function to call
    before our own writes: it raises :class:`NonRetryableError` if the user's function
    ended the transaction.
    """
    root = connection.begin()
    t.cast(t.Any, connection).commit = _refuse_to_end
    t.cast(t.Any, connection).rollback = _refuse_to_end

    try:
        database.begin(connection, IDLE_LIMIT)
        yield lambda: None if root.is_active else _refuse_to_end()
    except BaseException as error:
        if root.is_active:
            database.undo(connection, error, root.rollback)

        raise

    root.commit()


def _refuse_to_end() -> t.NoReturn:
    raise NonRetryableError(
        "The function of step.transaction ended the transaction, which commits with"
        " the step: return to commit, raise to roll back, and use begin_nested() for"
        " what may fail in between."
    )


class WorkError(Exception):
    """Carries an error of a user's function past the handling of outages."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def do_work(work: cabc.Callable[[sa.Connection], T], connection: sa.Connection) -> T:
    """Call a user's function.

    :raises WorkError: if it raises, unless its connection broke
    """
    try:
        return work(connection)
    except Exception as error:
        if connection.invalidated:
            raise

        raise WorkError(error) from error
