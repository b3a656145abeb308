"""Replays over HTTP to a real gunicorn: the view sees the client's own request."""

from __future__ import annotations

import collections.abc as cabc
import json
import secrets
import socket
import typing as t

import pytest

from ..processes import free_port
from ..processes import Gunicorn
from ..processes import HOST
from .sites import Journal
from .sites import SECRET_KEY
from .sites import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

CLIENT = "127.0.0.9"
"""The client's address, another one than the replays'."""

OF_THE_CONNECTION = {"HTTP_CONNECTION", "HTTP_TRANSFER_ENCODING", "HTTP_DURABLE_REPLAY"}
"""What a replay need not share with the request."""


class Mirror(Site):
    """The mirror under a gunicorn that sends replays to itself."""

    def ask(
        self, line: str, *headers: str, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request byte by byte; give status, headers and body of its answer."""
        port, client = self.server.port, (CLIENT, 0)
        head = "\r\n".join([f"{line} HTTP/1.1", "Connection: close", *headers, "", ""])

        with socket.create_connection((HOST, port), 30, source_address=client) as made:
            made.sendall(head.encode("latin-1") + body)
            answer = b"".join(iter(lambda: made.recv(65_536), b""))

        top, _, rest = answer.partition(b"\r\n\r\n")
        status, *lines = top.decode("latin-1").split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split()[1]), found, rest

    def look(
        self, line: str, *headers: str, body: bytes = b""
    ) -> list[dict[str, t.Any]]:
        """Give what the view saw of a request and of its replay."""
        all_headers = (*headers, "Host: shop.example:99")
        status, found, rest = self.ask(line, *all_headers, body=body)
        assert status == 202, rest
        id = found["durable-execution"]
        row = self.journal.wait_for(id, timeout=30)
        assert (row.attempt, row.rejections) == (2, 0), self.server.log()
        seen = json.loads(row.response_body)
        before, after = seen["first"], seen["now"]
        assert "HTTP_DURABLE_REPLAY" in after and "HTTP_DURABLE_REPLAY" not in before
        return [
            {k: v for k, v in part.items() if k not in OF_THE_CONNECTION}
            for part in (before, after)
        ]


@pytest.fixture(scope="module", params=["direct", "proxied"])
def mirror(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> cabc.Iterator[Mirror]:
    """Run the mirror, behind a proxy or not."""
    folder = tmp_path_factory.mktemp("mirror")
    url, port = f"sqlite:///{folder}/journal.db", free_port()
    env = {
        "FLASK_DURABLE_DATABASE_URL": url,
        "FLASK_DURABLE_REPLAY_URL": f"http://{HOST}:{port}",
        "FLASK_DURABLE_REPLAY_TIMEOUT": "0.4",
        "FLASK_SECRET_KEY": SECRET_KEY,
        "MIRROR_PROXIED": "1" if request.param == "proxied" else "",
        "http_proxy": "http://127.0.0.1:1",
    }
    server = Gunicorn(
        "tests.integration.apps.mirror:app",
        folder,
        worker_class="gthread",
        threads=4,
        env=env,
        port=port,
    )

    with server:
        mirror = Mirror(server, Journal(url))
        mirror.look("POST /", "Content-Length: 0")
        yield mirror


direct = pytest.mark.parametrize("mirror", ["direct"], indirect=True, scope="module")
proxied = pytest.mark.parametrize("mirror", ["proxied"], indirect=True, scope="module")


@pytest.mark.parametrize(
    "target",
    [
        "/a%2fb/../c//d?a=%c3%a9&filter[x]=1",
        "/;p;q=1/caf%C3%A9?x;y&&z=%zz",
        "//twice/./%7e?",
        "/'\"<>\\^`{|}?'\"<>",
        "http://other.example/abs%2fx?y",
        "/?",
    ],
)
@direct
def test_a_target_is_replayed_byte_by_byte(mirror: Mirror, target: str) -> None:
    """All that the server made of it is the same."""
    before, after = mirror.look(f"POST {target}", "Content-Length: 0")
    # A proxy's form is for the server that it is sent to.
    path = target.removeprefix("http://other.example")
    assert after == before | {"RAW_URI": path}
    assert before["RAW_URI"] == target


@pytest.mark.parametrize("method", ["DELETE", "GET", "M-SEARCH", "PATCH", "PURGE"])
@direct
def test_a_method_is_replayed(mirror: Mirror, method: str) -> None:
    """Without a body, none is made up, though a length of zero may be."""
    before, after = mirror.look(f"{method} /")
    assert after in (before, before | {"CONTENT_LENGTH": "0"})
    assert after["REQUEST_METHOD"] == method


@direct
def test_headers_are_replayed(mirror: Mirror) -> None:
    """Those that the request had, and no other; the client's address too."""
    headers = ["X-A: 1", "X-A: 2", "Cookie: a=1", "Authorization: Bearer x"]
    before, after = mirror.look("POST /", "Content-Length: 0", *headers)
    assert after == before
    assert before["HTTP_X_A"] == "1,2"
    assert "HTTP_USER_AGENT" not in after and "HTTP_ACCEPT" not in after
    assert "HTTP_ACCEPT_ENCODING" not in after
    assert (after["REMOTE_ADDR"], after["HTTP_HOST"]) == (CLIENT, "shop.example:99")


@direct
def test_as_many_headers_as_may_be_are_replayed(mirror: Mirror) -> None:
    """And as long ones; the server has no room for more."""
    some = [f"X-{number}: 1" for number in range(94)]
    longest = f"Tracestate:{secrets.token_urlsafe(6_200)[: 8_190 - 14]}"
    headers = ["Content-Length: 0", *some, "X-Empty:", longest]
    before, after = mirror.look("POST /", *headers)
    assert after == before
    assert len(before["HTTP_TRACESTATE"]) == 8_176


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-{number}: 1" for number in range(97)],
        [f"Cookie: {'x' * 5_000}"] * 2,
        [f"Tracestate:{'x' * (8_190 - 13)}"],
        [f"Host: {'x.' * 2_500}"],
    ],
    ids=["many", "joined", "long", "host"],
)
@direct
def test_what_could_not_be_replayed_is_refused(
    mirror: Mirror, headers: list[str]
) -> None:
    """Before it is stored; the server itself takes it."""
    count = len(mirror.journal.rows())
    host = [] if "Host" in headers[0] else ["Host: x"]
    status, _, body = mirror.ask("POST /", "Content-Length: 0", *host, *headers)
    assert (status, len(mirror.journal.rows())) == (431, count)
    assert b"could not be sent to the server again" in body


@direct
def test_a_body_is_replayed(mirror: Mirror) -> None:
    """Byte by byte, with its type."""
    body = b"\x00\xff\r\n\r\nGET / HTTP/1.1\r\n"
    headers = ["Content-Type: application/odd; a=b", f"Content-Length: {len(body)}"]
    before, after = mirror.look("POST /", *headers, body=body)
    assert after == before
    assert after["body"] == body.hex()


@direct
def test_a_chunked_body_is_replayed(mirror: Mirror) -> None:
    """In one piece."""
    chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    before, after = mirror.look("POST /", "Transfer-Encoding: chunked", body=chunks)
    assert after == before | {"CONTENT_LENGTH": "5"}
    assert bytes.fromhex(after["body"]) == b"abcde"


@proxied
def test_what_a_proxy_tells_is_replayed(mirror: Mirror) -> None:
    """The client's address, the scheme, the host and the mount point are its own."""
    told = {"For": "203.0.113.9", "Proto": "https", "Host": "a.example", "Prefix": "/p"}
    headers = [f"X-Forwarded-{name}: {value}" for name, value in told.items()]
    before, after = mirror.look("POST /a?b", "Content-Length: 0", *headers)
    assert after == before
    assert after["url"] == "https://a.example/p/a?b"
    assert after["REMOTE_ADDR"] == "203.0.113.9"


@pytest.mark.parametrize("ticket", ["forged", "", "a.b.c"])
def test_an_outsider_is_refused(mirror: Mirror, ticket: str) -> None:
    """Before its request is stored."""
    count = len(mirror.journal.rows())
    status, _, body = mirror.ask("POST /", "Host: x", f"Durable-Replay: {ticket}")
    assert status == 403
    assert b"its signature is not ours" in body
    assert len(mirror.journal.rows()) == count


@direct
def test_a_view_that_takes_long_runs_once(mirror: Mirror) -> None:
    """The sender lets go of it after 0.4 s, and nobody sends it again."""
    before, after = mirror.look("POST /?seconds=1.5", "Content-Length: 0")
    assert after == before
