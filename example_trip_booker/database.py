"""The app's own SQLite files, beside the journal."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import pathlib
import sqlite3

from flask import current_app


@contextlib.contextmanager
def database(name: str) -> cabc.Iterator[sqlite3.Connection]:
    """Open a database in the data folder for one transaction."""
    folder = pathlib.Path(current_app.instance_path)
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / f"{name}.sqlite", timeout=30)
    connection.row_factory = sqlite3.Row
    try:
        with connection:
            yield connection
    finally:
        connection.close()
