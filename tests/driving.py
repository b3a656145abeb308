"""Drive executions to their end without threads and without waiting."""

from __future__ import annotations

import typing as t

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_durable.records import Due
from flask_durable.replay import replay
from flask_durable.state import get_state
from flask_durable.state import State
from flask_durable.sweeper import Sweeper
from flask_durable.tables import events
from flask_durable.tables import executions
from flask_durable.tables import steps

THREADED = {"wsgi.multithread": True, "SERVER_SOFTWARE": "Werkzeug/3.1"}
"""What a server with threads says: clients may wait for it."""


class ThreadedClient(FlaskClient):
    """A client of a server with threads."""

    def open(self, *args: t.Any, **options: t.Any) -> TestResponse:
        """Send a request."""
        return super().open(*args, environ_overrides=THREADED, **options)


class CallerHands:
    """Replays in the calling thread."""

    patience = 0.0
    pause = 1.0
    shared = False

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.sent = 0

    def free(self) -> int:
        """Take one at a time."""
        return 1

    def send(self, due: Due) -> None:
        """Replay now."""
        self.sent += 1
        replay(self._app, due.id, due.attempt + 1)


class Drive:
    """Replays what is due and turns the clock."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    @property
    def state(self) -> State:
        """The extension's state."""
        return get_state(self.app)

    def run_due(self) -> int:
        """Replay every execution that is due now, and give how many replays."""
        hands = CallerHands(self.app)
        sweeper = Sweeper(self.state, hands)

        while sweeper.sweep(1):
            pass

        return hands.sent

    def advance(self, seconds: float) -> None:
        """Turn the clock: every stored time moves back."""

        def shift(connection: t.Any) -> None:
            for table in (executions, steps, events):
                moved = {c: c - seconds for c in table.c if c.name.endswith("_at")}
                connection.execute(table.update().values(moved))

        self.state.store.database.run(shift)

    def finish(self, response: TestResponse) -> TestResponse:
        """Drive an execution to its end and give its final response."""
        url = self.status(response)["response_url"]

        for _ in range(50):
            final = self.app.test_client().get(url)

            if final.status_code != 202:
                return final

            left = self.state.upkeep.next_due()
            self.advance(max(0.0, left or 0.0) + 0.001)
            self.run_due()

        raise AssertionError("the execution did not end within 50 attempts")

    def status(self, answer: TestResponse | str) -> dict[str, t.Any]:
        """Read the status document behind an answer or a status URL."""
        url = answer if isinstance(answer, str) else status_link(answer)
        document = self.app.test_client().get(url)
        assert document.status_code == 200, document.text
        return t.cast("dict[str, t.Any]", document.json)


def status_link(answer: TestResponse) -> str:
    """Give the status URL that an answer links to."""
    for link in answer.headers.getlist("Link"):
        if 'rel="status"' in link:
            return link.partition("<")[2].partition(">")[0]

    raise AssertionError("the answer has no status link")
