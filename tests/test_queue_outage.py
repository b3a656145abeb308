"""The journal goes away while jobs wait in the queue."""

from __future__ import annotations

import collections.abc as cabc

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import clock
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.dispatch_rq import AWAY_PAUSE
from flask_durable.dispatch_rq import replay_execution
from flask_durable.dispatch_rq import RqHands
from flask_durable.errors import JournalUnavailable
from flask_durable.records import Outgoing
from flask_durable.replay import AWAY

from .driving import Drive


@pytest.fixture
def due(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> cabc.Iterator[str]:
    """Give an execution whose second attempt is due, in the app's context."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    execution_id = client.post("/work").headers["Durable-Execution"]
    drive.advance(61)

    with app.app_context():
        yield execution_id


class Outage:
    """A journal that is away for a while, by a clock that only pauses move."""

    def __init__(self, drive: Drive, patch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now = 0.0
        self.looks = 0
        self._until = seconds
        self._read = drive.state.store.outgoing
        patch.setattr(drive.state.store, "outgoing", self.outgoing)
        patch.setattr(clock, "boottime", lambda: self.now)
        patch.setattr(clock, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def outgoing(self, execution_id: str) -> Outgoing:
        """Read the request, or find nobody there."""
        self.looks += 1

        if self.now < self._until:
            raise JournalUnavailable("nobody there")

        return self._read(execution_id)


def test_a_job_waits_for_a_journal_that_is_away(
    due: str, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not given away for nothing, and nor are those behind it."""
    outage = Outage(drive, monkeypatch, seconds=3 * AWAY_PAUSE)
    assert replay_execution(due, 2) == "is completed"
    assert outage.looks == 4


def test_a_job_does_not_wait_for_ever(
    due: str, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the sweeper will send it again, and a worker may have to end."""
    outage = Outage(drive, monkeypatch, seconds=3600)
    assert replay_execution(due, 2) == AWAY
    assert outage.now == RqHands.patience
