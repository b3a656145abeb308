"""The filter for logs of views that walk again through what is done."""

from __future__ import annotations

import collections.abc as cabc
import logging
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import replay_filter
from flask_durable import step

from .driving import Drive

log = logging.getLogger("shop")


@pytest.fixture
def seen() -> cabc.Iterator[list[t.Any]]:
    """Collect what a handler with the filter lets pass."""
    records: list[t.Any] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment]
    handler.addFilter(replay_filter)
    loggers = [log, logging.getLogger("flask_durable")]

    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.INFO)

    yield records

    for each in loggers:
        each.removeHandler(handler)
        each.setLevel(logging.NOTSET)


def say(text: str) -> str:
    """Log within a step."""
    log.info(text)
    return text


@pytest.fixture
def view(app: Flask, durable: FlaskDurable) -> None:
    """Make a view that speaks everywhere."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        log.info("begin")
        step.run("first", say, "in first")
        log.info("between")
        step.sleep("nap", 60)
        log.info("after")
        step.run("second", say, "in second")
        log.info("end")
        return "done"


@pytest.mark.usefixtures("view")
def test_nothing_is_said_twice(
    client: FlaskClient, drive: Drive, seen: list[logging.LogRecord]
) -> None:
    """What is new in the second attempt is said, what was said before is not."""
    drive.finish(client.post("/work"))
    words = [record.getMessage() for record in seen if record.name == "shop"]
    assert words == ["begin", "in first", "between", "after", "in second", "end"]


@pytest.mark.usefixtures("view")
def test_records_say_whose_they_are(
    client: FlaskClient, drive: Drive, seen: list[t.Any]
) -> None:
    """Execution, attempt and step."""
    answer = client.post("/work")
    drive.finish(answer)
    mine = {record.getMessage(): record for record in seen}
    found = mine["in second"]
    whose = answer.headers["Durable-Execution"]
    assert (found.execution_id, found.attempt, found.step) == (whose, 2, "second")
    assert (mine["end"].step, mine["begin"].attempt) == (None, 1)


def test_others_pass(seen: list[t.Any]) -> None:
    """Outside of a durable view there is nothing to tell."""
    log.info("hello")
    assert [record.execution_id for record in seen] == [None]


@pytest.mark.usefixtures("view")
def test_the_packages_own_records_pass(
    client: FlaskClient, drive: Drive, seen: list[logging.LogRecord]
) -> None:
    """A warning of the second attempt is news."""
    drive.finish(client.post("/work"))
    words = [r.getMessage() for r in seen if r.name.startswith("flask_durable")]
    assert any("completed in attempt 2" in word for word in words)
