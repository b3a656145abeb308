"""Captured requests as they are sent to a server of the app."""

from __future__ import annotations

import collections.abc as cabc
import time
import typing as t

import pytest
from flask import Request
from werkzeug.test import create_environ

from flask_durable.capture import capture_request
from flask_durable.config import Config
from flask_durable.http_session import Session
from flask_durable.records import RequestRecord
from flask_durable.sending import Answer
from flask_durable.sending import let_go
from flask_durable.sending import send_over_http

from .listening import answer
from .listening import Listener
from .listening import Reply
from .listening import reset
from .listening import then_close

TICKET = "a.ticket"


@pytest.fixture
def listener() -> cabc.Iterator[Listener]:
    """Listen until the test ends."""
    with Listener() as listener:
        yield listener


def captured(path: str = "/", /, **options: t.Any) -> RequestRecord:
    """Capture a request."""
    made = Request(create_environ(path, **options))
    return capture_request(made, 10_000)


def from_server(target: str, **environ: t.Any) -> RequestRecord:
    """Capture a request as a server hands it on that tells the raw target."""
    path, _, query = target.partition("?")
    overrides = {"RAW_URI": target, "PATH_INFO": path, "QUERY_STRING": query}
    return captured("/", environ_overrides=overrides | environ)


def send(listener: Listener, record: RequestRecord, **settings: t.Any) -> Answer:
    """Send a request again."""
    config = Config(replay_url=listener.url, **settings)
    return send_over_http(config, record, TICKET)


# The request


@pytest.mark.parametrize(
    "method",
    ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "get", "M-SEARCH"],
)
def test_the_method_is_kept(listener: Listener, method: str) -> None:
    """Also one that nobody knows, and with its letters as they were."""
    send(listener, from_server("/", REQUEST_METHOD=method))
    assert listener.sent[0].line == f"{method} / HTTP/1.1".encode()


@pytest.mark.parametrize(
    "target",
    [
        "/a%2fb/../c//d",
        "/?a=%c3%a9&filter[x]=1&q=\xe9\xa0raw",
        "/a;params;b=1?x",
        "//twice",
        "/%",
        "/?",
        "/caf\xc3\xa9",
    ],
)
def test_the_target_is_kept(listener: Listener, target: str) -> None:
    """Byte by byte, as the server received it."""
    send(listener, from_server(target))
    assert listener.sent[0].target == target.encode("latin-1")


def test_what_no_target_may_hold_is_quoted(listener: Listener) -> None:
    """A lenient server took it; else the request's line would end there."""
    send(listener, from_server("/a b\x01?c\t\x7f\r\nX: y"))
    assert listener.sent[0].target == b"/a%20b%01?c%09%7F%0D%0AX:%20y"
    assert "x" not in listener.sent[0].names


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
def test_an_absolute_target_loses_its_host(listener: Listener, key: str) -> None:
    """It is the proxy's form; the host stands in its header."""
    overrides = {"RAW_URI": "", "QUERY_STRING": "x=1"}
    overrides[key] = "http://shop.example/a%2fb?x=1"
    send(listener, captured("/a", environ_overrides=overrides))
    assert listener.sent[0].target == b"/a%2fb?x=1"


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        ("/caf\xc3\xa9", "q=%c3%a9&f[x]=1", b"/caf%C3%A9?q=%c3%a9&f[x]=1"),
        ("/a b", "", b"/a%20b"),
        ("/a?b#c%", "", b"/a%3Fb%23c%25"),
        ("/;p/$&'()*+,:=@~!", "", b"/;p/$&'()*+,:=@~!"),
    ],
)
def test_without_a_raw_target_one_is_made(
    listener: Listener, path: str, query: str, target: bytes
) -> None:
    """Of the path, quoted, and the query as it was; the mount point comes first."""
    overrides = {"SCRIPT_NAME": "/shop", "PATH_INFO": path, "QUERY_STRING": query}

    for key in ("RAW_URI", "REQUEST_URI"):
        overrides[key] = ""

    send(listener, captured("/", environ_overrides=overrides))
    assert listener.sent[0].target == b"/shop" + target


@pytest.mark.parametrize("body", [b"\x00\xff\r\n\r\nGET / HTTP/1.1", b"x" * 9_999])
def test_the_body_is_kept(listener: Listener, body: bytes) -> None:
    """Byte by byte."""
    send(listener, captured(method="POST", data=body))
    assert listener.sent[0].body == body
    assert listener.sent[0].header("Content-Length") == str(len(body))


def test_a_chunked_body_gets_a_length(listener: Listener) -> None:
    """It was read to its end; the server would wait for chunks else."""
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    made = create_environ("/", method="POST", data=b"abc", environ_overrides=environ)
    del made["CONTENT_LENGTH"]
    send(listener, capture_request(Request(made), 99))
    assert listener.sent[0].body == b"abc"
    assert listener.sent[0].header("Transfer-Encoding") is None


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_length_of_zero_is_kept(listener: Listener, method: str) -> None:
    """Some servers want one."""
    environ = {"CONTENT_LENGTH": "0", "REQUEST_METHOD": method}
    send(listener, captured(environ_overrides=environ))
    assert listener.sent[0].header("Content-Length") == "0"


def test_no_header_is_made_up(listener: Listener) -> None:
    """Neither by the library that sends, nor by ours, but for the ticket."""
    send(listener, captured(headers={"Host": "shop.example", "X-One": "1"}))
    assert listener.sent[0].names == ["durable-replay", "host", "x-one"]
    assert listener.sent[0].header("Durable-Replay") == TICKET


def test_headers_are_sent_as_they_came(listener: Listener) -> None:
    """Those that the library would add too, secrets, and bytes that are not ASCII."""
    headers = {
        "Accept": "*/*;q=0.1",
        "Accept-Encoding": "br",
        "Authorization": "Bearer x",
        "Content-Type": "text/plain; charset=latin-1",
        "Cookie": "a=1; b=2",
        "Host": "shop.example:99",
        "User-Agent": "curl/1",
        "X-Name": "J\xfcrgen",
    }
    send(listener, captured(headers=headers))
    sent = listener.sent[0]
    assert {name: sent.header(name) for name in headers} == headers
    assert len(sent.headers) == len(headers) + 1


def test_a_repeated_header_is_sent_once(listener: Listener) -> None:
    """WSGI has joined it."""
    send(listener, captured(headers=[("X-A", "1"), ("X-A", "2")]))
    assert listener.sent[0].header("X-A") == "1, 2"


def test_headers_of_the_connection_are_left_out(listener: Listener) -> None:
    """They were for another one, and so was an old ticket."""
    names = ["Connection", "Keep-Alive", "Expect", "TE", "Upgrade", "Durable-Replay"]
    send(listener, captured(headers={name: "x" for name in names}))
    sent = listener.sent[0]
    assert sent.names == ["durable-replay", "host"]
    assert sent.header("Durable-Replay") == TICKET


def test_a_client_cant_change_the_target(listener: Listener) -> None:
    """By the name of the header that carries it to the connection."""
    send(listener, captured("/mine", headers={"Durable-Target": "/yours"}))
    assert listener.sent[0].target == b"/mine"
    assert "durable-target" not in listener.sent[0].names


# The answer


def test_an_answer_is_given_as_it_came(listener: Listener) -> None:
    """Its bytes are not decoded, repeated headers stay apart."""
    wire = answer("207 Odd", b"\x1f\x8bnone", Content_Encoding="gzip", Vary="a")
    listener.replies += [wire.replace(b"Vary: a", b"Vary: a\r\nVary: b")]
    found = send(listener, captured()).response
    assert found is not None
    assert (found.status, found.data) == ("207 Odd", b"\x1f\x8bnone")
    assert found.headers.getlist("Vary") == ["a", "b"]
    assert found.headers["Content-Encoding"] == "gzip"


def test_an_answer_is_read_as_far_as_it_is_kept(listener: Listener) -> None:
    """A server could send for ever."""
    listener.replies += [answer(body=b"x" * 50_000)]
    found = send(listener, captured(), max_response_bytes=100).response
    assert found is not None and found.data == b"x" * 100
    send(listener, captured())
    assert listener.connections == 2, "the rest is not taken for another answer"


def test_a_connection_serves_many_replays(listener: Listener) -> None:
    """Each answer is read to its end."""
    for _ in range(5):
        send(listener, captured(method="POST", data=b"x"))

    assert (len(listener.sent), listener.connections) == (5, 1)


def test_an_interim_answer_is_none(listener: Listener) -> None:
    """The one that counts comes after it."""
    listener.replies += [b"HTTP/1.1 100 Continue\r\n\r\n" + answer("201 Made")]
    found = send(listener, captured())
    assert str(found) == "201 Made"


@pytest.mark.parametrize(
    "reply",
    [
        reset,
        then_close(b""),
        then_close(answer(body=b"x" * 9)[:-5]),
        then_close(answer(Transfer_Encoding="chunked", body=b"9\r\nx")),
        then_close(b"SMTP\r\n\r\n"),
        then_close(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200),
    ],
    ids=["reset", "closed", "short-body", "short-chunk", "no-http", "long-head"],
)
def test_a_connection_that_breaks_is_no_answer(
    listener: Listener, reply: Reply
) -> None:
    """Nothing raises; a half answer counts as none."""
    listener.replies += [reply]
    found = send(listener, captured())
    assert (found.response, found.broken, found.refused) == (None, True, False)
    assert str(found).startswith("by a broken connection (")


def test_a_server_that_is_away_is_no_answer() -> None:
    """Nor is it a refusal."""
    listener = Listener()
    listener.close()
    found = send(listener, captured())
    assert (found.response, found.broken, found.refused) == (None, True, False)
    assert "refused" in str(found)


@pytest.mark.parametrize("how", ["hang", "dribble"])
def test_a_server_is_waited_for_only_so_long(listener: Listener, how: str) -> None:
    """Before its answer, and within."""
    listener.replies += [getattr(listener, how)]
    began = time.monotonic()
    found = send(listener, captured(), replay_timeout=0.2)
    assert time.monotonic() - began < 5
    assert str(found) == "nothing within 0.2 s"
    assert (found.broken, found.refused) == (False, False)


def test_letting_go_without_a_replay_does_nothing() -> None:
    """A worker that is idle has its own way to end."""
    let_go()


def test_a_replay_is_let_go(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's handler does it while an answer is waited for."""

    def interrupted(*args: t.Any) -> t.NoReturn:
        let_go()
        raise AssertionError("it was not let go")

    monkeypatch.setattr(Session, "send_exactly", interrupted)
    assert str(send(listener, captured())) == "nothing yet: this process ends"
    let_go()
