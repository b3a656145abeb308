"""The databases of the benchmarks, on the disk and with the durability of default."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import pathlib
import sqlite3
import tempfile
import typing as t

import psycopg

from .. import servers

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@contextlib.contextmanager
def database(kind: str) -> cabc.Iterator[str]:
    """Give the URL of a new database.

    :param kind: ``sqlite``, with a write-ahead log that is synced at each commit, or
        ``postgresql``
    """
    if kind == "postgresql":
        with servers.postgres(fsync=True) as server, server.database() as url:
            yield url

        return

    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "journal.db"
        sqlite(path).close()
        yield f"sqlite:///{path}"


def sqlite(path: pathlib.Path | str) -> sqlite3.Connection:
    """Connect to a SQLite file as the journal does."""
    connection = sqlite3.connect(
        path, timeout=30, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL").close()
    connection.execute("PRAGMA synchronous=FULL").close()
    return connection


class Driver:
    """Connections of the driver alone, to a copy of the journal's table of steps."""

    ROW = (
        "run",
        "completed",
        1,
        7,
        1,
        "0123456789abcdef",
        1234567890.123,
        1234567890.456,
        None,
        None,
        None,
        b'{"name":"search","id":12345,"ok":true}',
        None,
        None,
    )

    def __init__(self, url: str) -> None:
        self._path = None if url.startswith("postgres") else url[len("sqlite:///") :]
        self._url = servers.psycopg_url(url)
        mark = "%s" if self._path is None else "?"
        self.insert = f"INSERT INTO raw_steps VALUES ({', '.join([mark] * 16)})"
        self._make_table()

    def connect(self) -> psycopg.Connection | sqlite3.Connection:
        """Open a connection that commits each statement by itself."""
        if self._path is None:
            return psycopg.connect(self._url, autocommit=True)

        return sqlite(self._path)

    def write(
        self, connection: psycopg.Connection | sqlite3.Connection, key: str, count: int
    ) -> None:
        """Insert rows of the bytes that a step's row has, each with its commit."""
        cursor: t.Any = connection.cursor()

        for number in range(count):
            cursor.execute(self.insert, (key, f"step-{number}", *self.ROW))

    def _make_table(self) -> None:
        with contextlib.closing(self.connect()) as connection:
            if isinstance(connection, psycopg.Connection):
                connection.execute(
                    "CREATE TABLE raw_steps (LIKE durable_steps INCLUDING ALL)"
                )
                return

            query = "SELECT sql FROM sqlite_master WHERE name = 'durable_steps'"
            (ddl,) = connection.execute(query).fetchone()
            connection.execute(ddl.replace("durable_steps", "raw_steps"))
