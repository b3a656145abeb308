"""Steps that wait: events, callbacks, polls."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import dataclasses
import datetime as dt
import json
import threading
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import CallbackConflict
from flask_durable import CallbackGone
from flask_durable import ExecutionNotFound
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError
from flask_durable import StepOutputError
from flask_durable import WaitTimeoutError

from .driving import Drive

MINUTE = dt.timedelta(minutes=1)


class View(t.Protocol):
    """Says what the durable view does, and gives its first answer."""

    def __call__(self, function: cabc.Callable[[], t.Any]) -> t.Any: ...


@pytest.fixture
def view(app: Flask, durable: FlaskDurable, client: FlaskClient) -> View:
    """Make a durable view whose work a test gives."""
    functions: list[cabc.Callable[[], t.Any]] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> t.Any:
        return functions[-1]()

    def run(function: cabc.Callable[[], t.Any]) -> t.Any:
        functions.append(function)
        return client.post("/work")

    return run


class Send(t.Protocol):
    """Sends an event in the app's context."""

    def __call__(self, event: str, **options: t.Any) -> bool: ...


@pytest.fixture
def send(app: Flask, durable: FlaskDurable) -> Send:
    """Send events as a view of the app does."""

    def send(event: str, **options: t.Any) -> bool:
        with app.app_context():
            return durable.send_event(event, **options)

    return send


def limited(app: Flask, **limits: int) -> None:
    """Have an app take less than the defaults."""
    state = app.extensions["durable"]
    state.config = dataclasses.replace(state.config, **limits)


def final(drive: Drive, answer: t.Any) -> t.Any:
    """Replay what is due now, and give the final response."""
    drive.run_due()
    return drive.app.test_client().get(drive.status(answer)["response_url"])


# Events


def test_an_event_wakes_who_waits(view: View, send: Send, drive: Drive) -> None:
    """With its data, whatever type that is."""
    answer = view(lambda: [str(step.wait_for_event("wait", "paid", key="7"))])
    assert answer.status_code == 202
    waits = {"kind": "event", "step": "wait", "until": None}
    assert drive.status(answer)["waiting_for"] == waits
    assert drive.run_due() == 0
    assert send("paid", key="7", data={"at": dt.date(2030, 1, 1)})
    assert final(drive, answer).json == ["{'at': datetime.date(2030, 1, 1)}"]


@pytest.mark.parametrize("other", [{"key": "8"}, {}, {"key": "7", "event": "lost"}])
def test_other_events_wake_nobody(
    view: View, send: Send, drive: Drive, other: dict[str, str]
) -> None:
    """Name and key must be the same."""
    answer = view(lambda: step.wait_for_event("wait", "paid", key="7"))
    send(**{"event": "paid", **other})
    assert drive.run_due() == 0
    assert drive.status(answer)["attempt"] == 1


def test_an_event_before_the_wait_is_not_lost(
    view: View, send: Send, drive: Drive
) -> None:
    """If the execution had begun by then."""

    def work() -> t.Any:
        step.sleep("nap", 60)
        return step.wait_for_event("wait", "paid")

    answer = view(work)
    send("paid", data="early")
    drive.advance(61)
    assert final(drive, answer).text == "early"
    assert drive.status(answer)["attempt"] == 2


def test_an_event_before_the_execution_is_not_for_it(
    view: View, send: Send, drive: Drive
) -> None:
    """It was for those that ran then."""
    drive.app.test_client().get("/")
    send("paid", data="old")
    # SQLite's clock counts milliseconds, and of one both would be.
    drive.advance(1)
    assert view(lambda: step.wait_for_event("wait", "paid")).status_code == 202


def test_a_second_wait_gets_the_second_event(
    view: View, send: Send, drive: Drive
) -> None:
    """Also if both were sent before the first wait."""

    def work() -> t.Any:
        step.sleep("nap", 60)
        return [step.wait_for_event("wait", "paid") for _ in range(3)]

    answer = view(work)
    send("paid", data=1)
    send("paid", data=2)
    drive.advance(61)
    assert final(drive, answer).status_code == 202
    send("paid", data=3)
    assert final(drive, answer).json == [1, 2, 3]


def test_all_who_wait_get_an_event(view: View, send: Send, drive: Drive) -> None:
    """It is not used up by one."""

    def work() -> t.Any:
        return step.wait_for_event("wait", "news")

    answers = [view(work) for _ in range(3)]
    send("news", data="hello")
    assert [final(drive, answer).text for answer in answers] == ["hello"] * 3


def test_a_duplicate_is_left_out(view: View, send: Send, drive: Drive) -> None:
    """By the sender's mark, for one name and key."""

    def work() -> t.Any:
        return [step.wait_for_event("wait", "paid") for _ in range(2)]

    answer = view(work)
    assert send("paid", data=1, dedup="a")
    assert not send("paid", data=2, dedup="a")
    assert send("paid", data=3, dedup="b")
    assert send("other", dedup="a")
    assert final(drive, answer).json == [1, 3]


def test_a_wait_ends_at_its_time(view: View, drive: Drive, send: Send) -> None:
    """With an error that the view may catch, and that stays."""

    def work() -> t.Any:
        try:
            step.wait_for_event("wait", "paid", timeout=MINUTE)
        except WaitTimeoutError as error:
            step.sleep("nap", 60)
            return f"{error.step}: {error.error_message}"

        return "paid"

    answer = view(work)
    assert drive.status(answer)["waiting_for"]["until"] is not None
    drive.advance(61)
    drive.run_due()
    send("paid")
    drive.advance(61)
    assert final(drive, answer).text == "wait: nothing came within 60 s"


def test_an_event_in_time_is_no_time_out(view: View, drive: Drive, send: Send) -> None:
    """Even if the execution goes on only later."""
    answer = view(lambda: step.wait_for_event("wait", "paid", timeout=60))
    send("paid", data="in time")
    drive.advance(61)
    assert final(drive, answer).text == "in time"


def test_a_time_out_that_nobody_catches_fails(view: View, drive: Drive) -> None:
    """It is a StepError."""
    answer = view(lambda: step.wait_for_event("wait", "paid", timeout=60))
    drive.advance(61)
    assert final(drive, answer).status_code == 500
    assert drive.status(answer)["error_type"] == "flask_durable.errors.WaitTimeoutError"


def test_branches_wait_beside_each_other(view: View, drive: Drive, send: Send) -> None:
    """What is done is not done again, whichever comes first."""

    def work() -> t.Any:
        return step.parallel(
            lambda: step.wait_for_event("a", "a"),
            lambda: step.wait_for_event("b", "b"),
            lambda: step.run("c", str, "c"),
        )

    answer = view(lambda: list(work()))
    send("b", data="B")
    drive.run_due()
    assert drive.status(answer)["attempt"] == 2
    send("a", data="A")
    assert final(drive, answer).json == ["A", "B", "c"]


def test_an_event_within_the_attempt_is_not_missed(
    view: View, drive: Drive, send: Send
) -> None:
    """It comes after the look and before the end of the attempt."""

    def slowly() -> str:
        thread = threading.Thread(target=send, args=("a",), kwargs={"data": "A"})
        thread.start()
        thread.join()
        return "sent"

    def work() -> t.Any:
        branches = [
            lambda: step.wait_for_event("a", "a"),
            lambda: step.run("slow", slowly),
        ]
        return list(step.parallel(*branches, max_workers=1))

    answer = view(work)
    assert final(drive, answer).json == ["A", "sent"]


def test_sending_and_waiting_race(
    app: Flask, view: View, send: Send, drive: Drive
) -> None:
    """Whoever is first, the event is not lost."""
    answers: list[t.Any] = []
    view(lambda: step.run("key", lambda: "warm"))

    for number in range(20):
        key = str(number)
        barrier = threading.Barrier(2)

        def begin(key: str = key, barrier: threading.Barrier = barrier) -> t.Any:
            def work() -> t.Any:
                if step.run("ready", barrier.wait, 20) is not None:
                    return step.wait_for_event("wait", "raced", key=key)

            return view(work)

        def wake(key: str = key, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(20)
            send("raced", key=key, data=key)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            later = pool.submit(begin)
            pool.submit(wake).result(30)
            answers.append(later.result(30))

        drive.run_due()
        got = answers[-1]
        text = got.text if got.status_code == 200 else final(drive, got).text
        assert text == key


@pytest.mark.parametrize("wrong", [{"key": 7}, {"event": 7}])
def test_names_and_keys_are_strings(
    app: Flask, durable: FlaskDurable, wrong: dict[str, t.Any]
) -> None:
    """A number would never meet its string."""
    with app.app_context(), pytest.raises(TypeError, match="are strings, not"):
        durable.send_event(**{"event": "paid", **wrong})


def test_an_event_takes_what_steps_may_return(send: Send) -> None:
    """What can't be stored is refused with the event's name."""
    what = 'data for event "paid" can\'t be a list with an object in it: .*register_ty'

    with pytest.raises(TypeError, match=what):
        send("paid", data=[object()])


def test_a_negative_time_is_refused(view: View, app: Flask) -> None:
    """It is a mistake of the view."""

    def work() -> t.Any:
        with pytest.raises(ValueError, match="can't wait for -1"):
            step.wait_for_event("wait", "paid", timeout=-1)

        return "refused"

    assert view(work).text == "refused"


def test_data_over_the_limit_is_refused_where_it_is_sent(
    app: Flask, send: Send
) -> None:
    """Nobody could take it."""
    limited(app, max_output_bytes=1000)
    what = r'event "big" has 2002 bytes.*over .*DURABLE_MAX_OUTPUT_BYTES \(1000\)'

    with pytest.raises(ValueError, match=what):
        send("big", data="x" * 2000)


def test_data_without_room_fails_its_wait(
    app: Flask,
    view: View,
    send: Send,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not the step that comes after it, and in each attempt; the next one has room."""
    limited(app, max_journal_bytes=1500)
    said: list[str] = []

    def work() -> t.Any:
        first = step.wait_for_event("first", "big")

        try:
            step.wait_for_event("second", "big")
        except StepOutputError as error:
            said.append(str(error))

        step.sleep("nap", 60)
        return [len(first), step.wait_for_event("third", "big", timeout=60)]

    answer = view(work)

    for data in ("x" * 800, "y" * 800, "z"):
        send("big", data=data)

    drive.run_due()
    drive.advance(61)
    assert final(drive, answer).json == [800, "z"]
    assert said == [said[0]] * 2
    assert 'Step "second" got 802 bytes' in said[0]
    assert "DURABLE_MAX_JOURNAL_BYTES (1500)" in said[0]
    execution_id = answer.headers["Durable-Execution"]
    assert f"Execution {execution_id}: {said[0]}" in caplog.text


def test_an_event_in_time_may_have_no_room(
    app: Flask, view: View, send: Send, drive: Drive
) -> None:
    """Also where only the time-out wakes who waits for it."""
    limited(app, max_journal_bytes=1500)
    answer = view(lambda: step.wait_for_event("wait", "big", timeout=60))
    send("big", data="x" * 2000)
    drive.advance(61)
    assert final(drive, answer).status_code == 500
    (document,) = drive.status(answer)["steps"]
    assert document["error_type"] == "flask_durable.errors.StepOutputError"


# Callbacks


@pytest.fixture
def links() -> list[t.Any]:
    """Collect the callbacks that views made."""
    return []


def test_a_callback_wakes_its_step(
    view: View, drive: Drive, client: FlaskClient, links: list[t.Any]
) -> None:
    """By a signed and absolute link, with JSON."""

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", links.append, callback.url)
        return callback.wait()

    answer = view(work)
    (url,) = links
    assert url.startswith("http://localhost/durable/callbacks/")
    assert client.post(url, json={"ok": True}).status_code == 204
    assert final(drive, answer).json == {"ok": True}


def test_an_early_callback_is_kept(
    view: View, drive: Drive, client: FlaskClient, links: list[t.Any]
) -> None:
    """One suspension, for the nap."""

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", links.append, callback.url)
        step.sleep("nap", 60)
        return callback.wait()

    answer = view(work)
    client.post(links[0], json="yes")
    drive.advance(61)
    assert final(drive, answer).text == "yes"
    assert drive.status(answer)["attempt"] == 2


def test_the_same_again_changes_nothing(
    view: View, drive: Drive, client: FlaskClient, links: list[t.Any]
) -> None:
    """Other data is a conflict, before and after the step has it."""

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", links.append, callback.url)
        value = callback.wait()
        step.sleep("nap", 60)
        return value

    answer = view(work)

    for _ in range(2):
        assert client.post(links[0], json={"a": 1, "b": 2}).status_code == 204
        assert client.post(links[0], json={"a": 2}).status_code == 409
        drive.run_due()

    assert drive.finish(answer).json == {"a": 1, "b": 2}
    assert client.post(links[0], json={"a": 1, "b": 2}).status_code == 204


def test_a_callback_that_is_too_late_is_told_so(
    view: View, drive: Drive, client: FlaskClient, links: list[t.Any]
) -> None:
    """After its time, and after the end."""

    def work() -> t.Any:
        first, second = step.callback("first"), step.callback("second")
        step.run("mail", links.extend, [first.url, second.url])

        with pytest.raises(WaitTimeoutError):
            first.wait(timeout=60)

        step.sleep("nap", 60)
        return "nobody came"

    answer = view(work)
    drive.advance(61)
    drive.run_due()
    assert client.post(links[0], json=1).status_code == 410
    assert drive.finish(answer).text == "nobody came"
    gone = client.post(links[1], json=1)
    assert (gone.status_code, gone.mimetype) == (410, "application/problem+json")


@pytest.mark.parametrize(
    ("token", "data", "status"),
    [
        ("forged", b"1", 404),
        ("forged", b"{", 404),
        (None, b"{", 400),
        (None, b"", 400),
        (None, b"[" * 100_000, 400),
        (None, b'{"a":' * 700 + b"1" + b"}" * 700, 400),
    ],
    ids=["token", "token before JSON", "JSON", "none", "deep", "deep to store"],
)
def test_bad_callbacks_are_refused(
    view: View,
    client: FlaskClient,
    links: list[t.Any],
    token: str | None,
    data: bytes,
    status: int,
) -> None:
    """With what is wrong, and nothing is lost."""

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", links.append, callback.token)
        return callback.wait()

    view(work)
    url = f"/durable/callbacks/{token or links[0]}"
    assert client.post(url, data=data).status_code == status
    refused = client.get(url)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert "takes a POST of JSON" in (refused.json or {})["detail"]
    assert client.post(f"/durable/callbacks/{links[0]}", json=1).status_code == 204


def test_a_callback_takes_what_steps_may_return(
    app: Flask, durable: FlaskDurable, view: View, links: list[t.Any]
) -> None:
    """What can't be stored is refused with the callback's name."""

    def work() -> t.Any:
        links.append(step.callback("yes").token)
        return {}

    answer = view(work)
    execution_id = answer.headers["Durable-Execution"]
    what = f'data for callback "yes" of execution {execution_id} can\'t be an object:'

    with app.app_context(), pytest.raises(TypeError, match=what):
        durable.complete_callback(links[0], object())


@pytest.mark.parametrize("token", [None, 5, b"x"])
def test_a_token_is_a_string(app: Flask, durable: FlaskDurable, token: t.Any) -> None:
    """As a form that lost it may have none."""
    what = f"token is the string that is its .token, not {token!r}"

    with app.app_context(), pytest.raises(TypeError, match=what):
        durable.complete_callback(token, 1)


def test_a_callback_that_is_too_big_is_refused(
    app: Flask, view: View, client: FlaskClient, links: list[t.Any]
) -> None:
    """By the limit of a step's output."""

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", links.append, callback.url)
        return callback.wait()

    view(work)
    limit = app.extensions["durable"].config.max_output_bytes
    assert client.post(links[0], data=b"1" * (limit + 1)).status_code == 413


@pytest.mark.parametrize("data", ['{"!": "x"}', "[1e9, 1e9]"])
def test_a_callback_may_grow_too_big(
    app: Flask,
    durable: FlaskDurable,
    view: View,
    client: FlaskClient,
    links: list[t.Any],
    data: str,
) -> None:
    """The journal's own text counts, for a form's view as well."""
    limited(app, max_output_bytes=len(data))

    def work() -> t.Any:
        callback = step.callback("yes")
        links.append(callback.url)

        with pytest.raises(ValueError, match='callback "yes" of exec.* bytes.*OUTPUT'):
            durable.complete_callback(callback.token, json.loads(data))

        return callback.wait()

    assert view(work).status_code == 202
    assert client.post(links[0], data=data).status_code == 413
    assert client.post(links[0], data="1").status_code == 204


def test_a_child_may_answer_more_than_there_is_room_for(
    app: Flask, durable: FlaskDurable, view: View, drive: Drive
) -> None:
    """The step that invokes it fails."""
    limited(app, max_output_bytes=1000)

    @app.post("/child")
    @durable.endpoint
    def child() -> t.Any:
        return {"text": "x" * 2000}

    def work() -> t.Any:
        try:
            return step.invoke("ask", "child")
        except StepOutputError as error:
            return [str(error), step.run("after", lambda: "runs")]

    said, after = drive.finish(view(work)).get_json()
    assert said.startswith('Step "ask" got 2011 bytes, which is over the limit')
    assert "DURABLE_MAX_OUTPUT_BYTES (1000)" in said
    assert after == "runs"


def test_a_watchers_link_is_no_callback(
    view: View, client: FlaskClient, drive: Drive
) -> None:
    """Nor does a callback's token open the status."""
    answer = view(lambda: step.callback("approve").wait())
    token = drive.status(answer)["status_url"].rpartition("/")[2]
    assert client.post(f"/durable/callbacks/{token}", json=1).status_code == 404


def test_a_view_of_the_app_completes_a_callback(
    app: Flask,
    durable: FlaskDurable,
    view: View,
    drive: Drive,
    links: list[t.Any],
) -> None:
    """Such as that of a form; errors are exceptions then."""

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", links.append, callback.token)
        return callback.wait()

    answer = view(work)

    with app.test_request_context():
        durable.complete_callback(links[0], {"by": "ada"})
        durable.complete_callback(links[0], {"by": "ada"})

        with pytest.raises(CallbackConflict, match="with other data"):
            durable.complete_callback(links[0], {"by": "bob"})

        with pytest.raises(ExecutionNotFound):
            durable.complete_callback("forged", 1)

    assert final(drive, answer).json == {"by": "ada"}


def test_a_late_form_hears_of_it(
    app: Flask, durable: FlaskDurable, view: View, links: list[t.Any]
) -> None:
    """The execution has ended."""

    def work() -> str:
        step.run("mail", links.append, step.callback("approve").token)
        return "done"

    view(work)

    with app.test_request_context(), pytest.raises(CallbackGone, match="too late"):
        durable.complete_callback(links[0], 1)


@pytest.mark.parametrize("kind", ["callback", "child"])
def test_a_clock_that_is_set_back_hides_nothing(
    app: Flask, durable: FlaskDurable, view: View, drive: Drive, kind: str
) -> None:
    """Whatever comes for an execution alone is for it, also if it seems older."""
    tokens: list[str] = []

    @app.post("/child")
    @durable.endpoint
    def child() -> list[int]:
        drive.advance(-5)
        return [7]

    def wait() -> t.Any:
        callback = step.callback("paid")
        tokens.append(callback.token)
        return callback.wait()

    answer = view(lambda: step.invoke("child", "child") if kind == "child" else wait())

    if kind == "callback":
        drive.advance(-5)

        with app.app_context():
            durable.complete_callback(tokens[0], [7])

    assert final(drive, answer).json == [7]


def test_two_callbacks_take_two_suspensions(
    view: View, drive: Drive, client: FlaskClient, links: list[t.Any]
) -> None:
    """A is awaited first, and B comes first."""

    def work() -> t.Any:
        a, b = step.callback("a"), step.callback("b")
        step.run("mail", links.extend, [a.url, b.url])
        return [a.wait(), b.wait()]

    answer = view(work)
    client.post(links[0], json="A")
    drive.run_due()
    assert drive.status(answer)["attempt"] == 2
    client.post(links[1], json="B")
    assert final(drive, answer).json == ["A", "B"]
    assert drive.status(answer)["attempt"] == 3


# Polls


def test_a_poll_looks_until_it_finds_something(view: View, drive: Drive) -> None:
    """It suspends between two looks, and looks no more afterwards."""
    found: list[t.Any] = [None, 0, {"id": 7}, "never asked for"]

    def work() -> t.Any:
        value = step.poll("ready", found.pop, 0, every=MINUTE)
        step.sleep("nap", 1)
        return value

    answer = view(work)
    waits = drive.status(answer)["waiting_for"]
    assert (waits["kind"], waits["step"]) == ("poll", "ready")
    assert drive.finish(answer).json == {"id": 7}
    assert found == ["never asked for"]


def test_a_poll_does_not_look_early(view: View, drive: Drive) -> None:
    """Whatever else wakes the execution."""
    looks: list[int] = []
    view(lambda: step.poll("ready", looks.append, 1, every=60))
    drive.advance(30)
    assert drive.run_due() == 0
    drive.advance(31)
    assert drive.run_due() == 1
    assert looks == [1, 1]


def test_a_poll_ends_at_its_time(view: View, drive: Drive) -> None:
    """With one last look just then."""
    looks: list[int] = []

    def work() -> t.Any:
        try:
            return step.poll("ready", looks.append, 1, every=60, timeout=90)
        except WaitTimeoutError as error:
            return error.error_message

    answer = view(work)
    assert drive.finish(answer).text == "nothing came within 90 s"
    assert len(looks) == 3


def test_errors_of_a_check_are_tried_again(view: View, drive: Drive) -> None:
    """A good look in between begins a new count."""
    results = iter([1 / 1, None, None])
    errors = iter([True, False, True, False, True, False])

    def check() -> t.Any:
        if next(errors):
            raise ConnectionError("busy")

        return not list(results)[2:]

    def work() -> t.Any:
        retry = Retry(2, initial=30)
        return [step.options(retry=retry).poll("ready", check, every=60)]

    assert drive.finish(view(work)).json == [True]


@pytest.mark.parametrize(("timeout", "tries"), [(0.4, 2), (40, 3)])
def test_a_poll_whose_calls_fail_ends_at_its_time(
    view: View, drive: Drive, timeout: float, tries: int
) -> None:
    """There is no try after it, whatever the policy says."""
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        raise ConnectionError("the line is dead")

    def work() -> str:
        wait = step.options(retry=Retry(9, initial=0.3, factor=30, jitter=0))

        try:
            return str(wait.poll("done", check, timeout=timeout))
        except WaitTimeoutError as error:
            return f"{error} ({error.tries})"

    answer = view(work)

    if timeout > 1:
        drive.advance(9.1)
        drive.run_due()
        line, found = drive.status(answer)["steps"][0], drive.status(answer)
        begun = dt.datetime.fromisoformat(line["started_at"])
        until = dt.datetime.fromisoformat(found["waiting_for"]["until"])
        assert (until - begun).total_seconds() == pytest.approx(timeout, abs=0.002)
        drive.advance(31)
        answer = final(drive, answer)

    assert answer.text == (
        f'Step "done" timed out: nothing came within {timeout:g} s, and the last'
        f" call failed: ConnectionError: the line is dead ({tries})"
    )
    assert len(calls) == tries


def test_a_check_that_fails_too_often_fails_the_step(view: View, drive: Drive) -> None:
    """As any step."""

    def work() -> t.Any:
        try:
            retry = Retry(2, initial=30)
            return step.options(retry=retry).poll("ready", lambda: 1 / 0)
        except StepError as error:
            return f"{error.tries} {error.error_type}"

    assert drive.finish(view(work)).text == "2 ZeroDivisionError"
