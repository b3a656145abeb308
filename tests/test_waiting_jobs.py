"""Jobs that wait in the queue while the journal goes away, or their executions move."""

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
from flask_durable.errors import JournalUnavailable
from flask_durable.records import Outgoing
from flask_durable.replay import AWAY
from flask_durable.rq_queue import RqHands

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


def test_an_old_job_of_an_execution_that_was_put_off_leads_nowhere(
    app: Flask, due: str, drive: Drive
) -> None:
    """The app is not asked, so that it can't turn away what is not due."""
    asked: list[str] = []
    app.before_request_funcs.setdefault(None, []).append(lambda: asked.append("once"))
    assert drive.state.upkeep.reject(due, 1, 60.0, False)
    outcome = replay_execution(due, 2)
    assert outcome.endswith("it is suspended in attempt 1, and not due yet")
    assert asked == []
    assert drive.state.store.execution(due).refusals == 0
