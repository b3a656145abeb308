"""Settings that nobody can have meant so are told of."""

from __future__ import annotations

import datetime as dt
import typing as t

import pytest
from flask import Flask

from flask_durable import FlaskDurable

UNREAD = (
    "FLASK_DURABLE_LEASE is set but not read: call app.config.from_prefixed_env()"
    " before FlaskDurable(app)."
)


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a variable that is meant to be a setting."""
    monkeypatch.setenv("FLASK_DURABLE_LEASE", "30")


@pytest.mark.usefixtures("variable")
def test_a_variable_that_is_not_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with what is missing."""
    FlaskDurable(Flask(__name__))
    assert caplog.messages == [UNREAD]


def test_a_part_of_a_setting_is_told_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the setting's name, and nothing that is a command's own."""
    monkeypatch.setenv("FLASK_DURABLE_RETRY__max_attempts", "8")
    monkeypatch.setenv("FLASK_DURABLE_WORKER_PROCESSES", "2")
    FlaskDurable(Flask(__name__))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("FLASK_DURABLE_RETRY is set but not read")


@pytest.mark.usefixtures("variable")
@pytest.mark.parametrize("how", ["environment", "code", "testing"])
def test_what_is_meant_is_not_told(caplog: pytest.LogCaptureFixture, how: str) -> None:
    """It is read, or set in code, or the app is under test."""
    app = Flask(__name__)

    if how == "environment":
        app.config.from_prefixed_env()
    elif how == "code":
        app.config["DURABLE_LEASE"] = 5
    else:
        app.testing = True

    FlaskDurable(app)
    assert not caplog.messages


@pytest.mark.usefixtures("variable")
def test_the_check_finds_it_bad(app: Flask, durable: FlaskDurable) -> None:
    """With the same sentence."""
    done = app.test_cli_runner().invoke(args=["durable", "check"])
    assert done.exit_code == 1
    assert done.output.splitlines()[0] == f"bad  settings: {UNREAD}"


def set_up(app: Flask, retention: t.Any) -> None:
    """Set an app up that keeps executions for so long."""
    app.config["DURABLE_RETENTION"] = retention
    FlaskDurable(app)


@pytest.mark.parametrize("days", [7, 0.5, 3_599])
def test_seconds_that_look_like_days_are_told(
    caplog: pytest.LogCaptureFixture, days: float
) -> None:
    """With what to write for days, as code and as a number."""
    set_up(Flask(__name__), days)
    (message,) = caplog.messages
    assert message.startswith(f"DURABLE_RETENTION is {days:g} seconds")
    assert message.endswith(f"timedelta(days={days:g}), or {days * 86_400:.0f}.")


@pytest.mark.parametrize("retention", [None, 0, 3_600, dt.timedelta(seconds=7)])
def test_a_retention_that_is_meant_is_not_told(
    caplog: pytest.LogCaptureFixture, retention: t.Any
) -> None:
    """A ``timedelta`` says what it is."""
    set_up(Flask(__name__), retention)
    assert not caplog.messages
