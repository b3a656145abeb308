"""The app's own SQLite files, beside the journal."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import fcntl
import pathlib
import sqlite3

from flask import current_app


def create_tables(name: str, script: str) -> None:
    """Create a database and its tables, unless they exist.

    The lock is there because workers start at the same time, and SQLite raises an error
    instead of waiting if two processes switch a new file to WAL mode.
    """
    folder = pathlib.Path(current_app.instance_path)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with database(name) as db:
            db.executescript(f"PRAGMA journal_mode = WAL; {script}")


@contextlib.contextmanager
def database(name: str) -> cabc.Iterator[sqlite3.Connection]:
    """Open a database in the data folder for one transaction."""
    path = pathlib.Path(current_app.instance_path, f"{name}.sqlite")
    connection = sqlite3.connect(path, timeout=30)
    connection.row_factory = sqlite3.Row
    try:
        with connection:
            yield connection
    finally:
        connection.close()
