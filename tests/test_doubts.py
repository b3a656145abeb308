"""Settings that nobody can have meant so are told of."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_durable import FlaskDurable

UNREAD = (
    "FLASK_DURABLE_LEASE is set but not read: call app.config.from_prefixed_env()"
    " before FlaskDurable(app)."
)


@pytest.fixture(autouse=True)
def variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a variable that is meant to be a setting."""
    monkeypatch.setenv("FLASK_DURABLE_LEASE", "30")


def test_a_variable_that_is_not_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with what is missing."""
    FlaskDurable(Flask(__name__))
    assert caplog.messages == [UNREAD]


def test_a_part_of_a_setting_is_told_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the setting's name, and nothing that is a command's own."""
    monkeypatch.delenv("FLASK_DURABLE_LEASE")
    monkeypatch.setenv("FLASK_DURABLE_RETRY__max_attempts", "8")
    monkeypatch.setenv("FLASK_DURABLE_WORKER_PROCESSES", "2")
    FlaskDurable(Flask(__name__))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("FLASK_DURABLE_RETRY is set but not read")


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


def test_the_check_finds_it_bad(app: Flask, durable: FlaskDurable) -> None:
    """With the same sentence."""
    done = app.test_cli_runner().invoke(args=["durable", "check"])
    assert done.exit_code == 1
    assert done.output.splitlines()[0] == f"bad  settings: {UNREAD}"
