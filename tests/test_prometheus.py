"""Metrics for Prometheus."""

from __future__ import annotations

import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest

from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import step
from flask_durable.clock import boottime
from flask_durable.measures import MAX_STEPS
from flask_durable.measures import OTHER
from flask_durable.names import plain_name
from flask_durable.prometheus import instrument
from flask_durable.prometheus import JournalCollector
from flask_durable.testing import Crashed
from flask_durable.testing import durable_client

from .driving import Drive


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


class Numbers:
    """What a registry has."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str, role: str = "view", **labels: str) -> float | None:
        """Give a sample by its name and labels."""
        return self.registry.get_sample_value(
            f"durable_{name}", {**labels, "role": role}
        )

    def steps(self) -> dict[str, float]:
        """Count the steps by their names."""
        return {
            sample.labels["step"]: sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "durable_steps_total"
        }


@pytest.fixture
def numbers(app: Flask, durable: FlaskDurable) -> Numbers:
    """Count what the app does, in a registry of this test's own."""
    numbers = Numbers()
    instrument(app, numbers.registry)
    app.config["DURABLE_INLINE_RETRY"] = 0

    @app.post("/good")
    @durable.endpoint
    def good() -> str:
        return step.run("first", str, "done")

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.sleep("nap", 60)
        return "awake"

    @app.post("/bad")
    @durable.endpoint(on_failure=lambda execution: None)
    def bad() -> str:
        return step.run("bad", fail, NonRetryableError("no"))

    return numbers


def fail(error: Exception) -> t.NoReturn:
    """Raise an error, in a step."""
    raise error


def test_a_completed_execution(client: FlaskClient, numbers: Numbers) -> None:
    """It is counted, and its time."""
    client.post("/good")
    labels = {"endpoint": "good", "outcome": "completed"}
    assert numbers("executions_total", **labels) == 1
    assert numbers("execution_duration_seconds_count", **labels) == 1
    assert numbers("attempts_total", endpoint="good") == 1
    assert numbers("queue_delay_seconds_count", endpoint="good") is None
    assert numbers("steps_total", step="first", **labels) == 1
    assert numbers("step_duration_seconds_count", step="first", **labels) == 1
    assert numbers("step_retries_total", step="first", endpoint="good") is None


def test_a_suspended_execution(
    client: FlaskClient, drive: Drive, numbers: Numbers
) -> None:
    """Its attempts, why they ended, and how long the second was due."""
    drive.finish(client.post("/nap"))
    assert numbers("attempts_total", endpoint="nap") == 2
    assert numbers("suspensions_total", endpoint="nap", reason="step") == 1
    assert numbers("queue_delay_seconds_count", endpoint="nap") == 1
    duration = numbers(
        "execution_duration_seconds_sum", endpoint="nap", outcome="completed"
    )
    assert duration is not None and duration >= 60


def test_a_failed_execution(
    client: FlaskClient, drive: Drive, numbers: Numbers
) -> None:
    """And what follows it, which has a role of its own."""
    client.post("/bad")
    drive.run_due()
    labels = {"endpoint": "bad", "outcome": "failed"}
    assert numbers("executions_total", **labels) == 1
    assert numbers("steps_total", step="bad", **labels) == 1
    after = {"endpoint": "bad", "outcome": "completed", "role": "on_failure"}
    assert numbers("executions_total", **after) == 1


def test_retries(
    app: Flask, durable: FlaskDurable, drive: Drive, numbers: Numbers
) -> None:
    """Tries beyond the first."""
    errors: list[Exception] = [OSError(), OSError()]

    @app.post("/unsteady")
    @durable.endpoint(retry=Retry(initial=60))
    def unsteady() -> str:
        return step.run("flaky", lambda: fail(errors.pop()) if errors else "done")

    drive.finish(app.test_client().post("/unsteady"))
    assert numbers("step_retries_total", endpoint="unsteady", step="flaky") == 2


def test_a_recovery(app: Flask, numbers: Numbers) -> None:
    """An attempt that lost its process is no suspension."""
    kit = durable_client(app)
    kit.crash_before("first")

    with pytest.raises(Crashed) as crashed:
        kit.post("/good")

    kit.run_until_complete(crashed.value)
    assert numbers("recoveries_total", endpoint="good") == 1
    assert numbers("suspensions_total", endpoint="good", reason="crash") is None


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("charge", "charge"),
        ("item[12]", "item"),
        ("charge#2", "charge"),
        ("item[3]#2", "item"),
        ("a[1].b", "a[1].b"),
        ("#1", "#1"),
    ],
)
def test_plain_names(id: str, name: str) -> None:
    """Numbers that a loop or a map gave are left out."""
    assert plain_name(id) == name


def test_items_of_a_map_are_one_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient, numbers: Numbers
) -> None:
    """Else each would be a series of its own."""

    @app.post("/many")
    @durable.endpoint
    def many() -> list[str]:
        step.run("same", str)
        step.run("same", str)
        return step.map("item", str, range(5))

    client.post("/many")
    assert numbers.steps() == {"same": 2, "item": 5}


def test_names_of_steps_are_bounded(
    app: Flask, durable: FlaskDurable, client: FlaskClient, numbers: Numbers
) -> None:
    """Names that have data in them come to an end."""

    @app.post("/wild")
    @durable.endpoint
    def wild() -> str:
        for number in range(MAX_STEPS + 3):
            step.run(f"charge-{number}-euro", str)

        return ""

    client.post("/wild")
    counts = numbers.steps()
    assert len(counts) == MAX_STEPS + 1
    assert counts[OTHER] == 3


def test_apps_share_a_registry(app: Flask, numbers: Numbers, sqlite_url: str) -> None:
    """Each metric is registered once."""
    other = Flask("other")
    other.config.update(DURABLE_DATABASE_URL=sqlite_url, TESTING=True)
    FlaskDurable(other)
    instrument(other, numbers.registry)


def test_an_app_is_instrumented_once(app: Flask, numbers: Numbers) -> None:
    """It would be counted twice."""
    with pytest.raises(RuntimeError, match="call instrument once"):
        instrument(app, numbers.registry)


def test_an_app_that_is_not_durable() -> None:
    """The extension comes first."""
    with pytest.raises(RuntimeError, match="not durable yet"):
        instrument(Flask("plain"), CollectorRegistry())


# What the journal has


def journal(registry: CollectorRegistry, status: str) -> float | None:
    """Give how many executions have a status."""
    labels = {"endpoint": "nap", "status": status}
    return registry.get_sample_value("durable_journal_executions", labels)


def test_the_journal_is_counted(
    app: Flask, client: FlaskClient, drive: Drive, numbers: Numbers
) -> None:
    """By endpoint and status, when it is scraped."""
    client.post("/nap")
    drive.advance(65)
    numbers.registry.register(JournalCollector(app))
    assert journal(numbers.registry, "suspended") == 1
    late = numbers.registry.get_sample_value("durable_journal_lateness_seconds")
    assert late is not None and 4.5 < late < 15


def test_counts_are_kept_for_a_while(
    app: Flask,
    client: FlaskClient,
    numbers: Numbers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scrapers that come at once don't ask the database each."""
    numbers.registry.register(JournalCollector(app, max_age=10))
    client.post("/nap")
    assert journal(numbers.registry, "suspended") == 1
    client.post("/nap")
    assert journal(numbers.registry, "suspended") == 1
    later = boottime() + 11
    monkeypatch.setattr("flask_durable.clock.boottime", lambda: later)
    assert journal(numbers.registry, "suspended") == 2


def test_a_database_that_is_away(
    app: Flask, client: FlaskClient, numbers: Numbers, caplog: pytest.LogCaptureFixture
) -> None:
    """Other metrics are given all the same."""
    client.post("/good")
    app.extensions["durable"].close()
    numbers.registry.register(JournalCollector(app))
    text = generate_latest(numbers.registry).decode()
    assert "durable_executions_total{" in text
    assert "durable_journal_executions{" not in text
    assert "The executions were not counted" in caplog.text
