"""What drives an app's executions in tests: replays by the caller, a clock to turn."""

from __future__ import annotations

import collections.abc as cabc
import urllib.parse

import sqlalchemy as sa
from flask import Flask

from .records import Due
from .replay import replay
from .state import get_state
from .state import opened_state
from .sweeper import Sweeper
from .tables import metadata

MAX_REPLAYS = 1_000
"""Replays after which executions are assumed to go on forever."""


def below_root(app: Flask, url: str) -> str:
    """Return an app's URL without ``APPLICATION_ROOT``, which test clients add."""
    parts = urllib.parse.urlsplit(url)
    root = app.config["APPLICATION_ROOT"].rstrip("/")

    if not parts.path.startswith(f"{root}/"):
        return url

    return parts._replace(path=parts.path.removeprefix(root)).geturl()


class Driver:
    """Replays what is due in the calling thread, and turns the journal's clock."""

    patience = 0.0
    pause = 1.0
    shared = False
    usable = True

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.sent = 0
        get_state(app).is_driven = True

    def free(self) -> int:
        """Take one at a time."""
        return 1

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Replay now, through WSGI."""
        for due in found:
            self.sent += 1
            replay(self._app, due.id, due.attempt + 1, in_process=True)

    def run_due(self) -> int:
        """Replay what is due until nothing is, and return the number of replays.

        There are at most ``MAX_REPLAYS``.
        """
        sweeper = Sweeper(opened_state(self._app), self)
        before = self.sent

        while self.sent - before < MAX_REPLAYS and sweeper.sweep(1):
            pass

        return self.sent - before

    def turn(self, seconds: float) -> None:
        """Turn the clock forward: every time in the journal is moved back instead."""

        def shift(connection: sa.Connection) -> None:
            for table in metadata.sorted_tables:
                moved = {c: c - seconds for c in table.c if c.name.endswith("_at")}

                if moved:
                    connection.execute(table.update().values(moved))

        state = opened_state(self._app)
        state.store.check()
        state.store.database.run(shift)
