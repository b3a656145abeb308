"""The commands: tables for people, JSON for programs, errors as sentences."""

from __future__ import annotations

import dataclasses
import json
import re
import time
import typing as t

import pytest
from click.testing import Result
from flask import Flask
from flask import request
from flask.testing import FlaskClient

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import schema
from flask_durable import signing
from flask_durable import step
from flask_durable.state import get_state
from flask_durable.tables import SCHEMA_VERSION

from .driving import Drive
from .fakes import FakeTime
from .processes import free_port
from .processes import HOST
from .serving import serving


class Run(t.Protocol):
    """Runs ``flask durable`` with some words."""

    def __call__(self, *words: str) -> Result: ...


@pytest.fixture
def run(app: Flask, durable: FlaskDurable) -> Run:
    """Run commands of an app with a view that may fail."""
    paid: list[int] = []

    def pay() -> str:
        paid.append(1)

        if len(paid) == 1:
            raise NonRetryableError("the card was declined")

        return "paid"

    @app.post("/orders/<item>")
    @durable.endpoint
    def order(item: str) -> t.Any:
        step.run("reserve", str, item)

        if item == "wait":
            step.wait_for_event("wait", "never")

        if item == "nap":
            step.sleep("nap", 60)
            step.wait_for_event("wait", "never")

        if item == "pay":
            step.run("pay", pay)

        return {"item": item, "sent": request.get_json(silent=True)}

    def run(*words: str) -> Result:
        return app.test_cli_runner().invoke(args=["durable", *words])

    return run


def begin(client: FlaskClient, item: str) -> str:
    """Begin an execution, and give its id."""
    return client.post(f"/orders/{item}").headers["Durable-Execution"]


def test_executions_are_listed(run: Run, client: FlaskClient) -> None:
    """As a table, or as JSON."""
    assert run("list").output == "There are none.\n"
    mine = begin(client, "tea")
    waiting = begin(client, "wait")
    header, first, second = run("list").output.splitlines()
    assert header.split()[:3] == ["ID", "ENDPOINT", "STATUS"]
    assert first.split()[:4] == [waiting, "order", "suspended", "1"]
    assert second.split()[:4] == [mine, "order", "completed", "1"]
    (found,) = json.loads(run("list", "--status", "suspended", "--json").output)
    assert (found["id"], found["status"]) == (waiting, "suspended")
    assert "steps" not in found


def test_an_execution_is_shown(run: Run, client: FlaskClient) -> None:
    """With its steps, and why it failed."""
    mine = begin(client, "pay")
    text = run("show", mine).output
    assert text.startswith("order: failed in attempt 1")
    assert "the card was declined" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["reserve", "pay"]
    assert json.loads(run("show", mine, "--json").output)["steps"][1]["tries"] == 1
    assert "waits until it is woken" in run("show", begin(client, "wait")).output


def test_what_an_execution_belongs_to_is_shown(
    app: Flask, durable: FlaskDurable, run: Run, client: FlaskClient
) -> None:
    """Its parent, or whose failure it follows; and that it was asked to end."""
    shown: list[str] = []

    def fail() -> None:
        durable.cancel(current_execution.id)
        shown.append(run("show", current_execution.id).output)
        raise NonRetryableError("no")

    @app.post("/parent")
    @durable.endpoint(on_failure=print)
    def parent() -> t.Any:
        step.invoke("child", "order", values={"item": "nap"})

    @app.post("/late")
    @durable.endpoint(on_failure=print)
    def late() -> t.Any:
        step.run("fail", fail)

    mine = client.post("/parent").headers["Durable-Execution"]
    client.post("/late")
    assert "\nis asked to end at its next step\n" in shown[0]

    with app.app_context():
        (child,) = durable.executions(endpoint="order")
        durable.cancel(mine)
        handler = durable.executions(endpoint="parent")[0]

    assert f"\nbegun by {mine}\n" in run("show", child.id).output
    assert f"\nafter the failure of {mine}\n" in run("show", handler.id).output


def test_times_have_their_zone(
    run: Run, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads them may live elsewhere than the machine."""
    mine = begin(client, "tea")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()

    try:
        shown, listed = run("show", mine).output, run("list").output
    finally:
        monkeypatch.undo()
        time.tzset()

    assert shown.count("+05:30") == 2  # of the execution and its step
    assert listed.count("+05:30") == 1


def test_errors_of_steps_are_shown_in_a_line(
    app: Flask, durable: FlaskDurable, run: Run, client: FlaskClient
) -> None:
    """With their messages, which may be long; JSON has all of it."""

    def fail() -> None:
        raise NonRetryableError("no\nmoney " + "x " * 500)

    @app.post("/poor")
    @durable.endpoint
    def poor() -> t.Any:
        step.run("pay", fail)

    mine = client.post("/poor").headers["Durable-Execution"]
    last = run("show", mine).output.splitlines()[-1]
    assert "NonRetryableError: no money x x" in last
    assert last.endswith(" …")
    (pay,) = json.loads(run("show", mine, "--json").output)["steps"]
    assert pay["error_message"].startswith("no\nmoney x")


def test_what_a_cancelled_execution_waited_for_is_cut_off(
    run: Run, client: FlaskClient
) -> None:
    """Its steps wait no more; the journal has them as they were."""
    mine = begin(client, "wait")
    last = run("show", mine).output.splitlines()[-1]
    assert last.split()[:3] == ["wait", "event", "waiting"]
    run("cancel", mine)
    reserve, wait = run("show", mine).output.splitlines()[-2:]
    assert reserve.split()[:3] == ["reserve", "run", "completed"]
    assert wait.split()[:4] == ["wait", "event", "cut", "off"]
    shown = json.loads(run("show", mine, "--json").output)
    assert shown["steps"][1]["status"] == "waiting"


def test_what_is_shown_steers_no_terminal(
    app: Flask, durable: FlaskDurable, run: Run, client: FlaskClient
) -> None:
    """Clients may have written it: it could clear the screen, or hide a line."""

    @app.post("/talk")
    @durable.endpoint
    def talk() -> str:
        step.run("a\x1b[2J\nb\u202e", str)
        raise NonRetryableError("one\n\ttwo\r\x9b1A\ud800")

    answer = client.post("/talk")
    shown = run("show", answer.headers["Durable-Execution"]).output
    assert "one\n\ttwo\\r\\x9b1A\\ud800\n" in shown
    assert "a\\x1b[2J\\nb\\u202e  run" in shown
    missing = run("show", "\x1b[2J").output
    assert "\x1b" not in missing and "\\x1b[2J" in missing


def test_a_long_error_of_a_step_is_cut(
    app: Flask, durable: FlaskDurable, run: Run, client: FlaskClient
) -> None:
    """Whether it has spaces or not."""

    @app.post("/talk")
    @durable.endpoint
    def talk() -> str:
        def fail() -> None:
            raise NonRetryableError("x" * 1000)

        step.run("fail", fail)
        return "never"

    execution_id = client.post("/talk").headers["Durable-Execution"]
    last = run("show", execution_id).output.splitlines()[-1]
    assert f"NonRetryableError: {'x' * 100}" in last and last.endswith("x …")


@pytest.mark.parametrize("kind", [list, set])
def test_what_is_started_has_a_trusted_host(
    app: Flask, run: Run, drive: Drive, kind: type
) -> None:
    """Else its own replays would be refused."""
    app.config["TRUSTED_HOSTS"] = kind([".shop.example"])
    execution_id = run("start", "order", "--value", "item=tea").output.strip()
    drive.run_due()
    assert "completed in attempt 1" in run("show", execution_id).output


def test_replays_that_are_turned_away_are_shown(
    run: Run, app: Flask, client: FlaskClient, drive: Drive
) -> None:
    """Until an attempt begins, nothing else tells of them."""
    mine = begin(client, "nap")
    assert "did not reach" not in run("show", mine).output
    hooks = app.before_request_funcs.setdefault(None, [])
    hooks.append(lambda: ("no", 401))

    for _ in range(2):
        drive.advance(61)
        drive.run_due()

    lines = run("show", mine).output.splitlines()
    assert lines[2].startswith("goes on in ")
    assert lines[3] == (
        "replays that did not reach the view: 2; rejected by the app: 2 (it fails at"
        " 10); the log has the answers"
    )
    assert json.loads(run("show", mine, "--json").output)["refusals"] == 2
    hooks.pop()
    drive.advance(61)
    drive.run_due()
    assert "did not reach" not in run("show", mine).output


def test_an_execution_is_started(run: Run, drive: Drive) -> None:
    """By its endpoint's name; the id is printed."""
    words = ("--value", "item=tea", "--json", '{"a": 1}')
    mine = run("start", "order", *words).output.strip()
    drive.run_due()
    assert "completed" in run("show", mine).output


class Server(FakeTime):
    """A clock that turns while somebody sleeps, and then has what is due run."""

    def __init__(self, drive: Drive, run_at: float) -> None:
        super().__init__()
        self._drive = drive
        self._run_at = run_at

    def sleep(self, seconds: float) -> None:
        """Turn the clock, and run what is due if it is time for that."""
        super().sleep(seconds)

        if self.now >= self._run_at:
            self._drive.run_due()


@pytest.mark.parametrize(("run_at", "told"), [(4, False), (20, True)])
def test_a_start_that_nobody_takes_up_is_told(
    run: Run, drive: Drive, monkeypatch: pytest.MonkeyPatch, run_at: float, told: bool
) -> None:
    """Once, while the command goes on to wait."""
    monkeypatch.setattr("flask_durable.cli.operate.time", Server(drive, run_at))
    done = run("start", "order", "--value", "item=tea", "--wait")
    assert done.output.splitlines()[-1] == "completed"
    assert done.output.count("Nobody has begun it yet: does a server") == told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start", "nowhere"], 'Error: There is no endpoint "nowhere"'),
        (["start", "order", "--value", "item"], "'item' is not NAME=VALUE"),
        (["start", "order", "--json", "{"], "--json"),
        (["show", "gone"], "Error: There is no execution gone."),
        (["cancel", "gone"], "Error: There is no execution gone."),
        (["resume", "gone"], "Error: There is no execution gone."),
        (["rerun", "gone"], "Error: There is no execution gone."),
    ],
)
def test_errors_are_sentences(run: Run, words: list[str], message: str) -> None:
    """And an exit code."""
    done = run(*words)
    assert done.exit_code != 0
    assert message in done.output
    assert "Traceback" not in done.output


def test_executions_are_steered(run: Run, client: FlaskClient, drive: Drive) -> None:
    """Cancelled, resumed, run again, deleted."""
    waiting = begin(client, "wait")
    assert run("cancel", waiting).output == f"Execution {waiting} is cancelled.\n"
    assert "has ended already" in run("cancel", waiting).output
    failed = begin(client, "pay")
    assert run("resume", failed).output == f"Execution {failed} goes on.\n"
    drive.run_due()
    assert "completed" in run("show", failed).output
    again = run("rerun", failed, "--from-step", "pay").output.strip()
    drive.run_due()
    assert "completed" in run("show", again).output
    assert run("purge").output == "Deleted 0 executions.\n"
    assert run("purge", "--older-than", "0").output == "Deleted 3 executions.\n"


def test_executions_are_counted(run: Run, client: FlaskClient, drive: Drive) -> None:
    """By endpoint and status."""
    begin(client, "tea")
    begin(client, "wait")
    rows = [line.split() for line in run("stats").output.splitlines()[1:3]]
    assert rows == [["order", "completed", "1"], ["order", "suspended", "1"]]
    found = json.loads(run("stats", "--json").output)
    assert found["seconds_late"] == 0.0
    assert run("stats").output.endswith("\nNothing is due.\n")
    run("start", "order", "--value", "item=tea")
    drive.advance(60)
    assert "\nDue executions have waited for up to 60." in run("stats").output


def test_all_is_well(run: Run) -> None:
    """A line each, without Redis too."""
    begun = run("upgrade")
    assert begun.exit_code == 0
    done = run("check")
    assert done.exit_code == 0
    lines = [line.partition(":")[0] for line in done.output.splitlines()]
    names = [
        "settings",
        "database",
        "schema",
        "secret key",
        "redis",
        "workers",
        "replay url",
    ]
    assert lines == [*(f"ok   {name}" for name in names), "warn hosts"]


def test_hosts_that_are_named_are_well(
    app: Flask, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or those of one's own machine, in debug mode."""
    app.config["TRUSTED_HOSTS"] = [".shop.example", "localhost"]
    assert "ok   hosts: .shop.example, localhost\n" in run("check").output
    app.config["TRUSTED_HOSTS"] = None
    assert json.loads(run("check", "--json").output)[-1]["ok"]
    monkeypatch.setenv("FLASK_DEBUG", "1")
    assert "ok   hosts: any, in debug mode" in run("check").output


def test_a_server_of_named_hosts_is_found(app: Flask, run: Run) -> None:
    """The replay URL is none of them."""
    app.config["TRUSTED_HOSTS"] = [".shop.example"]

    with serving(app) as url:
        state = get_state(app)
        state.config = dataclasses.replace(state.config, replay_url=url)
        assert f"ok   replay url: {url} answers" in run("check").output


@pytest.mark.parametrize(
    ("name", "key", "advice"),
    [
        (None, "tests", None),
        (None, "other", "has another SECRET_KEY"),
        ("other", "tests", "leads to another app"),
    ],
)
def test_a_server_that_would_refuse_replays_is_bad(
    app: Flask, run: Run, sqlite_url: str, name: str | None, key: str, advice: str
) -> None:
    """It answers as an app does, and none of ours would go on there."""
    server = Flask(name or app.name)
    server.config.update(SECRET_KEY=key, DURABLE_DATABASE_URL=sqlite_url)
    FlaskDurable(server)

    with serving(server) as url:
        state = get_state(app)
        state.config = dataclasses.replace(state.config, replay_url=url)
        output = run("check").output

    assert ("ok   replay url" in output) == (advice is None)
    assert advice is None or re.search(f"bad  replay url: .*{advice}", output)
    get_state(server).close()


def test_a_server_with_another_clock_is_bad(
    app: Flask, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tickets expire before they are there."""
    monkeypatch.setattr(signing, "TICKET_AGE", -1.0)

    with serving(app) as url:
        state = get_state(app)
        state.config = dataclasses.replace(state.config, replay_url=url)
        assert "synchronise the machines' clocks" in run("check").output


def test_a_check_is_no_refusal(
    app: Flask, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's log tells of refusals, and a check may come every minute."""
    with serving(app) as url:
        state = get_state(app)
        state.config = dataclasses.replace(state.config, replay_url=url)
        run("check")

    assert "Refused a replay" not in caplog.text


@pytest.mark.no_tables
@pytest.mark.parametrize(
    ("create", "found", "line"),
    [
        (True, None, "ok   schema: none yet, made at the first use"),
        (True, "0001", f"ok   schema: 0001, brought to {SCHEMA_VERSION} at the first"),
        (True, "9999", "bad  schema: .* which is newer than this"),
        (False, None, "bad  schema: .* and DURABLE_CREATE_TABLES is off: run `flask"),
        (False, "0001", "bad  schema: .* has schema 0001, and .* run `flask durable"),
    ],
)
def test_tables_that_are_made_at_the_first_use_are_well(
    app: Flask,
    durable: FlaskDurable,
    monkeypatch: pytest.MonkeyPatch,
    create: bool,
    found: str | None,
    line: str,
) -> None:
    """Unless that is turned off; the check makes none itself."""
    state = get_state(app)
    state.config = dataclasses.replace(state.config, create_tables=create)
    monkeypatch.setattr(schema, "_read_version", lambda connection: found)
    done = app.test_cli_runner().invoke(args=["durable", "check"])
    assert re.match(line, done.output.splitlines()[2])
    assert done.exit_code == line.startswith("bad")


def test_what_is_bad_is_told(app: Flask, tmp_path: t.Any) -> None:
    """One line each, and an exit code."""
    nobody = f"127.0.0.1:{free_port()}"
    app.config.update(
        DURABLE_DATABASE_URL=f"sqlite:///{tmp_path}/none/journal.db",
        DURABLE_REDIS_URL=f"redis://{nobody}",
        DURABLE_REPLAY_URL=f"http://{nobody}",
        SECRET_KEY=None,
    )
    FlaskDurable(app)
    done = app.test_cli_runner().invoke(args=["durable", "check", "--json"])
    assert done.exit_code == 1
    found = [result["ok"] for result in json.loads(done.output)]
    assert found == [True, *[False] * 6, True]
    assert HOST in done.output
