"""Engines for a journal, and the settings of their connections."""

from __future__ import annotations

import logging
import sqlite3
import typing as t

import sqlalchemy as sa
from sqlalchemy import event

from . import clock
from .config import PREPARE
from .config import prepare_threshold
from .errors import ConfigError

LOGGING_NAME = "durable"
"""Distinguishes the journal's statements from the app's own in SQLAlchemy's log."""

BORN = "flask_durable.born"
"""The key in a connection's ``info`` for when it was made, by the boot clock."""

POOL_SIZE = 10
"""Connections kept open; branches and threads share them."""

POOL_OVERFLOW = 30
"""Further connections under load."""

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another writer of a SQLite file."""

KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
"""How connections that wait for an answer notice a silent server; see libpq's
parameters."""


def connect_args(url: sa.URL, silence: float) -> tuple[sa.URL, dict[str, t.Any]]:
    """Return the URL, and arguments for psycopg; those in the URL have precedence."""
    wanted: dict[str, t.Any] = {
        # Two is the least that libpq takes.
        "connect_timeout": min(5, max(2, int(silence))),
        "tcp_user_timeout": int(silence * 1000),
        **KEEPALIVES,
    }
    arguments = {name: wanted[name] for name in wanted if name not in url.query}

    if PREPARE in url.query:
        # libpq would refuse it, and psycopg needs a number, not text.
        arguments[PREPARE] = prepare_threshold(url)
        url = url.difference_update_query([PREPARE])

    return url, arguments


def make_engine(url: sa.URL, **options: t.Any) -> sa.Engine:
    """Make an engine whose connections are in autocommit mode."""
    if "pool" not in options:
        options |= {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW}

    # Parameters hold requests and their credentials: no log may show them.
    options |= {"isolation_level": "AUTOCOMMIT", "hide_parameters": True}
    options["logging_name"] = LOGGING_NAME
    engine = sa.create_engine(url, **options)
    # At DEBUG the rows are shown as well.
    logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(_no_rows)

    event.listen(engine, "connect", _note_birth)

    if engine.dialect.name == "sqlite":
        path = engine.url.database

        def set_up(connection: sqlite3.Connection, record: object) -> None:
            _set_pragmas(connection, path)

        event.listen(engine, "connect", set_up)

    return engine


def _note_birth(connection: object, record: t.Any) -> None:
    record.info[BORN] = clock.boottime()


def _set_pragmas(connection: sqlite3.Connection, path: str | None) -> None:
    try:
        _set_wal(connection)
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):
            raise

        raise ConfigError(
            f"The file {path} can't be the journal, since it is no SQLite database:"
            " name another one in DURABLE_DATABASE_URL, or move it away."
        ) from error

    connection.execute("PRAGMA synchronous=FULL").close()


def _set_wal(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log; SQLite itself does not wait for locks here."""
    deadline = clock.boottime() + LOCK_TIMEOUT

    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or clock.boottime() > deadline:
                raise

        clock.sleep(0.01)


def _no_rows(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
