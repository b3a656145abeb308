"""The ``flask durable`` commands."""

from __future__ import annotations

import logging
import typing as t
from unittest import mock

import pytest
from click.testing import Result
from flask import Flask
from redis import RedisError

from flask_durable import FlaskDurable
from flask_durable import JournalUnavailable
from flask_durable import schema
from flask_durable import supervisor
from flask_durable.state import opened_state
from flask_durable.tables import SCHEMA_VERSION

pytestmark = pytest.mark.no_tables


def run(app: Flask, *arguments: str) -> Result:
    """Run a command."""
    return app.test_cli_runner().invoke(args=["durable", *arguments])


# upgrade


def test_upgrade_tells_that_it_made_the_journal(
    app: Flask, durable: FlaskDurable
) -> None:
    """And the next time that there was nothing to do."""
    label = opened_state(app).store.database.label
    assert run(app, "upgrade").output == f"The journal at {label} was made.\n"
    assert run(app, "upgrade").output == f"The journal at {label} is up to date.\n"


def test_upgrade_tells_from_where_it_came(
    app: Flask, durable: FlaskDurable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever DURABLE_CREATE_TABLES says: it was asked to."""
    database = opened_state(app).store.database

    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA_VERSION", "0001")
        schema.ensure(database, True)

    said = run(app, "upgrade").output
    assert f"was upgraded from schema 0001 to {SCHEMA_VERSION}.\n" in said
    schema.ensure(database, False)


def test_upgrade_prints_only_what_is_left_to_do(
    app: Flask, durable: FlaskDurable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the version that is there."""
    database = opened_state(app).store.database

    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA_VERSION", "0001")
        schema.ensure(database, True)

    said = run(app, "upgrade", "--sql").output
    assert "CREATE TABLE durable_leaders" in said
    assert "CREATE TABLE durable_executions" not in said
    run(app, "upgrade")
    assert run(app, "upgrade", "--sql").output == "-- The journal is up to date.\n"


@pytest.mark.parametrize("options", [[], ["--sql"]])
def test_upgrade_refuses_a_newer_journal(
    app: Flask,
    durable: FlaskDurable,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    """With a sentence, not a traceback, and a code that scripts see."""
    monkeypatch.setattr(schema, "_read_version", lambda connection: "9999")
    result = run(app, "upgrade", *options)
    assert result.exit_code == 1
    assert "has schema 9999, which is newer than" in result.output
    assert "Traceback" not in result.output


def test_upgrade_tells_that_the_database_is_away(app: Flask) -> None:
    """With a sentence, and without its password."""
    url = "postgresql+psycopg://ada:hunter2@127.0.0.1:1/db"
    app.config["DURABLE_DATABASE_URL"] = url
    FlaskDurable(app)
    result = run(app, "upgrade")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "hunter2" not in result.output
    app.extensions["durable"].close()


# worker


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    """Note how workers are started, and start none."""
    started: list[tuple[t.Any, ...]] = []
    logger = logging.getLogger("flask_durable")
    monkeypatch.setattr(logger, "level", logger.level)

    class Fake:
        def __init__(self, command: list[str], *arguments: t.Any) -> None:
            started.append(arguments)

        def run(self) -> int:
            return 7

    monkeypatch.setattr(supervisor, "Supervisor", Fake)
    return started


def test_worker_has_help(app: Flask, durable: FlaskDurable) -> None:
    """Each option has a sentence."""
    said = run(app, "worker", "--help").output

    for option in ("--processes", "--burst", "--queue"):
        assert option in said

    words = " ".join(said.split())
    assert "4 with Redis, 1 without" in words and "DURABLE_QUEUE" in words
    assert "DURABLE_REDIS_URL" in said


def test_a_worker_is_started_as_asked_for(
    app: Flask, durable: FlaskDurable, started: list[t.Any]
) -> None:
    """And its exit code is the command's."""
    options = ["--processes=3", "--burst", "--queue=other"]
    assert run(app, "worker", *options).exit_code == 7
    assert run(app, "worker").exit_code == 7
    assert started == [(3, True), (1, False)]
    assert app.extensions["durable"].config.queue == "other"


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_a_worker_has_at_least_one_process(
    app: Flask, durable: FlaskDurable, started: list[t.Any], count: str
) -> None:
    """Else nothing would be replayed."""
    result = run(app, "worker", f"--processes={count}")
    assert result.exit_code == 2
    assert "--processes" in result.output
    assert started == []


def test_a_worker_tells_what_it_does(
    app: Flask, durable: FlaskDurable, started: list[t.Any]
) -> None:
    """Without Redis: for which app, from which journal."""
    label = opened_state(app).store.database.label
    said = run(app, "worker").output
    assert said == f"Replaying {app.name} from {label}.\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@cache:6379/1", "redis://cache:6379/1"),
        ("rediss://ada:hunter2@cache", "rediss://cache"),
        ("redis://:hun@ter2@cache/0", "redis://cache/0"),
        ("redis://cache/0?password=hunter2", "redis://cache/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix://:hunter2@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_a_worker_tells_its_queue_without_a_password(
    app: Flask, started: list[t.Any], url: str, shown: str
) -> None:
    """Logs are read by many."""
    settings = {"REDIS_URL": url, "QUEUE": "trips", "REPLAY_URL": "http://web:8000/"}
    app.config.update({f"DURABLE_{key}": value for key, value in settings.items()})
    FlaskDurable(app)
    said = run(app, "worker").output
    assert f' by the queue "trips" of {shown}, through http://web:8000.' in said
    assert "hun" not in said and "ter2" not in said
    assert 'the queue "other" of' in run(app, "worker", "--queue=other").output
    app.extensions["durable"].close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RedisError("Refused."), "Error: Redis can't be used: Refused.\n"),
        (JournalUnavailable("It is away."), "Error: It is away.\n"),
    ],
)
def test_a_burst_that_can_not_be_is_told_in_a_sentence(
    app: Flask,
    durable: FlaskDurable,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: str,
) -> None:
    """By each process, without a traceback."""
    monkeypatch.setenv(supervisor.PARENT, "1")
    monkeypatch.setattr(supervisor, "end_with_parent", lambda: None)
    fail = mock.Mock(side_effect=error)
    monkeypatch.setattr("flask_durable.worker.run_child", fail)
    result = run(app, "worker", "--burst")
    assert (result.exit_code, result.output) == (1, told)
