"""Tickets that are no good: refused and logged, and nothing runs."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from flask import Flask
from flask import request
from werkzeug.test import TestResponse

from flask_durable import clock
from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.ids import new_id
from flask_durable.signing import _serializer
from flask_durable.signing import sign_ticket
from flask_durable.signing import Ticket
from flask_durable.signing import TICKET_AGE
from flask_durable.signing import TICKET_SKEW
from flask_durable.state import get_state

from .driving import Drive

ORIGIN = {
    "HTTP_HOST": "desk.example",
    "REMOTE_ADDR": "203.0.113.9",
    "SERVER_NAME": "desk.example",
    "SERVER_PORT": "443",
    "wsgi.url_scheme": "https",
}

NOT_OURS = "its signature is not ours"
OTHER_REQUEST = "it was made for another request"
USED = "it was used before, or the execution is not due"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


class Gate:
    """An execution that is due, and what gets in with a ticket for it."""

    def __init__(self, app: Flask, durable: FlaskDurable) -> None:
        self.app = app
        self.ran: list[str] = []
        self.addresses: list[str | None] = []

        @app.before_request
        def before() -> None:
            replayed = durable_replay()
            self.ran.append(f"hook {replayed.execution_id if replayed else None}")
            self.addresses.append(request.remote_addr)

        @app.route("/work/<name>", methods=["POST", "PUT"])
        @durable.endpoint
        def work(name: str) -> str:
            self.ran.append("view")
            step.sleep("nap", 60)
            return "awake"

        @app.post("/plain")
        def plain() -> str:
            self.ran.append("plain")
            return "plain"

        self.id = self.begin()
        Drive(app).advance(61)
        self.ran.clear()

    def begin(self) -> str:
        """Begin an execution, and give its id."""
        answer = self.app.test_client().post("/work/a?b=c", data="d")
        return answer.headers["Durable-Execution"]

    def ticket(self, **changes: t.Any) -> Ticket:
        """Make a ticket for the execution, or a little beside it."""
        digest = get_state(self.app).store.outgoing(self.id).request.digest
        fields = {"execution_id": self.id, "attempt": 2, "digest": digest, **changes}
        return Ticket(**fields)

    def sign(self, **changes: t.Any) -> str:
        """Sign a ticket with the app's key."""
        return sign_ticket(self.app, self.ticket(**changes))

    def send(
        self,
        header: str,
        url: str = "/work/a?b=c",
        method: str = "POST",
        data: bytes = b"d",
    ) -> TestResponse:
        """Send the request with a ticket."""
        headers = {"Durable-Replay": header}
        client = self.app.test_client()
        return client.open(url, method=method, data=data, headers=headers)


@pytest.fixture
def gate(app: Flask, durable: FlaskDurable) -> Gate:
    """Have an execution that is due."""
    return Gate(app, durable)


@pytest.fixture
def refused(gate: Gate, caplog: pytest.LogCaptureFixture) -> t.Any:
    """Give what makes sure that an answer is a refusal, and that nothing ran."""

    def check(answer: TestResponse, reason: str) -> None:
        assert answer.status_code == 403
        assert answer.mimetype == "application/problem+json"
        assert reason in (answer.json or {})["detail"]
        assert f"Refused a replay of {answer.request.method} " in caplog.text
        assert caplog.text.count(f": {reason}.") == 1
        assert gate.ran == []
        execution = get_state(gate.app).store.execution(gate.id)
        assert (execution.status, execution.attempt) == ("suspended", 1)
        assert (execution.rejections, execution.refusals) == (0, 0)

    return check


def other_app(key: str) -> Flask:
    """Make an app of another name, with a key."""
    app = Flask("other")
    app.secret_key = key
    return app


def test_a_good_ticket_gets_in(gate: Gate) -> None:
    """Else the tests below would show nothing."""
    assert gate.send(gate.sign()).text == "awake"
    assert gate.ran == [f"hook {gate.id}", "view"]


def test_a_ticket_of_an_old_key_gets_in(gate: Gate) -> None:
    """As long as the key is among the fallbacks."""
    ticket = gate.sign()
    gate.app.config.update(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "tests"])
    assert gate.send(ticket).text == "awake"


def test_a_ticket_of_a_key_that_is_gone_is_refused(gate: Gate, refused: t.Any) -> None:
    """It was dropped from the fallbacks."""
    ticket = gate.sign()
    gate.app.config.update(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older"])
    refused(gate.send(ticket), NOT_OURS)


def test_a_ticket_of_another_app_is_refused(gate: Gate, refused: t.Any) -> None:
    """It has a key of its own."""
    ticket = sign_ticket(other_app("theirs"), gate.ticket())
    refused(gate.send(ticket), NOT_OURS)


def test_a_ticket_of_another_app_with_our_key_is_refused(
    gate: Gate, refused: t.Any
) -> None:
    """They share a journal and a key; its own servers may take it."""
    ticket = sign_ticket(other_app("tests"), gate.ticket(origin=ORIGIN))
    answer = gate.send(ticket)
    refused(answer, "it is for another app")
    assert answer.headers["Durable-Replay"] == "app"
    assert "203.0.113.9" not in gate.addresses


def test_a_ticket_for_no_execution_is_refused(gate: Gate, refused: t.Any) -> None:
    """It was deleted, or belongs to another journal."""
    refused(gate.send(gate.sign(execution_id=new_id())), "there is no such execution")


def test_a_ticket_for_an_execution_that_is_not_due_is_refused(
    gate: Gate, refused: t.Any
) -> None:
    """The same request began another one, which sleeps."""
    other = gate.begin()
    gate.ran.clear()
    answer = gate.send(gate.sign(execution_id=other))
    assert answer.status_code == 403
    assert gate.ran == [f"hook {other}"], "the view did not run"
    execution = get_state(gate.app).store.execution(other)
    assert (execution.status, execution.attempt) == ("suspended", 1)


@pytest.mark.parametrize("attempt", [-1, 0, 1, 3, 4])
def test_a_ticket_for_another_attempt_is_refused(
    gate: Gate, refused: t.Any, attempt: int
) -> None:
    """One that was, or is yet to be."""
    refused(gate.send(gate.sign(attempt=attempt)), USED)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "/work/b?b=c"},
        {"url": "/work/a"},
        {"url": "/work/a?b=d"},
        {"url": "/work/a?b=c&b=c"},
        {"url": "/work/a?b=%63"},
        {"method": "PUT"},
        {"data": b"e"},
        {"data": b""},
        {"data": b"d\n"},
    ],
    ids=str,
)
def test_a_ticket_for_another_request_is_refused(
    gate: Gate, refused: t.Any, change: dict[str, t.Any]
) -> None:
    """Path, query, method and body are the captured ones, byte by byte."""
    refused(gate.send(gate.sign(), **change), OTHER_REQUEST)


@pytest.mark.parametrize("age", [TICKET_AGE + 1, 86_400, -TICKET_SKEW - 1])
def test_a_ticket_of_another_time_is_refused(
    gate: Gate, refused: t.Any, monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """And the sender hears that a new one would do."""
    ticket, now = gate.sign(), clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + age)
    answer = gate.send(ticket)
    refused(answer, "it has expired")
    assert answer.headers["Durable-Replay"] == "expired"


@pytest.mark.parametrize("path", ["/work/a?b=c", "/gone", "/plain"])
def test_a_ticket_of_another_key_may_be_good_elsewhere(gate: Gate, path: str) -> None:
    """The sender hears that this server has another key, or none of its views yet."""
    ticket = sign_ticket(other_app("theirs"), gate.ticket())
    answer = gate.send(ticket, path)
    assert (answer.status_code, gate.ran) == (403, [])
    assert answer.headers["Durable-Replay"] == "foreign"


def test_a_ticket_of_another_version_may_be_good_elsewhere(
    gate: Gate, refused: t.Any
) -> None:
    """The sender's package is a newer one than this server's, or an older one."""
    theirs = [*dataclasses.astuple(gate.ticket()), "", "more", clock.now()]
    answer = gate.send(_serializer(gate.app, "replay").dumps(theirs))
    refused(answer, "it is of another version")
    assert answer.headers["Durable-Replay"] == "version"


def test_other_refusals_dont_tell_that_a_new_ticket_would_do(gate: Gate) -> None:
    """It would not."""
    assert "Durable-Replay" not in gate.send(gate.sign(), data=b"e").headers


def test_a_ticket_that_was_used_is_refused(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with the origin that it restores."""
    ticket = gate.sign(origin=ORIGIN)
    assert gate.send(ticket).status_code == 200
    gate.ran.clear()
    assert gate.send(ticket).status_code == 403
    assert gate.ran == []
    assert USED in caplog.text


def test_a_ticket_restores_the_origin_that_it_names(gate: Gate) -> None:
    """Else the test below would show nothing."""
    gate.send(gate.sign(origin=ORIGIN))
    assert gate.addresses[-1] == "203.0.113.9"


def test_an_origin_cant_be_forged(gate: Gate, refused: t.Any) -> None:
    """It is signed with the rest of the ticket."""
    good = gate.sign()
    forger = other_app("theirs")
    forged = sign_ticket(forger, gate.ticket(origin=ORIGIN))
    signature = good.rpartition(".")[2]
    refused(gate.send(f"{forged.rpartition('.')[0]}.{signature}"), NOT_OURS)


@pytest.mark.parametrize("path", ["/plain", "/gone"])
def test_a_forged_ticket_changes_nothing_elsewhere(gate: Gate, path: str) -> None:
    """A plain view keeps its client's address, and is not reached."""

    forged = sign_ticket(other_app("theirs"), gate.ticket(origin=ORIGIN))
    assert gate.send(forged, path).status_code in (403, 404)
    assert "plain" not in gate.ran
    assert "203.0.113.9" not in gate.addresses


def test_a_good_ticket_opens_no_other_view(gate: Gate) -> None:
    """It is for a durable one."""

    assert gate.send(gate.sign(), "/plain").status_code == 403
    assert gate.ran == []
