"""Requests and responses as records, and back."""

from __future__ import annotations

import collections.abc as cabc
import io
import json
import typing as t

import pytest
from flask import Flask
from flask import Request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException
from werkzeug.test import create_environ
from werkzeug.wrappers import Response

from flask_durable.arrival import install_entry
from flask_durable.capture import capture_request
from flask_durable.capture import capture_response
from flask_durable.capture import HOP_BY_HOP
from flask_durable.capture import request_digest
from flask_durable.capture import request_environ
from flask_durable.capture import stored_response
from flask_durable.problems import Problem
from flask_durable.records import RequestRecord

LIMIT = 1000
URL = "http://shop.example/trips/7?x=1"


def make(path: str = "/trips", **options: t.Any) -> Request:
    """Make a POST request."""
    return Request(create_environ(path, **({"method": "POST"} | options)))


def captured(request: Request) -> RequestRecord:
    """Capture a request."""
    return capture_request(request, LIMIT)


def again(request: Request) -> Request:
    """Capture a request, and make the one that a replay sends."""
    return Request(request_environ(captured(request)))


class Rows:
    """A body that comes in parts, and must be closed."""

    def __init__(self, *parts: bytes, error: Exception | None = None) -> None:
        self.parts = parts
        self.error = error
        self.read = 0
        self.closed = 0

    def __iter__(self) -> cabc.Iterator[bytes]:
        for part in self.parts:
            self.read += 1
            yield part

        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Count how often it is closed."""
        self.closed += 1


def test_the_head_of_a_request_comes_back() -> None:
    """Method, mount point, path, query, scheme, host, client."""
    base = "https://shop.example:8443/shop"
    environ = {"REMOTE_ADDR": "203.0.113.7", "REMOTE_PORT": "4711"}
    request = make(
        "/a b/ü%2F",
        method="PATCH",
        base_url=base,
        query_string="a=1&a=%zz&&b",
        environ_overrides=environ,
    )
    found = again(request)

    for name in ("method", "root_path", "path", "query_string", "url", "host"):
        assert getattr(found, name) == getattr(request, name)

    assert (found.remote_addr, found.is_secure) == ("203.0.113.7", True)


@pytest.mark.parametrize(
    "key", ["RAW_URI", "REQUEST_URI", "SERVER_PROTOCOL", "REMOTE_USER"]
)
def test_what_servers_add_comes_back(key: str) -> None:
    """Such as the raw path, which tells what decoding has lost."""
    request = make(environ_overrides={key: "/a%2Fb?c"})
    assert again(request).environ[key] == "/a%2Fb?c"


def test_headers_come_back() -> None:
    """Those of the client, with their letters and their order of values."""
    headers = {"X-Trip": "grün, 7", "Accept": "text/html;q=0.5, */*", "X-Empty": ""}
    found = again(make(headers=headers))
    assert {name: found.headers[name] for name in headers} == headers


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {"content-length"}))
def test_a_connections_headers_are_not_stored(name: str) -> None:
    """They were for the next hop alone."""
    request = make(headers={name: "x", "X-Trip": "7"})
    found = again(request)
    assert name not in found.headers
    assert found.headers["X-Trip"] == "7"


def test_headers_named_by_connection_are_kept() -> None:
    """The view of the first attempt saw them, so that of a replay does."""
    found = again(make(headers={"Connection": "X-Trip", "X-Trip": "7"}))
    assert found.headers["X-Trip"] == "7"


def test_credentials_are_kept_apart() -> None:
    """So that they can be erased without the rest."""
    headers = {"Authorization": "Bearer hunter2", "Cookie": "a=hunter3", "X-A": "b"}
    record = captured(make(headers=headers))
    assert record.secrets is not None
    assert b"hunter" not in record.head
    assert dict(json.loads(record.secrets)) == {
        "Authorization": "Bearer hunter2",
        "Cookie": "a=hunter3",
    }
    found = Request(request_environ(record))
    assert found.headers["Authorization"] == "Bearer hunter2"
    assert dict(found.cookies) == {"a": "hunter3"}


def test_without_credentials_there_are_none() -> None:
    """Nothing to erase, nothing to send."""
    record = captured(make(headers={"X-A": "b"}))
    assert record.secrets is None
    assert "Cookie" not in Request(request_environ(record)).headers


@pytest.mark.parametrize("body", [b"", b"\x00\xff" * 100, b"x" * LIMIT])
def test_a_body_comes_back(body: bytes) -> None:
    """To the byte, with its length and type."""
    request = make(data=body, content_type="application/x-trip; v=1")
    found = again(request)
    assert found.get_data() == body
    assert found.content_type == "application/x-trip; v=1"
    assert request.get_data() == body


def test_a_form_is_parsed_after_capture_as_ever() -> None:
    """By the first request, and by its replay."""
    file = FileStorage(io.BytesIO(b"pdf"), "ticket.pdf")
    request = make(data={"name": "ada", "file": file})
    replay = again(request)

    for each in (request, replay):
        assert each.form["name"] == "ada"
        assert each.files["file"].read() == b"pdf"
        each.close()


def test_a_body_without_a_length_comes_back() -> None:
    """A chunked one gets its length in the replay."""
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    request = make(input_stream=io.BytesIO(b"seat" * 9), environ_overrides=environ)
    request.environ.pop("CONTENT_LENGTH", None)
    found = again(request)
    assert found.get_data() == request.get_data() == b"seat" * 9
    assert found.content_length == 36


def test_a_get_has_no_length() -> None:
    """None is made up."""
    request = make(method="GET")
    request.environ.pop("CONTENT_LENGTH", None)
    assert again(request).content_length is None


@pytest.mark.parametrize("limit", [0, 35])
def test_a_body_over_the_limit_is_refused_unread(limit: int) -> None:
    """Its length says so."""
    stream = io.BytesIO(b"seat" * 9)
    environ = {"CONTENT_LENGTH": "36"}
    request = make(input_stream=stream, environ_overrides=environ)

    with pytest.raises(Problem, match=f"over the limit of {limit} bytes") as caught:
        capture_request(request, limit)

    assert caught.value.code == 413
    assert stream.tell() == 0


def test_a_body_without_a_length_over_the_limit_is_refused() -> None:
    """As soon as it has been counted."""
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    request = make(input_stream=io.BytesIO(b"x" * 36), environ_overrides=environ)
    request.environ.pop("CONTENT_LENGTH", None)

    with pytest.raises(Problem, match="over the limit of 35 bytes"):
        capture_request(request, 35)


@pytest.mark.parametrize("terminated", [False, True])
def test_a_body_that_ends_early_is_refused(terminated: bool) -> None:
    """The client went away while it sent; some servers tell, some don't."""
    environ = {"wsgi.input": io.BytesIO(b"sea"), "wsgi.input_terminated": terminated}
    request = make(environ_overrides=environ)
    request.environ["CONTENT_LENGTH"] = "4"

    with pytest.raises(HTTPException, match="400 Bad Request") as caught:
        captured(request)

    assert caught.value.code == 400


def test_a_body_that_was_read_before_is_captured() -> None:
    """As middleware may have done with this very request."""
    request = make(data=b"seat")
    assert request.get_data() == b"seat"
    assert again(request).get_data() == b"seat"


def test_an_endless_body_is_not_read_to_its_end() -> None:
    """What is over the limit is never held in memory."""

    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: t.Any) -> int:
            self.given += len(buffer)
            assert self.given < 2**24, "reads on and on"
            return len(buffer)

    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    request = make(environ_overrides=environ | {"wsgi.input": Endless()})
    request.environ.pop("CONTENT_LENGTH", None)

    with pytest.raises(Problem, match="over the limit of 1000 bytes"):
        captured(request)


BASE = {
    "REQUEST_METHOD": "POST",
    "SCRIPT_NAME": "/shop",
    "PATH_INFO": "/trips",
    "QUERY_STRING": "a=1",
}


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({"REQUEST_METHOD": "PUT"}, b"x"),
        ({"SCRIPT_NAME": "/shops"}, b"x"),
        ({"PATH_INFO": "/trips/"}, b"x"),
        ({"QUERY_STRING": "a=2"}, b"x"),
        ({"QUERY_STRING": ""}, b"x"),
        ({}, b""),
        ({}, b"y"),
        ({"SCRIPT_NAME": "/shop/trips", "PATH_INFO": ""}, b"x"),
        ({"QUERY_STRING": "a=1\nx"}, b""),
        ({"PATH_INFO": "/trips\na=1", "QUERY_STRING": ""}, b"x"),
        ({"PATH_INFO": "/trips\u0101"}, b"x"),
    ],
)
def test_another_request_has_another_digest(
    changes: dict[str, str], body: bytes
) -> None:
    """A ticket is good for one request alone."""
    assert request_digest(BASE | changes, body) != request_digest(BASE, b"x")


def test_characters_beyond_latin_1_count_too() -> None:
    """Two of them are not the same."""
    first = request_digest(BASE | {"PATH_INFO": "/\u0101"}, b"")
    assert first != request_digest(BASE | {"PATH_INFO": "/\u0102"}, b"")


def test_the_digest_is_for_what_a_proxy_leaves_alone() -> None:
    """Headers and addresses may change between client and replay."""
    others = {"HTTP_HOST": "a", "REMOTE_ADDR": "b", "HTTP_COOKIE": "c"}
    assert request_digest(BASE | others, b"x") == request_digest(BASE, b"x")


def test_a_replay_has_the_digest_of_its_request() -> None:
    """It is captured again on its way."""
    record = captured(make("/ü?a=%20", data=b"seat"))
    assert captured(Request(request_environ(record))).digest == record.digest


def keep(response: Response, limit: int = LIMIT) -> t.Any:
    """Store a response and give the stored one, or None without a body."""
    record = capture_response(response, lambda: URL, limit)
    return record.body and stored_response(record, record.body)


def test_a_response_comes_back() -> None:
    """Status with its words, headers, bytes."""
    headers = [("X-A", "1"), ("X-A", "2"), ("Content-Type", "text/x; charset=u")]
    found = keep(Response("Grüße", "299 Very Well", headers))
    assert (found.status, found.get_data(True)) == ("299 Very Well", "Grüße")
    assert found.headers.getlist("X-A") == ["1", "2"]
    assert found.content_type == "text/x; charset=u"


def test_a_response_without_a_type_gets_none() -> None:
    """Werkzeug would add its default."""
    response = Response(b"raw")
    del response.headers["Content-Type"]
    assert keep(response).headers.to_wsgi_list() == [("Content-Length", "3")]


def test_cookies_are_not_stored() -> None:
    """They are whose request it was; the response itself keeps them."""
    response = Response("x")
    response.set_cookie("session", "ada")
    assert "Set-Cookie" not in keep(response).headers
    assert "Set-Cookie" in response.headers


@pytest.mark.parametrize(
    ("location", "absolute"),
    [
        ("/done", "http://shop.example/done"),
        ("done", "http://shop.example/trips/done"),
        ("?y=2", "http://shop.example/trips/7?y=2"),
        ("//pay.example/", "http://pay.example/"),
        ("https://pay.example/x", "https://pay.example/x"),
    ],
)
def test_a_location_is_stored_absolute(location: str, absolute: str) -> None:
    """It is fetched under another URL than it was made for."""
    response = Response(b"x", 303, {"Location": location})
    response.autocorrect_location_header = False
    assert keep(response).headers["Location"] == absolute
    assert response.headers["Location"] == location


def test_a_stream_is_read_and_closed_once() -> None:
    """Its bytes are both stored and sent, with their length."""
    rows = Rows(b"ab", b"", b"cd")
    response = Response(rows)
    assert keep(response).get_data() == b"abcd"
    assert rows.closed == 1
    assert response.headers["Content-Length"] == "4"
    assert b"".join(response.iter_encoded()) == b"abcd"
    response.close()
    assert rows.closed == 1


def test_a_stream_keeps_the_length_that_it_said() -> None:
    """As a view that answers for a range may say."""
    response = Response(Rows(b"ab"), headers={"Content-Length": "2"})
    keep(response)
    assert response.headers.getlist("Content-Length") == ["2"]


def test_what_is_called_on_close_waits_for_the_close() -> None:
    """The response is still to be sent."""
    response, closed = Response(Rows(b"ab")), []
    response.call_on_close(lambda: closed.append(1))
    keep(response)
    assert closed == []
    response.close()
    assert closed == [1]


def test_a_stream_over_the_limit_is_served_whole() -> None:
    """Not stored, read no further than the limit, and closed at the end."""
    rows = Rows(*[b"x" * 400] * 5)
    response = Response(rows)
    record = capture_response(response, lambda: URL, LIMIT)
    assert (record.body, rows.read, rows.closed) == (None, 3, 0)
    assert b"".join(response.iter_encoded()) == b"x" * 2000
    response.close()
    assert rows.closed == 1


def test_a_body_over_the_limit_is_served_whole() -> None:
    """One that is no stream."""
    response = Response(b"x" * 1001)
    assert capture_response(response, lambda: URL, LIMIT).body is None
    assert b"".join(response.iter_encoded()) == b"x" * 1001


def test_a_body_at_the_limit_is_stored() -> None:
    """The limit is included."""
    assert keep(Response(b"x" * LIMIT)).get_data() == b"x" * LIMIT
    assert keep(Response(Rows(b"x" * LIMIT))).get_data() == b"x" * LIMIT


def test_a_stream_that_fails_is_closed() -> None:
    """Its error leaves, and what it held is let go."""
    rows = Rows(b"ab", error=OSError("disk"))

    with pytest.raises(OSError, match="disk"):
        keep(Response(rows))

    assert rows.closed == 1


def test_a_file_that_is_passed_through_is_stored() -> None:
    """As ``send_file`` makes them."""
    file = io.BytesIO(b"pdf")
    response = Response(t.cast(t.Any, file), direct_passthrough=True)
    assert keep(response).get_data() == b"pdf"
    assert file.closed
    assert b"".join(response.iter_encoded()) == b"pdf"


def test_an_empty_response_is_stored_as_one() -> None:
    """It has a body, of no bytes."""
    record = capture_response(Response(status=204), lambda: URL, LIMIT)
    assert record.body == b""
    assert stored_response(record, b"").status_code == 204


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/shop/a%2Fb?x=/y", "/shop/a/b"),
        ("/", "/"),
        ("http://shop.example/shop/a?b", "/shop/a"),
        ("/%C3%BC", "/\xc3\xbc"),
    ],
)
def test_a_path_without_a_note_is_tried_as_received(raw: str, path: str) -> None:
    """Middleware that cut a mount point off finds it again."""
    request = make(environ_overrides={"RAW_URI": raw, "SCRIPT_NAME": "/shop"})
    record = captured(request)
    assert request_environ(record)["SCRIPT_NAME"] == "/shop"
    environ = request_environ(record, again=True)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", path)


def test_without_a_raw_path_the_path_stays() -> None:
    """Not every server tells it."""
    request = make("/a", environ_overrides={"SCRIPT_NAME": "/shop"})

    for key in ("RAW_URI", "REQUEST_URI"):
        request.environ.pop(key, None)

    environ = request_environ(captured(request), again=True)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/a")


@pytest.mark.parametrize("again", [False, True])
def test_a_path_is_given_back_as_it_came_in(again: bool) -> None:
    """However middleware moved it before it was captured."""
    seen: list[RequestRecord] = []

    def middleware(environ: dict[str, t.Any], start_response: t.Any) -> list[bytes]:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/shop", "/moved"
        seen.append(captured(Request(environ)))
        return []

    app = Flask(__name__)
    t.cast(t.Any, app).wsgi_app = middleware
    install_entry(app)
    app(create_environ("/came/in", method="POST"), t.cast(t.Any, None))
    environ = request_environ(seen[0], again)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/came/in")
