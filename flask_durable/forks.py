"""Close connections to SQLite files before the process forks.

SQLite keeps in memory which locks the process holds. A fork copies that, but not the
kernel's locks: the child would believe that it holds locks which it does not hold, and
others would delete the log to which it writes (https://sqlite.org/howtocorrupt.html,
section 2.6). So at a fork no connection is open, and no write under way.
"""

from __future__ import annotations

import collections.abc as cabc
import logging
import threading
import typing as t

from . import clock
from .database import Database
from .file_lock import FileLock

logger = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that a fork waits for what is under way in other threads."""

PAUSE = 0.002
"""Seconds between two looks at connections that are in use."""


class _Forking(threading.local):
    """The locks that a forking thread has taken; several threads may fork at once."""

    def __init__(self) -> None:
        self.turns: list[tuple[FileLock, list[bool]]] = []
        """Locks of files to which nobody in this process may write until it has forked,
        and whether they are held, as :class:`.FileLock` notes it."""


_forking = _Forking()


def rest(databases: cabc.Iterable[Database]) -> None:
    """Wait for writes to end and close connections, right before a fork."""
    files = [database for database in databases if database.sqlite]
    deadline = clock.boottime() + PATIENCE

    for lock in {id(each.lock): each.lock for each in files}.values():
        if lock is not None:
            _forking.turns.append((lock, []))
            lock.acquire(max(0.0, deadline - clock.boottime()), _forking.turns[-1][1])

    held = [lock for lock, has_it in _forking.turns if True in has_it]

    for database in files:
        # Those who keep a connection use it only while they hold the lock.
        if database.lock in held:
            for keeper in database.keepers:
                keeper.rest()

        _close_all(database, deadline)


def _close_all(database: Database, deadline: float) -> None:
    pool: t.Any = database.engine.pool
    in_use: cabc.Callable[[], int] = getattr(pool, "checkedout", lambda: 0)

    while in_use() and clock.boottime() < deadline:
        clock.sleep(PAUSE)

    if in_use():
        logger.warning(
            "This process forks while it uses the journal at %s: the child must not use"
            " it. Fork before that, or outside of step.transaction.",
            database.label,
        )

    database.engine.dispose()


def go_on() -> None:
    """Let this process write again, after a fork."""
    while _forking.turns:
        lock, has_it = _forking.turns.pop()
        lock.release(has_it)


def begin() -> None:
    """Forget the parent's locks, in a child, which makes its own."""
    _forking.turns.clear()
