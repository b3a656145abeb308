"""Drive executions to their end without threads and without waiting."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_durable.driving import Driver
from flask_durable.records import Due
from flask_durable.replay import replay
from flask_durable.state import get_state
from flask_durable.state import State

THREADED = {"wsgi.multithread": True, "SERVER_SOFTWARE": "Werkzeug/3.1"}
"""What a server with threads says: clients may wait for it."""


class ThreadedClient(FlaskClient):
    """A client of a server with threads."""

    def open(self, *args: t.Any, **options: t.Any) -> TestResponse:
        """Send a request."""
        return super().open(*args, environ_overrides=THREADED, **options)


class CallerHands(Driver):
    """Replays in the calling thread, over HTTP where the app's settings say so."""

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Replay now."""
        for due in found:
            self.sent += 1
            replay(self._app, due.id, due.attempt + 1)


class Drive:
    """Replays what is due and turns the clock, each only where a test says so.

    It stands beside the kit's client: it turns the clock past everything, and has no
    faults.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self._driver = CallerHands(app)

    @property
    def state(self) -> State:
        """The extension's state."""
        return get_state(self.app)

    def run_due(self) -> int:
        """Replay every execution that is due now, and give how many replays."""
        return self._driver.run_due()

    def advance(self, seconds: float) -> None:
        """Turn the clock: every stored time moves back."""
        self._driver.turn(seconds)

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
