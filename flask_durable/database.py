"""Connections to the journal: engine, prepared statements, outages."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import functools
import logging
import pathlib
import typing as t
from contextlib import nullcontext

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite

from . import clock
from .config import check_database
from .engines import BORN
from .engines import connect_args
from .engines import LOCK_TIMEOUT
from .engines import make_engine
from .errors import JournalUnavailable
from .file_lock import file_lock
from .file_lock import FileLock
from .sql import say
from .sql import Statement
from .vault import Vault

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.05
"""Seconds before the second retry while the database is away. The first is immediate:
the pool's connections break together, and a new one may work."""

IDLE_LIMIT = 5
"""Seconds after which PostgreSQL ends a transaction whose client is silent."""

SILENCE = 10.0
"""Seconds after which a PostgreSQL server that no longer answers is given up."""

PASSING = frozenset({"25006", "26000", "42P05"})
"""SQLSTATEs of PostgreSQL that a new connection may not meet: a server that is
read-only during a failover, prepared statements that a pooler lost or has twice."""

T = t.TypeVar("T")


class Keeper(t.Protocol):
    """Keeps a connection of a database open."""

    def close(self) -> None:
        """Close it as soon as it is not in use."""

    def rest(self) -> None:
        """Close it until it is needed again; called while nobody uses it."""

    def forget(self) -> None:
        """Leave it to the parent, after a fork."""


class Database:
    """The journal's database, with a connection pool of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.vault = Vault()
        self.label = engine.url.render_as_string(hide_password=True)
        self.sqlite = engine.dialect.name == "sqlite"
        # Statements go to the driver directly, all else through SQLAlchemy.
        self._driver = engine.dialect.loaded_dbapi
        self.errors = (exc.DBAPIError, exc.TimeoutError, self._driver.Error)
        """What a connection and its statements raise."""
        self._unusable = (
            exc.OperationalError,
            exc.InterfaceError,
            self._driver.OperationalError,
            self._driver.InterfaceError,
        )
        self.troubled_at: float | None = None
        """When an error of the connection was last seen, by the boot clock."""
        self.broken_at: float | None = None
        """When a connection was last found broken, by the boot clock."""
        self.keepers: list[Keeper] = []
        self._closed = False

    @classmethod
    def open(cls, url: str, silence: float = SILENCE) -> Database:
        """Make a database from a URL; nothing is connected yet.

        :param silence: seconds after which a PostgreSQL server that answers no
            more is given up, and a new connection tried
        :raises ConfigError: if the URL can't hold a journal
        """
        parsed = sa.make_url(url)
        check_database(parsed)
        options: dict[str, t.Any] = {}

        if parsed.get_backend_name() == "sqlite":
            options["connect_args"] = {
                "timeout": LOCK_TIMEOUT,
                "check_same_thread": False,
            }
        else:
            parsed, options["connect_args"] = connect_args(parsed, silence)

        return cls(make_engine(parsed, **options))

    @classmethod
    def beside(cls, engine: sa.Engine) -> Database:
        """Make a database from an app's engine, with a pool of its own."""
        if engine.dialect.name == "sqlite":
            return cls.open(engine.url.render_as_string(hide_password=False))

        check_database(engine.url)
        return cls(make_engine(engine.url, pool=engine.pool.recreate()))

    def prepare(
        self,
        make: cabc.Callable[..., sa.ClauseElement],
        *args: t.Any,
        many: Statement | None = None,
        row: type[t.Any] | None = None,
    ) -> Statement:
        """Return a statement, compiled once.

        :param make: makes it from ``args``, once in a process for all databases of a
            kind; so these and it must be hashable, and are kept
        :param many: the statement that does the same for several sets of values
        :param row: the named tuple for its rows, else one of its columns is made
        """
        source = functools.partial(make, *args)
        return Statement(source, self.engine.dialect, self.vault, many, row)

    @property
    def insert(self) -> t.Any:
        """The dialect's own ``INSERT``, which has ``ON CONFLICT``."""
        return sqlite.insert if self.sqlite else postgresql.insert

    def run(
        self,
        work: cabc.Callable[[sa.Connection], T],
        patience: float = 0.0,
    ) -> T:
        """Run ``work`` on a connection, again and again while the database is away.

        The work must be safe to repeat: its commit may have happened although
        its answer was lost.

        :param patience: for how long to try again, in seconds; a connection
            that turns out to be broken is replaced once in any case
        :raises JournalUnavailable: if it stays away for longer
        """
        deadline = clock.boottime() + patience
        pause = 0.0

        while True:
            if self._closed:
                raise JournalUnavailable(f"The journal at {self.label} was closed.")

            try:
                with self.connect() as connection:
                    return self._invalidating(connection, work)
            except self.errors as error:
                if not self.note_outage(error):
                    raise

                if pause and clock.boottime() + pause > deadline:
                    raise JournalUnavailable(_away(self, error)) from error

                if pause == FIRST_PAUSE:
                    logger.warning("%s", _away(self, error))

            clock.sleep(pause)
            pause = min(1.0, pause * 2 or FIRST_PAUSE)

    def connect(self) -> sa.Connection:
        """Take a connection from the pool.

        Once one has turned out to be broken, none that is as old is used again: a
        server that stops breaks them all.
        """
        connection = self.engine.connect()

        # The pool may replace it with another stale one.
        while self.is_stale(connection):
            connection.invalidate()

        return connection

    def is_stale(self, connection: sa.Connection) -> bool:
        """Tell whether a connection was made before another one broke."""
        broken_at = self.broken_at
        return broken_at is not None and connection.info[BORN] < broken_at

    def _invalidating(
        self, connection: sa.Connection, work: cabc.Callable[..., T]
    ) -> T:
        """Run ``work`` on a connection, which is not used again after an error."""
        try:
            return work(connection)
        except self.errors as error:
            self.invalidate(connection, error)
            raise

    def invalidate(self, connection: sa.Connection, error: BaseException) -> None:
        """Give up a connection after an error, and note if the error broke it."""
        if isinstance(error, self._driver.Error) and not connection.invalidated:
            broken = self.engine.dialect.is_disconnect(
                error, connection.connection.dbapi_connection, None
            )
            t.cast(t.Any, error).connection_invalidated = broken

            if broken:
                self.broken_at = clock.boottime()

        connection.invalidate()

    def note_outage(self, error: BaseException) -> bool:
        """Tell whether an error is an outage; if so, note the time, for
        :meth:`steady_for`."""
        outage = isinstance(error, self.errors) and self._is_outage(error)

        if outage:
            self.troubled_at = clock.boottime()

        return outage

    def _is_outage(self, error: Exception) -> bool:
        """Tell whether an error says that the database can't be used now."""
        if isinstance(error, exc.TimeoutError):
            return True

        cause = getattr(error, "orig", None) or error

        if isinstance(error, self._unusable):
            message = str(cause)
            return not ("no such " in message or "syntax error" in message)

        state = getattr(cause, "sqlstate", None)
        return state in PASSING or getattr(error, "connection_invalidated", False)

    @contextlib.contextmanager
    def transaction(
        self, connection: sa.Connection, idle: int | None = None
    ) -> cabc.Iterator[None]:
        """Commit several statements at once, or none of them.

        :param idle: seconds that may pass between two statements, else ``IDLE_LIMIT``
        """
        with self.alone(), self.together(connection, idle):
            yield

    @contextlib.contextmanager
    def together(
        self, connection: sa.Connection, idle: int | None = None
    ) -> cabc.Iterator[None]:
        """The same, for a caller that already holds the file's lock."""
        try:
            self.begin(connection, idle)
            yield
            say(connection, "COMMIT")
        except BaseException as error:
            self.undo(connection, error, lambda: say(connection, "ROLLBACK"))
            raise

    def undo(
        self,
        connection: sa.Connection,
        error: BaseException,
        roll_back: cabc.Callable[[], object],
    ) -> None:
        """Roll a transaction back after an error, or give its connection up."""
        # Another exception, a time limit's say, may have come in mid-statement.
        if isinstance(error, Exception) and not connection.invalidated:
            # An error of this may look like an outage, and must not hide the first.
            with contextlib.suppress(*self.errors):
                roll_back()
                return

        self.invalidate(connection, error)

    def alone(self) -> t.ContextManager[None]:
        """Hold the SQLite file's lock, if there is one: writers take turns."""
        return self.lock.held(LOCK_TIMEOUT) if self.lock else nullcontext()

    @functools.cached_property
    def lock(self) -> FileLock | None:
        """The lock by which the writers of a SQLite file take turns."""
        path = self.engine.url.database
        # If it is a URI, its options say where the file is.
        by_name = self.sqlite and path and not path.startswith("file:")
        return file_lock(path) if by_name and path else None

    def begin(self, connection: sa.Connection, idle: int | None = None) -> None:
        """Begin a transaction.

        It limits the time between statements: a machine that is lost there would keep
        rows locked until the server notices, after two hours by default.
        """
        if self.sqlite:
            say(connection, "BEGIN IMMEDIATE")
            return

        limit = IDLE_LIMIT if idle is None else idle
        text = f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = '{limit}s'"
        # One round trip; psycopg takes two statements only without parameters.
        say(connection, text)

    def steady_for(self, seconds: float, since: float) -> bool:
        """Tell whether no outage was seen for so many seconds.

        :param since: when the observer began, by the boot clock
        """
        return clock.boottime() - max(self.troubled_at or since, since) >= seconds

    def close(self) -> None:
        """Close all connections; whoever waits for the database gives up."""
        self._closed = True

        for keeper in self.keepers:
            keeper.close()

        self.engine.dispose()

    def forget(self) -> None:
        """Leave the parent's connections to the parent, after a fork."""
        for keeper in self.keepers:
            keeper.forget()

        self.engine.dispose(close=False)


def _away(database: Database, error: Exception) -> str:
    reason = str(getattr(error, "orig", None) or error).strip()
    message = f"The journal at {database.label} can't be used: {reason}."

    if "unable to open database file" in reason:
        folder = pathlib.Path(database.engine.url.database or "").parent
        return f"{message} Does the folder {folder} exist, and may we write there?"

    if database.sqlite and "is locked" in reason:
        return (
            f"{message} Another writer holds it for over {LOCK_TIMEOUT:g} s: a view"
            " that writes to the same file must commit before it calls a step."
        )

    return message
