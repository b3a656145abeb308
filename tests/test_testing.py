"""The kit that users test their views with."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt
import itertools
import logging
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import typing as t

import pytest
from flask import Flask
from flask import request
from flask import session
from flask.testing import FlaskClient

from flask_durable import current_execution
from flask_durable import current_step
from flask_durable import ExecutionNotFound
from flask_durable import FlaskDurable
from flask_durable import NonDeterminismError
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import RetryAfterError
from flask_durable import step
from flask_durable import StepError
from flask_durable import StepInterruptedError
from flask_durable import WaitTimeoutError
from flask_durable.state import get_state
from flask_durable.testing import Crashed
from flask_durable.testing import durable_client
from flask_durable.testing import DurableClient
from flask_durable.testing import InjectedError
from flask_durable.testing import KitError
from flask_durable.testing import StillWaiting

DOCS = pathlib.Path(__file__).parent.parent / "docs"

MINUTE = dt.timedelta(minutes=1)


def nap(seconds: float = 60, id: str = "nap") -> str:
    """Sleep in a step."""
    step.sleep(id, seconds)
    return "slept"


class World:
    """What the steps of a view did."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def do(self, name: str) -> str:
        """Do something."""
        self.calls.append(name)
        return name.upper()


@pytest.fixture
def world() -> World:
    """Give what counts calls."""
    return World()


@pytest.fixture
def kit(app: Flask, durable: FlaskDurable) -> cabc.Iterator[DurableClient]:
    """Give the client that users get."""
    with durable_client(app) as client:
        yield client


@pytest.fixture
def replaying(app: Flask, durable: FlaskDurable) -> cabc.Iterator[DurableClient]:
    """Give the client that replays after each step."""
    with durable_client(app, always_replay=True) as client:
        yield client


class View(t.Protocol):
    """Says what the durable view does."""

    def __call__(
        self, function: cabc.Callable[[], t.Any], **options: t.Any
    ) -> None: ...


@pytest.fixture
def view(app: Flask, durable: FlaskDurable) -> View:
    """Make a durable view at ``/work``."""

    def make(function: cabc.Callable[[], t.Any], **options: t.Any) -> None:
        def work() -> t.Any:
            return function()

        app.add_url_rule(
            "/work", view_func=durable.endpoint(**options)(work), methods=["POST"]
        )

    return make


# A test client


def test_it_is_a_test_client(kit: DurableClient, view: View) -> None:
    """With its verbs, its sessions and its context."""

    def work() -> t.Any:
        return [session["user"], request.get_json(), step.run("a", str, 1)]

    view(work)

    with kit.session_transaction() as saved:
        saved["user"] = "ada"

    assert kit.post("/work", json=[7]).json == ["ada", [7], "1"]
    assert request.path == "/work"
    assert kit.get("/nowhere").status_code == 404


def test_it_is_of_the_apps_own_class(app: Flask, durable: FlaskDurable) -> None:
    """Such as the one that Flask-Login has."""

    class Client(FlaskClient):
        def __init__(self, *args: t.Any, user: str, **options: t.Any) -> None:
            super().__init__(*args, **options)
            self.user = user

    app.test_client_class = Client
    client = durable_client(app, user="ada")
    assert isinstance(client, Client)
    assert isinstance(client, DurableClient)
    assert client.user == "ada"


def test_an_app_that_replays_by_itself_is_refused(
    app: Flask, durable: FlaskDurable
) -> None:
    """Threads would run beside the test."""
    app.testing = False

    with pytest.raises(RuntimeError, match="set app.config"):
        durable_client(app)


def test_a_plain_client_is_told_that_nothing_goes_on(
    app: Flask, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, where its first execution suspends."""
    view(nap)
    client = app.test_client()
    assert client.post("/work").status_code == client.post("/work").status_code == 202
    assert caplog.text.count("use flask_durable.testing.durable_client(app)") == 1


def test_a_client_that_drives_is_told_nothing(
    kit: DurableClient, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    """It is what the others are pointed to."""
    view(nap)
    assert kit.post("/work").status_code == 202
    assert "app.testing" not in caplog.text


def test_an_app_that_is_not_durable_is_refused() -> None:
    """With the sentence that the extension has for it."""
    app = Flask(__name__)
    app.testing = True

    with pytest.raises(RuntimeError, match="not durable yet"):
        durable_client(app)


def test_no_thread_starts(kit: DurableClient, view: View) -> None:
    """Neither for the request nor for what follows."""
    view(lambda: [nap()])
    before = set(threading.enumerate())
    answer = kit.post("/work")
    kit.advance(61)
    assert kit.run_until_complete(answer).json == ["slept"]
    assert set(threading.enumerate()) <= before


def test_apps_without_a_database_have_one_each(tmp_path: pathlib.Path) -> None:
    """A temporary one, also if they have one name."""
    clients = []

    for _ in range(2):
        app = Flask(__name__, instance_path=str(tmp_path))
        app.config.update(SECRET_KEY="tests", TESTING=True)
        durable = FlaskDurable(app)
        app.add_url_rule("/", view_func=durable.endpoint(lambda: [nap()]))
        clients.append(durable_client(app))

    answers = [client.get("/") for client in clients]
    assert [answer.status_code for answer in answers] == [202, 202]
    labels = {opened(client).store.database.label for client in clients}
    assert len(labels) == 2
    assert list(tmp_path.iterdir()) == []
    clients[0].advance(60)
    assert clients[0].run_until_complete(answers[0]).json == ["slept"]

    with pytest.raises(StillWaiting):
        clients[1].run_until_complete(answers[1])

    for client in clients:
        opened(client).close()


def opened(client: DurableClient) -> t.Any:
    """Give the state of a client's app."""
    return get_state(client.application)


# To the end


def test_a_view_that_is_done_has_its_response(kit: DurableClient, view: View) -> None:
    """The same as the client got."""
    view(lambda: (step.run("a", dict, b=1), 201, {"X-Own": "yes"}))
    answer = kit.post("/work")
    final = kit.run_until_complete(answer)
    assert (final.status_code, final.json, final.headers["X-Own"]) == (
        answer.status_code,
        answer.json,
        "yes",
    )


def test_retries_do_not_wait(kit: DurableClient, view: View, world: World) -> None:
    """Those in place take no time, the clock is turned to the others."""
    fails = [1, 1, 1, 1]

    def pay() -> str:
        world.do("pay")

        if fails:
            fails.pop()
            raise RetryAfterError(3600)

        return "paid"

    view(lambda: step.run("pay", pay))
    began = time.monotonic()
    answer = kit.post("/work")
    assert answer.status_code == 202
    assert kit.run_until_complete(answer).text == "paid"
    assert len(world.calls) == 5
    assert time.monotonic() - began < 5


def test_retries_in_place_stay_in_the_request(
    app: Flask,
    kit: DurableClient,
    view: View,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As they do elsewhere, but without the pause."""
    state = get_state(app)
    patient = dataclasses.replace(state.config, inline_retry=60.0)
    monkeypatch.setattr(state, "config", patient)
    view(lambda: step.run("pay", world.do, "pay"), retry=Retry(initial=60, jitter=0))
    kit.fail_step("pay")
    began = time.monotonic()
    assert kit.post("/work").text == "PAY"
    assert time.monotonic() - began < 30


def test_errors_outside_of_steps_are_retried_too(
    kit: DurableClient, view: View
) -> None:
    """Their delays are no part of the scenario either."""

    def work() -> str:
        step.run("a", str, "a")

        if current_execution.attempt < 3:
            raise ValueError("not yet")

        return "done"

    view(work, retry=Retry(initial=100))
    assert kit.run_until_complete(kit.post("/work")).text == "done"


@pytest.mark.parametrize("timeout", [None, MINUTE])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sleep", r'step "it" sleeps until .*Z: client.advance\(60\)'),
        ("event", r'for an event: durable.send_event\("paid", key="7"\)'),
        ("callback", r"for its callback: post JSON to its URL, or call durable.compl"),
        ("poll", r'step "it" polls again later.*: client.advance\(60\)'),
    ],
)
def test_a_wait_is_named(
    kit: DurableClient, view: View, kind: str, message: str, timeout: t.Any
) -> None:
    """With its step, until when it lasts, and what to do."""
    verbs: dict[str, cabc.Callable[[], t.Any]] = {
        "sleep": lambda: nap(60, "it"),
        "event": lambda: step.wait_for_event("it", "paid", key="7", timeout=timeout),
        "callback": lambda: step.callback("it").wait(timeout),
        "poll": lambda: step.poll("it", int, every=60, timeout=timeout),
    }
    view(lambda: [verbs[kind]()])
    answer = kit.post("/work")

    with pytest.raises(StillWaiting, match=message) as caught:
        kit.run_until_complete(answer)

    assert (caught.value.kind, caught.value.step) == (kind, "it")
    assert caught.value.execution_id == answer.headers["Durable-Execution"]
    ends = kind in ("sleep", "poll") or timeout is not None
    assert (caught.value.until is not None) == ends
    text = str(caught.value)
    assert ("For its timeout: client.advance(60)" in text) == (
        timeout is not None and kind in ("event", "callback")
    )


def test_a_wait_beside_a_retry_is_named_only_at_last(
    kit: DurableClient, view: View, world: World
) -> None:
    """The retry comes first, and the clock is turned no further than that."""
    view(
        lambda: list(
            step.parallel(lambda: nap(3600), lambda: step.run("a", world.do, "a"))
        )
    )
    kit.fail_step("a", times=3)
    answer = kit.post("/work")

    with pytest.raises(StillWaiting, match='step "nap" sleeps'):
        kit.run_until_complete(answer)

    assert world.calls == ["a"]
    kit.advance(3600)
    assert kit.run_until_complete(answer).json == ["slept", "A"]


def test_other_answers_have_no_execution(kit: DurableClient) -> None:
    """Those of views that are not durable."""
    with pytest.raises(KitError, match=r"no execution behind this answer \(404"):
        kit.run_until_complete(kit.get("/nowhere"))


@pytest.mark.parametrize("as_info", [False, True])
def test_an_execution_may_be_given_by_its_id(
    kit: DurableClient,
    app: Flask,
    durable: FlaskDurable,
    view: View,
    as_info: bool,
) -> None:
    """As that of one that no client began."""
    view(lambda: [nap()])

    with app.app_context():
        begun = durable.start("work")
        given = durable.get(begun) if as_info else begun

    assert kit.status(given)["status"] == "pending"

    with pytest.raises(StillWaiting, match='"nap" sleeps until'):
        kit.run_until_complete(given)

    kit.advance(60)
    assert kit.run_until_complete(given).json == ["slept"]
    assert kit.status(given)["id"] == begun


@pytest.mark.parametrize("root", ["/shop", "/shop/"])
def test_an_app_may_have_a_root(
    app: Flask, kit: DurableClient, durable: FlaskDurable, view: View, root: str
) -> None:
    """Flask's client puts it before every path, and links have it already."""
    app.config["APPLICATION_ROOT"] = root
    view(lambda: [nap(), request.path])
    answer = kit.post("/work")
    assert answer.location.startswith("http://localhost/shop/durable/")

    with app.app_context():
        begun = durable.start("work")

    kit.advance(0)
    kit.advance(61)

    for given in (answer, begun):
        assert kit.status(given)["status"] == "completed"
        assert kit.run_until_complete(given).json == ["slept", "/work"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("0197", ExecutionNotFound, "no execution 0197"),
        (None, KitError, "answer of the execution, or its id, .* not None"),
        (5, KitError, "answer of the execution, or its id, .* not 5"),
    ],
)
def test_what_is_no_execution_is_refused(
    kit: DurableClient, given: t.Any, error: type[Exception], message: str
) -> None:
    """With what would be one."""
    for ask in (kit.status, kit.run_until_complete):
        with pytest.raises(error, match=message):
            ask(given)


def test_a_redirect_that_was_followed(kit: DurableClient, view: View) -> None:
    """The answer before it names the execution."""
    view(lambda: [nap()], pending="redirect")
    answer = kit.post("/work", follow_redirects=True)
    assert answer.status_code == 202
    kit.advance(60)
    assert kit.run_until_complete(answer).json == ["slept"]


def test_a_failed_execution_has_its_response(kit: DurableClient, view: View) -> None:
    """As the client gets it."""

    def fail() -> None:
        raise NonRetryableError("no")

    view(lambda: [nap(), step.run("a", fail)])
    answer = kit.post("/work")
    kit.advance(60)
    assert kit.run_until_complete(answer).status_code == 500
    assert kit.status(answer)["status"] == "failed"


def test_an_execution_without_end_is_given_up(
    replaying: DurableClient, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test hears of it."""
    monkeypatch.setattr("flask_durable.driving.MAX_REPLAYS", 3)
    monkeypatch.setattr("flask_durable.testing.MAX_REPLAYS", 3)
    view(lambda: [step.run("a", str) for _ in itertools.count()])
    answer = replaying.post("/work")

    with pytest.raises(KitError, match="did not end within 3 replays"):
        replaying.run_until_complete(answer)


def test_replays_that_are_turned_away_are_given_up(
    kit: DurableClient, view: View, app: Flask
) -> None:
    """A hook that fails would do so for ever."""
    broken: list[int] = []

    @app.before_request
    def check() -> None:
        assert not broken

    view(lambda: [nap()])
    answer = kit.post("/work")
    broken.append(1)
    kit.advance(60)

    with pytest.raises(KitError, match="The app turned 20 replays of"):
        kit.run_until_complete(answer)


def test_replays_go_through_wsgi(app: Flask, database_url: str) -> None:
    """Also where they go over HTTP in production."""
    app.config["DURABLE_REPLAY_URL"] = "http://127.0.0.1:1"
    durable = FlaskDurable(app)
    app.add_url_rule("/", view_func=durable.endpoint(lambda: [nap()]))

    with durable_client(app) as client:
        answer = client.get("/")
        client.advance(60)
        assert client.run_until_complete(answer).json == ["slept"]

    opened(client).close()


# The clock


def test_the_clock_stops_at_each_due_time(kit: DurableClient, view: View) -> None:
    """A month of weeks passes in one turn."""

    def work() -> t.Any:
        for _ in range(4):
            step.sleep("week", dt.timedelta(days=7))

        return "a month"

    view(work)
    answer = kit.post("/work")
    kit.advance(dt.timedelta(days=27))
    assert kit.status(answer)["attempt"] == 4
    kit.advance(dt.timedelta(days=1))
    assert kit.run_until_complete(answer).text == "a month"


def test_a_turn_replays(kit: DurableClient, view: View, world: World) -> None:
    """What became due has run when it returns."""
    view(lambda: [nap(), step.run("a", world.do, "a")])
    kit.post("/work")
    kit.advance(59)
    assert world.calls == []
    kit.advance(1)
    assert world.calls == ["a"]


def test_a_wait_times_out(kit: DurableClient, view: View) -> None:
    """In a moment, for three days."""

    def work() -> t.Any:
        try:
            step.wait_for_event("paid", "paid", timeout=dt.timedelta(days=3))
        except WaitTimeoutError:
            return "late"

    view(work)
    answer = kit.post("/work")
    kit.advance(dt.timedelta(days=3))
    assert kit.run_until_complete(answer).text == "late"


def test_the_clock_does_not_turn_back(kit: DurableClient) -> None:
    """Whatever a number says."""
    with pytest.raises(ValueError, match="can't be turned back, by -1"):
        kit.advance(-1)


def test_a_poll_of_a_year_is_no_million_of_looks(
    kit: DurableClient, view: View, world: World
) -> None:
    """After a hundred stops the rest of the time passes at once."""
    view(lambda: step.poll("a", lambda: world.do("look") and None, every=5))
    kit.post("/work")
    kit.advance(dt.timedelta(days=365))
    assert len(world.calls) == 102


# Steps that fail


def test_a_step_fails_so_often(kit: DurableClient, view: View, world: World) -> None:
    """Its function is called after that."""
    view(lambda: step.run("pay", world.do, "pay"))
    kit.fail_step("pay", times=3)
    answer = kit.post("/work")
    assert answer.status_code == 202
    assert kit.planned_faults == ['fail_step("pay", times=1)']
    assert world.calls == []
    assert kit.run_until_complete(answer).text == "PAY"
    assert kit.planned_faults == []
    assert kit.status(answer)["steps"][0]["tries"] == 4


def test_a_step_fails_for_good(kit: DurableClient, view: View, world: World) -> None:
    """The view compensates."""

    def work() -> t.Any:
        seat = step.run("reserve", world.do, "reserve")

        try:
            step.run("pay", world.do, "pay")
        except StepError as error:
            step.run("release", world.do, "release")
            return [seat, error.error_type, error.tries]

    view(work)
    kit.fail_step("pay", times=5)
    final = kit.run_until_complete(kit.post("/work"))
    assert final.json == ["RESERVE", "flask_durable.faults.InjectedError", 5]
    assert world.calls == ["reserve", "release"]


@pytest.mark.parametrize("error", [NonRetryableError, NonRetryableError("no card")])
def test_a_step_fails_as_the_test_says(
    kit: DurableClient, view: View, error: t.Any
) -> None:
    """By a class or by an exception."""

    def work() -> t.Any:
        try:
            step.run("pay", str)
        except StepError as failed:
            return [failed.error_type, failed.tries]

    view(work)
    kit.fail_step("pay", error=error)
    assert kit.post("/work").json == ["flask_durable.errors.NonRetryableError", 1]


def test_a_transaction_fails(kit: DurableClient, view: View, world: World) -> None:
    """Each verb that calls a function has its faults."""
    view(lambda: step.transaction("pay", lambda connection: world.do("pay")))
    kit.fail_step("pay", times=2, error=InjectedError("down"))
    assert kit.run_until_complete(kit.post("/work")).text == "PAY"
    assert world.calls == ["pay"]


def test_one_item_of_many_fails(kit: DurableClient, view: View, world: World) -> None:
    """By its own id, as in the journal."""
    view(lambda: step.map("mail", world.do, ["a", "b", "c"]))
    kit.fail_step("mail[1]", times=3)
    answer = kit.post("/work")
    assert sorted(world.calls) == ["a", "c"]
    assert kit.run_until_complete(answer).json == ["A", "B", "C"]


def test_a_fault_happens_at_least_once(kit: DurableClient) -> None:
    """None would be a mistake."""
    with pytest.raises(ValueError, match="at least once, not 0 times"):
        kit.fail_step("pay", times=0)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("pay", {"error": "boom"}, "with an exception or a class of them, not 'boom'"),
        ("pay", {"error": int}, "with an exception or a class of them, not <class"),
        (
            "pay",
            {"error": StepError},
            r"StepError can't be raised without arguments \(.*error=StepError",
        ),
        (5, {}, "a step's id, not 5"),
    ],
)
def test_a_fault_that_can_not_be_is_refused(
    kit: DurableClient, given: t.Any, options: t.Any, message: str
) -> None:
    """Where it is planned."""
    with pytest.raises(TypeError, match=message):
        kit.fail_step(given, **options)

    assert kit.planned_faults == []


# Attempts that are killed


@pytest.fixture
def booking(view: View, world: World) -> None:
    """Make a view of three steps."""

    def work() -> t.Any:
        names = ("reserve", "pay", "confirm")
        return [step.run(name, world.do, name) for name in names]

    view(work)


@pytest.mark.usefixtures("booking")
@pytest.mark.parametrize(
    ("moment", "pays", "words"), [("before", 1, "before the call"), ("after", 2, "aft")]
)
def test_a_killed_server_gives_no_answer(
    kit: DurableClient, world: World, moment: str, pays: int, words: str
) -> None:
    """The next attempt goes on; only what was not committed is called again."""
    getattr(kit, f"crash_{moment}")("pay")

    with pytest.raises(Crashed, match=f"was killed {words}") as crash:
        kit.post("/work")

    assert (crash.value.attempt, crash.value.step) == (1, "pay")
    assert world.calls == ["reserve", "pay"][:pays]
    assert kit.status(crash.value)["status"] == "suspended"
    final = kit.run_until_complete(crash.value)
    assert final.json == ["RESERVE", "PAY", "CONFIRM"]
    assert final.headers["Durable-Execution"] == crash.value.execution_id
    assert world.calls == ["reserve", *["pay"] * pays, "confirm"]
    document = kit.status(crash.value)
    assert document["attempt"] == 2
    assert [row["tries"] for row in document["steps"]] == [1, 1, 1]


def test_a_replay_is_killed_unseen(
    kit: DurableClient, view: View, world: World
) -> None:
    """Nobody waits for its answer."""
    view(lambda: [nap(), step.run("a", world.do, "a")])
    kit.crash_after("a")
    answer = kit.post("/work")
    kit.advance(60)
    assert kit.run_until_complete(answer).json == ["slept", "A"]
    assert kit.status(answer)["attempt"] == 3
    assert world.calls == ["a", "a"]


@pytest.mark.usefixtures("booking")
def test_an_execution_that_is_killed_again_and_again(
    kit: DurableClient, world: World
) -> None:
    """It goes on a while later each time, and fails after ten in a row."""
    kit.crash_before("reserve", times=9)

    with pytest.raises(Crashed) as crash:
        kit.post("/work")

    assert kit.run_until_complete(crash.value).status_code == 200
    kit.crash_before("reserve", times=10)

    with pytest.raises(Crashed) as crash:
        kit.post("/work")

    assert kit.run_until_complete(crash.value).status_code == 500
    error_type = kit.status(crash.value)["error_type"]
    assert error_type == "flask_durable.errors.AttemptCrashed"


def test_a_step_that_runs_at_most_once_is_interrupted(
    kit: DurableClient, view: View, world: World
) -> None:
    """Nobody can tell what it has done."""

    def work() -> t.Any:
        try:
            return step.options(at_most_once=True).run("launch", world.do, "launch")
        except StepInterruptedError:
            return "who knows"

    view(work)

    for crash_there in (kit.crash_before, kit.crash_after):
        crash_there("launch")

        with pytest.raises(Crashed) as crash:
            kit.post("/work")

        assert kit.run_until_complete(crash.value).text == "who knows"

    assert world.calls == ["launch"]


def test_a_killed_transaction_is_rolled_back(
    kit: DurableClient, view: View, world: World
) -> None:
    """Its step is called again."""
    view(lambda: step.transaction("pay", lambda connection: world.do("pay")))
    kit.crash_after("pay")

    with pytest.raises(Crashed) as crash:
        kit.post("/work")

    assert kit.status(crash.value)["steps"] == []
    assert kit.run_until_complete(crash.value).text == "PAY"
    assert world.calls == ["pay", "pay"]


def test_a_branch_is_killed(kit: DurableClient, view: View, world: World) -> None:
    """And the attempt with it; branches that were done stay done."""
    view(lambda: step.map("mail", world.do, ["a", "b", "c"], max_workers=1))
    kit.crash_after("mail[1]")

    with pytest.raises(Crashed) as crash:
        kit.post("/work")

    assert kit.run_until_complete(crash.value).json == ["A", "B", "C"]
    assert sorted(world.calls) == ["a", "b", "b", "c"]


@pytest.mark.parametrize("ending", ["return", "raise", "step"])
def test_no_view_survives_its_process(
    kit: DurableClient, view: View, world: World, ending: str
) -> None:
    """Whatever it does with the exception."""

    def work() -> t.Any:
        try:
            return step.run("a", world.do, "a")
        except BaseException:
            if ending == "raise":
                raise ValueError("no") from None

            return step.run("b", world.do, "b") if ending == "step" else "survived"

    view(work)
    kit.crash_before("a")

    with pytest.raises(Crashed) as crash:
        kit.post("/work")

    assert world.calls == []
    assert kit.run_until_complete(crash.value).text == "A"


def test_an_error_that_the_app_lets_pass_is_no_answer_either(
    kit: DurableClient, view: View, app: Flask
) -> None:
    """As it does while it is tested."""
    app.config["PROPAGATE_EXCEPTIONS"] = None

    def work() -> t.Any:
        try:
            return step.run("a", str, "a")
        except BaseException:
            raise ValueError("no") from None

    view(work)
    kit.crash_before("a")

    with pytest.raises(Crashed) as crash:
        kit.post("/work")

    assert kit.run_until_complete(crash.value).text == "a"


def test_an_async_view_is_killed(kit: DurableClient, app: Flask, world: World) -> None:
    """Its steps run elsewhere."""
    durable = FlaskDurable()

    async def pay() -> str:
        return world.do("pay")

    @app.get("/async")
    @durable.endpoint
    async def work() -> str:
        return step.run("pay", pay)

    kit.crash_after("pay")

    with pytest.raises(Crashed) as crash:
        kit.get("/async")

    assert kit.run_until_complete(crash.value).text == "PAY"
    assert world.calls == ["pay", "pay"]


def test_faults_happen_in_the_order_of_their_plan(
    kit: DurableClient, view: View, world: World
) -> None:
    """Of one step, one after the other."""
    keys: list[str] = []

    def pay() -> str:
        keys.append(current_step.idempotency_key)
        return world.do("pay")

    view(lambda: step.run("pay", pay))
    kit.fail_step("pay")
    kit.crash_before("pay")
    kit.crash_after("pay")

    with pytest.raises(Crashed) as crash:
        kit.post("/work")

    assert kit.run_until_complete(crash.value).text == "PAY"
    assert kit.status(crash.value)["attempt"] == 3
    assert len(keys) == 2
    assert len(set(keys)) == 1


# Where faults hold


@pytest.mark.usefixtures("booking")
def test_faults_are_gone_after_the_context(app: Flask) -> None:
    """And so is the client's place in the app."""
    with durable_client(app) as client:
        client.fail_step("pay", times=100)
        client.crash_before("pay")

    assert client.planned_faults == []
    assert client.post("/work").status_code == 200
    assert opened(client).probe is None


@pytest.mark.usefixtures("booking")
def test_faults_are_of_one_client(app: Flask, kit: DurableClient) -> None:
    """Requests of others have none."""
    kit.crash_before("pay")
    assert app.test_client().post("/work").status_code == 200
    assert durable_client(app).post("/work").status_code == 200
    assert kit.planned_faults == ['crash_before("pay", times=1)']


@pytest.mark.usefixtures("booking")
def test_faults_are_of_one_app(kit: DurableClient, durable: FlaskDurable) -> None:
    """Also where two share a view and its extension."""
    other = Flask("other")
    other.config.update(SECRET_KEY="tests", TESTING=True)
    durable.init_app(other)
    other.add_url_rule(
        "/work",
        view_func=kit.application.view_functions["work"],
        methods=["POST"],
    )
    kit.crash_before("pay")
    client = durable_client(other)
    assert client.post("/work").status_code == 200
    opened(client).close()

    with pytest.raises(Crashed):
        kit.post("/work")


# A replay after each step


@pytest.mark.usefixtures("booking")
def test_each_step_is_followed_by_a_replay(
    replaying: DurableClient, world: World
) -> None:
    """And called once all the same."""
    answer = replaying.post("/work")
    assert answer.status_code == 202
    assert world.calls == ["reserve"]
    final = replaying.run_until_complete(answer)
    assert final.json == ["RESERVE", "PAY", "CONFIRM"]
    assert world.calls == ["reserve", "pay", "confirm"]
    assert replaying.status(answer)["attempt"] == 4


def test_every_verb_is_followed_by_a_replay(
    replaying: DurableClient, view: View, durable: FlaskDurable, world: World
) -> None:
    """Failures, too, and branches at once."""
    links: list[str] = []

    def work() -> t.Any:
        callback = step.callback("approval")
        step.run("send", links.append, callback.url)
        step.transaction("pay", lambda connection: world.do("pay"))
        step.poll("poll", world.do, "poll")
        step.sleep("nap", 60)
        step.map("mail", world.do, ["a", "b"])
        step.wait_for_event("paid", "paid")

        try:
            step.options(retry=Retry(1)).run("fail", int, "x")
        except StepError:
            return ["done", callback.wait()]

    view(work)
    answer = replaying.post("/work")

    with pytest.raises(StillWaiting, match='step "nap"'):
        replaying.run_until_complete(answer)

    replaying.advance(60)

    with replaying.application.app_context():
        durable.send_event("paid")

    assert replaying.post(links[0], json={"yes": 1}).status_code == 204
    final = replaying.run_until_complete(answer)
    assert final.json == ["done", {"yes": 1}]
    assert sorted(world.calls) == ["a", "b", "pay", "poll"]
    # Eight outcomes, the two letters' as one; two waits that were not over; the end.
    assert replaying.status(answer)["attempt"] == 11


@pytest.mark.parametrize("always_replay", [False, True])
def test_a_failure_is_the_same_with_replays(
    app: Flask, durable: FlaskDurable, view: View, world: World, always_replay: bool
) -> None:
    """Where Flask doesn't raise it in the client; what follows it has run then."""

    def work() -> t.Any:
        return [step.run("a", str, 1), step.run("pay", str, 2)]

    view(work, on_failure=lambda failed: step.run("tell", world.do, "tell"))

    with durable_client(app, always_replay=always_replay) as client:
        client.fail_step("pay", error=NonRetryableError("card refused"))
        assert client.run_until_complete(client.post("/work")).status_code == 500
        assert world.calls == ["tell"]


@pytest.mark.parametrize("always_replay", [False, True])
def test_where_flask_raises_failures_only_replays_answer(
    app: Flask, durable: FlaskDurable, view: View, always_replay: bool
) -> None:
    """As under TESTING alone: a view's error comes out of its own request."""
    app.config["PROPAGATE_EXCEPTIONS"] = None
    view(lambda: [step.run("a", str, 1), step.run("pay", str, 2)])

    with durable_client(app, always_replay=always_replay) as client:
        client.fail_step("pay", error=NonRetryableError("card refused"))

        if always_replay:
            final = client.run_until_complete(client.post("/work"))
            assert final.status_code == 500
        else:
            with pytest.raises(StepError, match="card refused"):
                client.post("/work")


def test_an_execution_is_cancelled(
    kit: DurableClient, durable: FlaskDurable, view: View
) -> None:
    """In the order of the docs: the client asks outside of the app's context."""
    view(nap)
    answer = kit.post("/work")
    execution_id = kit.status(answer)["id"]

    with kit.application.app_context():
        durable.cancel(execution_id)

    assert kit.status(answer)["status"] == "cancelled"


def test_what_a_step_changed_is_missing(replaying: DurableClient, view: View) -> None:
    """What it returned is there."""

    def work() -> t.Any:
        changed: list[str] = []
        given: list[str] = []
        step.run("change", changed.append, "hat")
        given = step.run("give", lambda: [*given, "hat"])
        return [changed, given]

    view(work)
    final = replaying.run_until_complete(replaying.post("/work"))
    assert final.json == [[], ["hat"]]


def test_changed_order_shows(replaying: DurableClient, view: View) -> None:
    """At the next step."""
    orders = iter([["a", "b"], ["b", "a"], ["a", "b"], ["b", "a"]])
    view(lambda: [step.run(name, str, name) for name in next(orders)])

    with pytest.raises(NonDeterminismError, match='came to step "b" without asking.*a'):
        replaying.run_until_complete(replaying.post("/work"))


def test_steps_by_chance_show(replaying: DurableClient, view: View) -> None:
    """Although each attempt would find another one to do."""
    view(lambda: step.run(f"step-{random.random()}", str, "x"))

    with pytest.raises(NonDeterminismError, match="without asking for the journaled"):
        replaying.run_until_complete(replaying.post("/work"))


def test_lost_steps_show(replaying: DurableClient, view: View) -> None:
    """When the view ends without them."""

    def work() -> str:
        if current_execution.attempt == 1:
            step.run("a", str, "a")

        return "done"

    view(work)

    with pytest.raises(NonDeterminismError, match='ended without asking for.*"a"'):
        replaying.run_until_complete(replaying.post("/work"))


def test_another_order_without_replays_is_not_seen(
    kit: DurableClient, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    """That is what always_replay is for."""
    orders = iter([["a", "b"], ["b", "a"]])
    view(lambda: [step.run(name, str, name) for name in next(orders)])

    with caplog.at_level(logging.WARNING):
        assert kit.run_until_complete(kit.post("/work")).json == ["a", "b"]

    assert caplog.records == []


def test_a_crash_between_replays(replaying: DurableClient, view: View) -> None:
    """Faults and replays go together."""
    view(lambda: [step.run(name, str, name) for name in "ab"])
    replaying.crash_after("b")
    replaying.fail_step("a", times=3)
    answer = replaying.post("/work")
    assert replaying.run_until_complete(answer).json == ["a", "b"]


# The example


@pytest.mark.skipif(not DOCS.exists(), reason="there are no docs here")
@pytest.mark.parametrize("name", ["test_subscriptions", "test_quickstart"])
def test_the_example_of_the_docs_passes(tmp_path: pathlib.Path, name: str) -> None:
    """As a user runs it."""
    example = DOCS / f"examples/{name}.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(example)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "warning" not in run.stdout
