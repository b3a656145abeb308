"""The signals: each one, sent once, after the commit that it tells of."""

from __future__ import annotations

import collections.abc as cabc
import logging
import subprocess
import sys
import typing as t

import pytest
from blinker import NamedSignal
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import execution_cancelled
from flask_durable import execution_completed
from flask_durable import execution_failed
from flask_durable import execution_started
from flask_durable import execution_suspended
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import notices
from flask_durable import step
from flask_durable import step_completed
from flask_durable import step_failed
from flask_durable.recovery import MAX_CRASHES
from flask_durable.recovery import release
from flask_durable.recovery import release_all
from flask_durable.replay import MAX_REFUSALS
from flask_durable.state import get_state
from flask_durable.testing import Crashed
from flask_durable.testing import durable_client
from flask_durable.testing import DurableClient

from .driving import Drive

SIGNALS: dict[str, NamedSignal] = {
    "started": execution_started,
    "suspended": execution_suspended,
    "completed": execution_completed,
    "failed": execution_failed,
    "cancelled": execution_cancelled,
    "step_completed": step_completed,
    "step_failed": step_failed,
}


class Heard(t.NamedTuple):
    """A signal that was sent, with what it carried."""

    name: str
    execution: t.Any
    more: dict[str, t.Any]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def heard(app: Flask) -> cabc.Iterator[list[Heard]]:
    """Listen to all signals of the app."""
    heard: list[Heard] = []
    receivers = {}

    for name in SIGNALS:

        def hear(
            sender: Flask, execution: t.Any, name: str = name, **more: t.Any
        ) -> None:
            assert sender is app
            heard.append(Heard(name, execution, more))

        receivers[name] = hear
        SIGNALS[name].connect(hear, app)

    yield heard

    for name, receiver in receivers.items():
        SIGNALS[name].disconnect(receiver, app)


def names(heard: list[Heard]) -> list[str]:
    """Name the signals that were heard, in order."""
    return [each.name for each in heard]


def fail(error: Exception) -> t.NoReturn:
    """Raise an error, in a step."""
    raise error


@pytest.fixture(autouse=True)
def views(app: Flask, durable: FlaskDurable) -> None:
    """Make views that end in all ways."""

    @app.post("/good")
    @durable.endpoint
    def good() -> str:
        return step.run("first", str, "done")

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.run("first", str)
        step.sleep("nap", 60)
        return "awake"

    @app.post("/bad")
    @durable.endpoint
    def bad() -> str:
        step.run("bad", fail, NonRetryableError("no"))
        return "never"

    @app.post("/odd")
    @durable.endpoint
    def odd() -> str:
        step.run("first", str)
        raise OSError("odd")

    @app.post("/many")
    @durable.endpoint
    def many() -> list[str]:
        return step.map("item", str, range(3))


def test_an_execution_in_one_request(client: FlaskClient, heard: list[Heard]) -> None:
    """It starts, its step ends, it ends; each is told once."""
    answer = client.post("/good")
    assert names(heard) == ["started", "step_completed", "completed"]
    assert {each.execution.id for each in heard} == {
        answer.headers["Durable-Execution"]
    }
    assert {each.execution.endpoint for each in heard} == {"good"}
    started, _, completed = heard
    assert (started.execution.status, started.execution.attempt) == ("running", 1)
    assert started.more == {"delay": None}
    assert completed.execution.status == "completed"
    assert 0 <= completed.more["duration"] < 10


def test_a_step_carries_its_line_of_the_journal(
    client: FlaskClient, heard: list[Heard]
) -> None:
    """And how long it took."""
    client.post("/good")
    done = heard[1].more["step"]
    assert (done.id, done.kind, done.status, done.tries) == (
        "first",
        "run",
        "completed",
        1,
    )
    assert 0 <= heard[1].more["duration"] < 10


def test_each_attempt_starts_and_is_suspended_or_ends(
    client: FlaskClient, drive: Drive, heard: list[Heard]
) -> None:
    """What was done before is not told again."""
    drive.finish(client.post("/nap"))
    told = [(each.name, each.execution.attempt) for each in heard]
    assert told == [
        ("started", 1),
        ("step_completed", 1),
        ("suspended", 1),
        ("started", 2),
        ("step_completed", 2),
        ("completed", 2),
    ]
    assert heard[4].more["step"].kind == "sleep"
    assert heard[4].more["duration"] >= 60


def test_a_suspension_tells_why_and_until_when(
    client: FlaskClient, heard: list[Heard]
) -> None:
    """As the journal has it then."""
    client.post("/nap")
    suspended = heard[-1]
    assert suspended.more == {"reason": "step"}
    assert suspended.execution.status == "suspended"
    left = suspended.execution.ready_at - suspended.execution.created_at
    assert 59 < left.total_seconds() < 70


def test_a_replay_tells_how_long_it_was_due(
    client: FlaskClient, drive: Drive, heard: list[Heard]
) -> None:
    """From the wake time to the claim."""
    client.post("/nap")
    drive.advance(65)
    heard.clear()
    drive.run_due()
    assert 4.5 < heard[0].more["delay"] < 15


def test_a_failed_execution(client: FlaskClient, heard: list[Heard]) -> None:
    """With what it failed by."""
    client.post("/bad")
    assert names(heard) == ["started", "step_failed", "failed"]
    assert heard[1].more["step"].error_type.endswith("NonRetryableError")
    assert heard[2].execution.error_type.endswith("StepError")
    assert "no" in heard[2].execution.error_message


def test_a_view_that_raises_is_suspended_by_its_error(
    client: FlaskClient, heard: list[Heard]
) -> None:
    """Outside of its steps it is tried again."""
    client.post("/odd")
    assert heard[-1].name == "suspended"
    assert heard[-1].more["reason"] == "error"
    assert heard[-1].execution.error_type == "OSError"


def test_branches_are_heard(client: FlaskClient, heard: list[Heard]) -> None:
    """From their threads."""
    client.post("/many")
    done = [each.more["step"].id for each in heard if each.name == "step_completed"]
    assert sorted(done) == ["item[0]", "item[1]", "item[2]"]


def test_a_suspended_execution_that_is_cancelled(
    app: Flask, client: FlaskClient, durable: FlaskDurable, heard: list[Heard]
) -> None:
    """By whoever cancels it."""
    execution_id = client.post("/nap").headers["Durable-Execution"]
    heard.clear()

    with app.app_context():
        durable.cancel(execution_id)

    (cancelled,) = heard
    assert cancelled.name == "cancelled"
    assert cancelled.execution.id == execution_id
    assert cancelled.execution.status == "cancelled"
    assert cancelled.more["duration"] >= 0


def test_a_running_execution_that_is_cancelled(
    app: Flask, client: FlaskClient, durable: FlaskDurable, heard: list[Heard]
) -> None:
    """By its own attempt, once."""

    @app.post("/long")
    @durable.endpoint
    def long() -> str:
        step.run("cancel", lambda: durable.cancel(heard[0].execution.id))
        step.run("next", str)
        return "never"

    client.post("/long")
    assert names(heard) == ["started", "step_completed", "cancelled"]


@pytest.mark.parametrize(("crashed", "reason"), [(True, "crash"), (False, "stop")])
def test_an_attempt_that_is_taken_from_its_owner(
    app: Flask,
    client: FlaskClient,
    heard: list[Heard],
    drive: Drive,
    crashed: bool,
    reason: str,
) -> None:
    """By the process that takes it."""
    begin_and_leave(app, client)
    heard.clear()
    state = drive.state
    (held,) = state.upkeep.held(state.owner)
    assert release(state.upkeep, held, state.owner, crashed)
    (suspended,) = heard
    assert (suspended.name, suspended.more["reason"]) == ("suspended", reason)
    assert suspended.execution.attempt == 1
    assert suspended.execution.status == "suspended"


def begin_and_leave(app: Flask, client: FlaskClient) -> str:
    """Begin an execution whose process is gone by now, as far as the row says."""
    ids: list[str] = []

    def take(sender: Flask, execution: t.Any, **more: t.Any) -> t.NoReturn:
        ids.append(execution.id)
        raise SystemExit

    with execution_started.connected_to(take, app), pytest.raises(SystemExit):
        client.post("/good")

    return ids[0]


def test_an_execution_that_is_given_up(
    app: Flask, client: FlaskClient, drive: Drive, heard: list[Heard]
) -> None:
    """By the sweeper that does so."""
    begin_and_leave(app, client)
    heard.clear()
    state = drive.state
    (held,) = state.upkeep.held(state.owner)
    doomed = held.__class__(
        held.id, held.attempt, held.ready_at, MAX_CRASHES - 1, False
    )
    assert release(state.upkeep, doomed, state.owner)
    (failed,) = heard
    assert failed.name == "failed"
    assert failed.execution.error_type.endswith("AttemptCrashed")


def test_an_execution_whose_replays_are_refused(
    app: Flask, client: FlaskClient, drive: Drive, heard: list[Heard]
) -> None:
    """At the tenth refusal."""
    client.post("/nap")
    app.before_request_funcs.setdefault(None, []).append(lambda: ("no", 401))

    for _ in range(MAX_REFUSALS):
        drive.advance(1000)
        drive.run_due()

    assert names(heard).count("failed") == 1
    assert heard[-1].execution.error_type.endswith("ReplayRejected")


def test_a_lost_lease_sends_nothing(
    app: Flask, client: FlaskClient, durable: FlaskDurable, heard: list[Heard]
) -> None:
    """What was not committed is not told."""

    def lose() -> None:
        state = get_state(app)
        release_all(state.upkeep, state.owner)
        heard.clear()

    @app.post("/zombie")
    @durable.endpoint
    def zombie() -> str:
        step.run("lose", lose)
        return "never"

    assert client.post("/zombie").status_code == 202
    assert heard == []


def test_a_receiver_that_raises_is_logged(
    app: Flask,
    client: FlaskClient,
    heard: list[Heard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The execution and the other receivers go on."""

    def raises(sender: Flask, **more: t.Any) -> t.NoReturn:
        raise ValueError("a bug")

    with caplog.at_level(logging.ERROR), step_completed.connected_to(raises, app):
        assert client.post("/good").text == "done"

    assert names(heard) == ["started", "step_completed", "completed"]
    assert "A receiver of the signal durable-step-completed failed" in caplog.text
    assert "ValueError: a bug" in caplog.text


def test_a_receiver_may_be_async(app: Flask, client: FlaskClient) -> None:
    """As a view and a step may."""
    ids: list[str] = []

    async def hear(sender: Flask, execution: t.Any, **more: t.Any) -> None:
        ids.append(execution.id)

    with execution_completed.connected_to(hear, app):
        answer = client.post("/good")

    assert ids == [answer.headers["Durable-Execution"]]


def test_a_receiver_is_told_after_the_commit(
    app: Flask, client: FlaskClient, durable: FlaskDurable
) -> None:
    """The journal has it by then."""
    found: list[str] = []

    def look(sender: Flask, execution: t.Any, **more: t.Any) -> None:
        info = durable.get(execution.id)
        found.append(f"{info.status}: {[each.status for each in info.steps]}")

    with execution_completed.connected_to(look, app):
        client.post("/good")

    assert found == ["completed: ['completed']"]


def test_other_apps_hear_nothing(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender is the app."""

    def hear(sender: Flask, **more: t.Any) -> t.NoReturn:
        raise AssertionError("it is not ours")

    with execution_completed.connected_to(hear, Flask("other")):
        assert client.post("/good").status_code == 200

    assert "AssertionError" not in caplog.text


def test_what_nobody_hears_is_not_made(
    client: FlaskClient,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It costs nothing."""

    def make(*args: t.Any) -> t.NoReturn:
        raise AssertionError("it was made")

    monkeypatch.setattr(notices, "execution_info", make)
    monkeypatch.setattr(notices, "step_info", make)
    drive.finish(client.post("/nap"))
    client.post("/bad")
    assert "was not sent" not in caplog.text


def test_a_muted_signal_is_silent(client: FlaskClient, heard: list[Heard]) -> None:
    """As blinker has it."""
    with step_completed.muted():
        client.post("/good")

    assert names(heard) == ["started", "completed"]


def test_what_follows_a_failure_is_an_execution_of_its_own(
    app: Flask, client: FlaskClient, durable: FlaskDurable, heard: list[Heard]
) -> None:
    """By its role it can be told apart."""

    @app.post("/followed")
    @durable.endpoint(on_failure=lambda execution: step.run("clean", str))
    def followed() -> str:
        step.run("bad", fail, NonRetryableError("no"))
        return "never"

    client.post("/followed")
    Drive(app).run_due()
    assert [(each.name, each.execution.role) for each in heard][-3:] == [
        ("started", "on_failure"),
        ("step_completed", "on_failure"),
        ("completed", "on_failure"),
    ]


@pytest.fixture
def kit(app: Flask) -> DurableClient:
    """Give the kit's client."""
    return durable_client(app)


def test_a_crash_in_a_step(kit: DurableClient, heard: list[Heard]) -> None:
    """The process that recovers tells of it."""
    kit.crash_before("first")

    with pytest.raises(Crashed) as crashed:
        kit.post("/good")

    kit.run_until_complete(crashed.value)
    assert [(each.name, each.more.get("reason")) for each in heard] == [
        ("started", None),
        ("suspended", "crash"),
        ("started", None),
        ("step_completed", None),
        ("completed", None),
    ]


def test_the_extension_loads_no_telemetry() -> None:
    """Neither of the libraries is needed, nor imported."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "sys.modules['prometheus_client'] = None; import flask_durable"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("module", "needed", "extra"),
    [
        ("flask_durable.otel", "opentelemetry", "otel"),
        ("flask_durable.prometheus", "prometheus_client", "prometheus"),
    ],
)
def test_a_missing_library_is_named(module: str, needed: str, extra: str) -> None:
    """With the command that installs it."""
    code = f"import sys; sys.modules[{needed!r}] = None; import {module}"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert f'pip install "flask-durable[{extra}]"' in ran.stderr
