"""``step.sleep`` and ``step.sleep_until``: durable timers."""

from __future__ import annotations

import datetime as dt
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step

from ..driving import Drive
from .helpers import down
from .helpers import Flaky

pytestmark = pytest.mark.config(DURABLE_INLINE_RETRY=0)


@pytest.mark.parametrize("duration", [600, 600.0, dt.timedelta(minutes=10)])
def test_a_sleep_suspends_for_its_duration(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    duration: t.Any,
) -> None:
    """Seconds or a ``timedelta``; never early."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", duration)
        return "awake"

    response = client.post("/work")
    assert response.status_code == 202
    drive.advance(550)
    assert drive.run_due() == 0
    drive.advance(51)
    assert drive.run_due() == 1
    assert drive.finish(response).text == "awake"


def test_a_sleep_until_suspends_until_then(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The moment is aware of its zone, whichever that is."""
    zone = dt.timezone(dt.timedelta(hours=-7))
    when = dt.datetime.now(zone) + dt.timedelta(minutes=10)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep_until("take-off", when)
        return "up"

    response = client.post("/work")
    assert response.status_code == 202
    drive.advance(550)
    assert drive.run_due() == 0
    drive.advance(51)
    assert drive.run_due() == 1
    assert drive.finish(response).text == "up"


def test_a_sleep_until_keeps_the_moment_of_the_first_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A view that computes another moment on each attempt still ends."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        when = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        step.sleep_until("nap", when)
        return "awake"

    assert drive.finish(client.post("/work")).text == "awake"


@pytest.mark.parametrize("duration", [0, dt.timedelta(0)])
def test_a_sleep_of_nothing_ends(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    duration: t.Any,
) -> None:
    """It needs no turn of the clock."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", duration)
        return "awake"

    response = client.post("/work")
    drive.run_due()
    assert drive.status(response)["status"] == "completed"


def test_a_sleep_until_a_moment_in_the_past_ends(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It needs no turn of the clock."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep_until("nap", dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
        return "awake"

    response = client.post("/work")
    drive.run_due()
    assert drive.status(response)["status"] == "completed"


def test_a_sleep_may_last_for_years(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A timer is a row, not a thread."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("ages", dt.timedelta(days=3650))
        return "awake"

    response = client.post("/work")
    assert response.status_code == 202
    drive.advance(3640 * 86400)
    assert drive.run_due() == 0
    drive.advance(11 * 86400)
    assert drive.run_due() == 1
    assert drive.finish(response).text == "awake"


def test_status_shows_what_a_sleeping_execution_waits_for(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Kind, step and moment of the next attempt."""
    expected = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=10)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 600)
        return "awake"

    document = drive.status(client.post("/work"))
    waiting = document["waiting_for"]
    until = dt.datetime.fromisoformat(waiting["until"])
    assert document["status"] == "suspended"
    assert waiting["step"] == "nap"
    assert waiting["kind"]
    assert abs(until - expected) < dt.timedelta(seconds=30)
    assert [(one["id"], one["status"]) for one in document["steps"]] == [
        ("nap", "sleeping")
    ]


def test_status_shows_a_sleep_that_is_over_as_completed(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Nothing is waited for any more."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 600)
        return "awake"

    response = client.post("/work")
    drive.finish(response)
    document = drive.status(response)
    assert document["waiting_for"] is None
    assert [one["status"] for one in document["steps"]] == ["completed"]


def test_sleeps_follow_each_other(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The same id in a loop is numbered, and each sleep takes one attempt."""
    attempts: list[int] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        attempts.append(current_execution.attempt)
        for _ in range(3):
            step.sleep("nap", 60)
        return "awake"

    response = client.post("/work")
    for _ in range(3):
        assert drive.run_due() == 0
        drive.advance(61)
        assert drive.run_due() == 1
    assert drive.finish(response).text == "awake"
    assert attempts == [1, 2, 3, 4]


def test_other_attempts_do_not_begin_a_sleep_anew(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A retry in another branch replays the view; the timer keeps its end."""
    charge = Flaky("paid", down(), down())

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=200, factor=1, jitter=0))
    def work() -> str:
        made = step.parallel(
            lambda: step.sleep("nap", 600), lambda: step.run("charge", charge)
        )
        return str(made[1])

    response = client.post("/work")
    for calls in (2, 3):
        drive.advance(201)
        assert drive.run_due() == 1
        assert charge.calls == calls
    drive.advance(150)
    assert drive.run_due() == 0
    drive.advance(51)
    assert drive.run_due() == 1
    assert drive.finish(response).text == "paid"


def test_a_sleep_gives_nothing_back(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It is ``None`` on the attempt that goes past it."""

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        sleep: t.Any = step.sleep
        return [sleep("nap", 60)]

    assert drive.finish(client.post("/work")).json == [None]
