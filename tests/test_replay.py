"""Replays over HTTP: what becomes of each answer, and what the view sees."""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import secrets
import threading
import typing as t

import pytest
from flask import Flask
from flask import request
from flask.testing import FlaskClient
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_durable import current_execution
from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.arrival import ADDED
from flask_durable.arrival import MAX_FIELD_SIZE
from flask_durable.arrival import MAX_FIELDS
from flask_durable.records import Execution
from flask_durable.replay import MAX_REFUSALS
from flask_durable.replay import replay
from flask_durable.state import get_state
from flask_durable.tables import executions

from .driving import Drive
from .listening import answer
from .listening import Listener
from .listening import Reply
from .listening import reset
from .listening import then_close
from .processes import wait_until
from .serving import serving

DAY = 86_400.0


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def listener() -> cabc.Iterator[Listener]:
    """Listen in the app's place until the test ends."""
    with Listener() as listener:
        yield listener


class Sender:
    """An execution that sleeps, and is replayed over HTTP."""

    def __init__(self, app: Flask, durable: FlaskDurable, drive: Drive) -> None:
        self.app = app
        self.drive = drive
        self.attempts: list[int] = []

        @app.post("/work")
        @durable.endpoint
        def work() -> str:
            self.attempts.append(current_execution.attempt)
            step.sleep("nap", 60)
            return "awake"

        self.response = app.test_client().post("/work", data="x")
        self.id = self.response.headers["Durable-Execution"]

    @property
    def execution(self) -> Execution:
        """The execution's row."""
        return self.drive.state.store.execution(self.id)

    @property
    def left(self) -> float:
        """Seconds until it is due."""
        execution = self.execution
        return (execution.ready_at or 0.0) - execution.now

    def replay(self) -> str:
        """Let it be due, and replay it."""
        self.drive.advance(DAY)
        return replay(self.app, self.id, self.execution.attempt + 1)


@pytest.fixture
def settings(app: Flask, listener: Listener) -> None:
    """Have replays sent to the listener, which is waited for only shortly."""
    app.config.update(DURABLE_REPLAY_URL=listener.url, DURABLE_REPLAY_TIMEOUT=0.2)


@pytest.fixture
def sender(settings: None, app: Flask, durable: FlaskDurable, drive: Drive) -> Sender:
    """Begin an execution that sleeps."""
    return Sender(app, durable, drive)


# Answers from before the endpoint


@pytest.mark.parametrize(
    "reply",
    [
        answer("500 Internal Server Error"),
        answer("502 Bad Gateway"),
        answer("503 Service Unavailable"),
        answer("429 Too Many Requests"),
        answer("403 Forbidden", Durable_Replay="expired"),
        answer("403 Forbidden", Durable_Replay="foreign"),
        then_close(answer(body=b"x" * 9)[:-5]),
        reset,
    ],
    ids=["500", "502", "503", "429", "expired", "foreign", "short", "reset"],
)
def test_an_answer_that_may_be_better_soon_is_no_refusal(
    sender: Sender,
    listener: Listener,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
) -> None:
    """The execution is put off, and the log says why."""
    listener.replies += [reply, reply]
    assert sender.replay().startswith("is put off for 1 s: answered ")
    row = sender.execution
    assert (row.status, row.attempt) == ("suspended", 1)
    assert (row.rejections, row.refusals) == (1, 0)
    assert 0.5 < sender.left <= 1.0
    assert "is tried again in 1 s" in caplog.text


@pytest.mark.parametrize("how", ["hang", "dribble"])
def test_a_server_without_an_answer_is_no_refusal(
    sender: Sender, listener: Listener, how: str
) -> None:
    """The same request is not sent to it twice, since it may have it in hand."""
    listener.replies += [getattr(listener, how)]
    assert sender.replay() == "is put off for 1 s: answered nothing within 0.2 s"
    assert (sender.execution.rejections, sender.execution.refusals) == (1, 0)
    assert len(listener.sent) == 1


def test_a_server_that_is_away_is_no_refusal(
    sender: Sender, listener: Listener
) -> None:
    """Nor does the execution ever fail for it; it is tried every five seconds."""
    listener.close()
    delays = []

    for _ in range(MAX_REFUSALS + 2):
        assert "connection" in sender.replay()
        delays.append(round(sender.left))

    assert delays == [1, 2, 4, *[5] * (MAX_REFUSALS - 1)]
    assert (sender.execution.status, sender.execution.refusals) == ("suspended", 0)


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "302 Found"]
)
def test_an_app_that_refuses_ten_times_ends_the_execution(
    sender: Sender, listener: Listener, status: str
) -> None:
    """With what it answered last, without its cookies."""
    made = answer(status, b"no", Set_Cookie="a=1", X_Why="tired", Location="/login")
    listener.replies += [made] * MAX_REFUSALS
    said = [sender.replay() for _ in range(MAX_REFUSALS)]
    assert said[-2:] == [f"is put off for 60 s: answered {status}", "is failed"]
    final = sender.drive.finish(sender.response)
    assert (final.status, final.data) == (status, b"no")
    assert final.headers["X-Why"] == "tired"
    assert "Set-Cookie" not in final.headers
    assert sender.attempts == [1]


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted"])
def test_a_success_before_the_endpoint_is_no_response(
    sender: Sender, listener: Listener, status: str
) -> None:
    """Who asks for the response of what failed would wait on, or believe it."""
    listener.replies += [answer(status, b"x")] * MAX_REFUSALS
    said = [sender.replay() for _ in range(MAX_REFUSALS)]
    assert said[-1] == "is failed"
    final = sender.drive.finish(sender.response)
    assert final.status_code == 500
    assert "failed without a response" in final.text
    assert f"last with {status}" in (sender.execution.error or b"").decode()


def test_refusals_and_outages_are_counted_apart(
    sender: Sender, listener: Listener
) -> None:
    """What is tried as long as it takes does not use up the ten."""
    away, refuses = answer("503 Away"), answer("401 No")
    listener.replies += [away, refuses] * (MAX_REFUSALS - 1)

    while listener.replies:
        sender.replay()

    row = sender.execution
    assert (row.status, row.refusals) == ("suspended", MAX_REFUSALS - 1)
    assert row.rejections == 2 * (MAX_REFUSALS - 1)


# Connections that break


def test_a_kept_connection_that_was_closed_is_made_anew(
    sender: Sender, listener: Listener
) -> None:
    """A server ends those that are idle."""
    listener.replies += [answer("503 One"), answer("503 Two")]
    sender.replay()
    listener.hang_up()
    assert sender.replay() == "is put off for 2 s: answered 503 Two"
    assert (len(listener.sent), listener.connections) == (2, 2)


def test_a_kept_connection_that_closes_at_that_moment_is_no_failure(
    sender: Sender, listener: Listener
) -> None:
    """The replay is sent again at once, and nothing is counted."""
    listener.replies += [answer("503 One"), then_close(b""), answer("503 Two")]
    sender.replay()
    assert sender.replay() == "is put off for 2 s: answered 503 Two"
    assert (len(listener.sent), sender.execution.rejections) == (3, 2)


def test_what_began_before_the_connection_broke_is_not_sent_again(
    sender: Sender, listener: Listener
) -> None:
    """The execution's row says that it runs."""
    store = sender.drive.state.store

    def claim_and_break(connection: t.Any) -> None:
        assert store.claim(sender.id, 2, "elsewhere:1:7:7", 15.0)
        reset(connection)

    listener.replies += [claim_and_break]
    assert sender.replay() == "is running"
    assert len(listener.sent) == 1


# Replays that are not sent


@pytest.mark.parametrize("column", ["request", "secrets"])
def test_a_stored_request_that_cant_be_read_is_put_off(
    sender: Sender, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    """With an error in the log, and less and less often."""
    update = executions.update().values({column: b"\x80\x04garbage"})
    sender.drive.state.store.database.run(lambda c: c.execute(update))
    said = [sender.replay() for _ in range(3)]
    assert said[0].startswith("is put off for 1 s: answered by nobody, since it can't")
    assert said[2].startswith("is put off for 4 s: answered by nobody")
    assert f"The request of execution {sender.id} can't be sent." in caplog.text
    assert "UnicodeDecodeError" in caplog.text


def test_only_the_next_attempt_is_sent(sender: Sender, listener: Listener) -> None:
    """Not one that was begun, nor one after the next."""
    sender.drive.advance(DAY)
    said = [replay(sender.app, sender.id, number) for number in (1, 3)]
    assert said == ["is passed over: it is suspended in attempt 1"] * 2
    assert listener.sent == []


def test_what_has_ended_is_not_sent(sender: Sender, listener: Listener) -> None:
    """A job may come late."""
    store = sender.drive.state.store
    sender.drive.advance(DAY)
    store.claim(sender.id, 2, "me:1:7:7", 15.0)
    store.finish(sender.id, 2, "completed", None)
    said = replay(sender.app, sender.id, 3)
    assert said == "is passed over: it is completed in attempt 2"
    assert listener.sent == []


# Requests that could not be replayed


def test_a_request_without_room_for_a_ticket_is_refused(
    sender: Sender, client: FlaskClient
) -> None:
    """A server would answer its replays 431, and what follows a failure, too."""
    some = {f"X-{number}": "1" for number in range(MAX_FIELDS - ADDED - 2)}
    assert client.post("/work", headers=some).status_code == 202
    answer = client.post("/work", headers={**some, "X-More": "1"})
    assert answer.status_code == 431
    assert "has 98 header fields" in (answer.json or {})["detail"]
    assert sender.attempts == [1, 1]


def test_a_header_that_is_too_long_for_a_replay_is_refused(
    sender: Sender, client: FlaskClient
) -> None:
    """Such as two short ones of one name, which WSGI has joined."""
    longest = "x" * (MAX_FIELD_SIZE - len("X-A: \r\n"))
    assert client.post("/work", headers={"X-A": longest}).status_code == 202
    half = "x" * (MAX_FIELD_SIZE // 2)
    answer = client.post("/work", headers=[("X-A", half), ("X-A", half)])
    assert answer.status_code == 431
    assert "header field X-A has 8199 bytes" in (answer.json or {})["detail"]
    assert sender.attempts == [1, 1]


def test_a_host_without_room_in_a_ticket_is_refused(
    sender: Sender, client: FlaskClient
) -> None:
    """The ticket repeats it in base64."""
    answer = client.post("/work", headers={"Host": "x." * 2_500})
    assert answer.status_code == 431
    assert "host and its client's address" in (answer.json or {})["detail"]
    assert sender.attempts == [1]


def test_a_long_trace_is_not_in_the_ticket(
    sender: Sender, client: FlaskClient, listener: Listener
) -> None:
    """It is sent as a header anyway."""
    state = secrets.token_urlsafe(6_000)
    answer = client.post("/work", headers={"tracestate": state, "traceparent": "0"})
    sender.id = answer.headers["Durable-Execution"]
    sender.replay()
    (sent,) = listener.sent
    assert sent.header("Tracestate") == state
    assert len(sent.header("Durable-Replay") or "") < 1_000


def test_a_replay_in_process_has_room_for_anything(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It is no message of a connection."""
    sender = Sender(app, durable, drive)
    some = {f"X-{number}": "x" * MAX_FIELD_SIZE for number in range(MAX_FIELDS)}
    assert drive.finish(client.post("/work", headers=some)).text == "awake"
    assert sender.attempts[:2] == [1, 1]


# What the view sees


def look() -> dict[str, t.Any]:
    """Note what a view may see of its client."""
    replayed = durable_replay()
    return {
        "address": request.remote_addr,
        "user": request.remote_user,
        "scheme": request.scheme,
        "host": request.host,
        "url": request.url,
        "query": request.query_string.decode(),
        "body": request.get_data(as_text=True),
        "content_type": request.content_type,
        "replayed": replayed is not None,
        "headers": sorted(
            (name, value)
            for name, value in request.headers.items()
            if name != "Durable-Replay"
        ),
    }


class Shop:
    """An app that notes what its view sees, under a server or not."""

    def __init__(self, app: Flask, durable: FlaskDurable) -> None:
        self.app = app
        self.seen: list[dict[str, t.Any]] = []

        @app.post("/a b/<path:rest>")
        @durable.endpoint
        def work(rest: str) -> str:
            self.seen.append(look())
            step.sleep("nap", 60)
            return "awake"


class MakeShop(t.Protocol):
    """How a test makes a shop."""

    def __call__(self, url: str | None = None, proxied: bool = False) -> Shop: ...


@pytest.fixture
def make_shop(database_url: str, tmp_path: pathlib.Path) -> cabc.Iterator[MakeShop]:
    """Make releases of one app with one journal."""
    made: list[Flask] = []

    def make(url: str | None = None, proxied: bool = False) -> Shop:
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(
            DURABLE_DATABASE_URL=database_url,
            DURABLE_REPLAY_URL=url,
            SECRET_KEY="tests",
            TESTING=True,
        )
        durable = FlaskDurable(app)

        if proxied:
            t.cast(t.Any, app).wsgi_app = ProxyFix(app.wsgi_app, x_host=1, x_port=1)

        made.append(app)
        return Shop(app, durable)

    yield make

    for app in made:
        get_state(app).close()


FORWARDED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "shop.example",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-Proto": "https",
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("proxied", [True, False], ids=["proxied", "direct"])
def test_a_replay_is_seen_as_the_clients_own_request(
    make_shop: MakeShop, proxied: bool, first: bool
) -> None:
    """Address, user, scheme, host and all, whatever the way, in any process."""
    server = make_shop(proxied=proxied)
    overrides = {"REMOTE_ADDR": "10.0.0.7", "REMOTE_USER": "ada", "AUTH_TYPE": "Basic"}

    with serving(server.app) as url:
        sender = make_shop(url, proxied)

        if not first:
            server.app.test_client().get("/")
            sender.app.test_client().get("/")

        answer = sender.app.test_client().post(
            "/a b/c%2fd?a=%c3%a9&f[x]=1",
            base_url="https://desk.example:99",
            data="a=1",
            headers=FORWARDED,
            content_type="application/x-www-form-urlencoded",
            environ_overrides=overrides,
        )
        drive = Drive(sender.app)
        drive.advance(61)
        assert drive.run_due() == 1
        assert drive.finish(answer).text == "awake"

    (before,), (after,) = sender.seen, server.seen
    assert after == before | {"replayed": True}
    expected = ("203.0.113.9", "shop.example:8443") if proxied else None
    assert (before["address"], before["host"]) == (
        expected or ("10.0.0.7", "desk.example:99")
    )
    assert (before["user"], before["scheme"]) == ("ada", "https")


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_without_a_ticket_nothing_is_restored(make_shop: MakeShop, first: bool) -> None:
    """An outsider's word about itself counts as little as ever."""
    shop = make_shop()
    client = shop.app.test_client()

    if not first:
        client.get("/")

    names = ["REMOTE_ADDR", "REMOTE_USER", "wsgi.url_scheme", "HTTP_REMOTE_ADDR"]
    client.post("/a b/c", headers={**FORWARDED, **dict.fromkeys(names, "forged")})
    (seen,) = shop.seen
    assert (seen["address"], seen["user"]) == ("127.0.0.1", None)
    assert (seen["scheme"], seen["host"]) == ("http", "localhost")


@pytest.mark.parametrize("size", [1, 512, 513, 8_000])
def test_a_trace_of_any_length_is_seen_again(make_shop: MakeShop, size: int) -> None:
    """In the ticket, or where that has no room for it, as a header."""
    server = make_shop()
    headers = {"traceparent": "1" * 55, "tracestate": "s" * size}

    with serving(server.app) as url:
        sender = make_shop(url)
        answer = sender.app.test_client().post("/a b/c", headers=headers, data="x")
        assert Drive(sender.app).finish(answer).text == "awake"

    (before,), (after,) = sender.seen, server.seen
    assert after == before | {"replayed": True}
    assert ("Tracestate", "s" * size) in after["headers"]


def test_a_server_with_another_key_does_not_end_the_execution(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys change server by server; the log says what to do."""
    server = make_shop()
    server.app.secret_key = "other"

    with serving(server.app) as url:
        sender = make_shop(url)
        answer = sender.app.test_client().post("/a b/c")
        drive = Drive(sender.app)

        for _ in range(MAX_REFUSALS + 1):
            drive.advance(DAY)
            drive.run_due()

        assert (drive.status(answer)["status"], server.seen) == ("suspended", [])
        assert "give all processes the same one" in caplog.text
        server.app.config["SECRET_KEY_FALLBACKS"] = ["tests"]
        assert drive.finish(answer).text == "awake"


def test_a_replay_at_another_app_is_told_with_what_to_do(
    make_shop: MakeShop, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """It has the same key, so that the name alone differs."""
    FlaskDurable(app)

    with serving(app) as url:
        sender = make_shop(url)
        answer = sender.app.test_client().post("/a b/c")
        drive = Drive(sender.app)
        drive.advance(DAY)
        drive.run_due()

    assert drive.status(answer)["status"] == "suspended"
    assert "DURABLE_REPLAY_URL leads to another app" in caplog.text
    get_state(app).close()


def test_a_view_that_takes_longer_than_the_time_out_runs_once(
    app: Flask, client: FlaskClient
) -> None:
    """The sender lets go of it, and nobody sends it again."""
    app.config["DURABLE_REPLAY_TIMEOUT"] = 0.2
    go_on, calls = threading.Event(), []

    def take_long() -> bool:
        calls.append(1)
        return go_on.wait(20)

    with serving(app) as url:
        app.config["DURABLE_REPLAY_URL"] = url
        durable = FlaskDurable(app)

        @app.post("/work")
        @durable.endpoint
        def work() -> str:
            step.sleep("nap", 60)
            return str(step.run("slow", take_long))

        answer = client.post("/work")
        drive = Drive(app)
        drive.advance(61)
        id = answer.headers["Durable-Execution"]
        assert replay(app, id, 2) == "is running"
        assert drive.run_due() == 0
        go_on.set()
        wait_until(lambda: drive.status(answer)["status"] == "completed")
        assert (calls, drive.state.store.execution(id).attempt) == ([1], 2)

    get_state(app).close()
