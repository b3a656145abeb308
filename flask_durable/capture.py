"""Requests and responses as records, and back.

A request is captured whole before anything else reads it; the view then reads
it as usual, from memory.
"""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import hashlib
import io
import itertools
import json
import re
import typing as t
import urllib.parse

from flask import Request
from werkzeug.wrappers import Response

from .httperrors import same_response
from .problems import Problem
from .records import RequestRecord
from .records import ResponseRecord

SECRET_HEADERS = frozenset({"authorization", "cookie"})
"""Erased when the execution ends."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "durable-replay",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that concern one connection only (RFC 9110, section 7.6.1): not stored."""

ENVIRON_KEYS = (
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "RAW_URI",
    "REQUEST_URI",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "CONTENT_LENGTH",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "REMOTE_USER",
    "AUTH_TYPE",
    "wsgi.url_scheme",
)
"""What is stored of a request besides its headers and body (names as in PEP 3333)."""


TRACE_KEYS = ("HTTP_TRACEPARENT", "HTTP_TRACESTATE")
"""Trace headers; an instrumented HTTP library sets its own when it sends a replay."""

MAX_TRACE = 512
"""Longest of them that a ticket repeats: as much as everybody should pass on (W3C
Trace Context, section 3.3.1.5). A longer one is sent as a header only."""

ORIGIN_KEYS = (
    "HTTP_HOST",
    *TRACE_KEYS,
    "SERVER_NAME",
    "SERVER_PORT",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "REMOTE_USER",
    "AUTH_TYPE",
    "wsgi.url_scheme",
)
"""The request's origin: what would differ in a replay over HTTP, since that has another
sender. Its ticket carries these."""

PATH_KEYS = ("SCRIPT_NAME", "PATH_INFO")
ENTRY_KEY = "flask_durable.entry"


def capture_request(request: Request, limit: int) -> RequestRecord:
    """Read a request whole and leave it as if nobody had read it.

    :param limit: most bytes that the body may have
    :raises Problem: 413 if the body is bigger
    """
    body = _read_body(request, limit)
    environ = request.environ
    stream = io.BytesIO(body)
    environ["wsgi.input"] = stream
    # A cached property of werkzeug's, which may be set; forms are parsed from it.
    t.cast(t.Any, request).stream = stream

    if body or environ.get("CONTENT_LENGTH"):
        environ["CONTENT_LENGTH"] = str(len(body))

    headers: list[tuple[str, str]] = []
    secrets: list[tuple[str, str]] = []

    for name, value in request.headers.items():
        if (lower := name.lower()) not in HOP_BY_HOP:
            (secrets if lower in SECRET_HEADERS else headers).append((name, value))

    head = {
        "environ": {k: str(environ[k]) for k in ENVIRON_KEYS if k in environ},
        "entry": environ.get(ENTRY_KEY),
        "headers": headers,
    }
    return RequestRecord(
        head=json.dumps(head).encode(),
        secrets=json.dumps(secrets).encode() if secrets else None,
        body=body,
        digest=request_digest(environ, body),
    )


def _read_body(request: Request, limit: int) -> bytes:
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)

    cached = request.__dict__.get("_cached_data")
    body = cached if cached is not None else _read_stream(request, limit)

    if len(body) > limit:
        raise _too_large(limit)

    if len(body) < (request.content_length or 0):
        if "form" in request.__dict__:
            raise RuntimeError(
                "The request's form was read before the durable view could capture"
                " it, by a url_value_preprocessor or a signal's receiver: read it"
                " in a before_request function or in the view."
            )

        raise Problem(400, "The request's body ended before its Content-Length.")

    return t.cast(bytes, body)


def _read_stream(request: Request, limit: int) -> bytes:
    parts = []
    left = limit + 1

    while left > 0 and (part := request.stream.read(min(left, 65536))):
        parts.append(part)
        left -= len(part)

    return b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The request's body is over the limit of {limit} bytes.")


def request_digest(environ: cabc.Mapping[str, t.Any], body: bytes) -> str:
    """Digest what must be the same in a replay: method, path, query and body."""
    keys = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")
    head = json.dumps([str(environ.get(key, "")) for key in keys]).encode()
    # JSON has no zero byte, so it is clear where the body begins.
    return hashlib.sha256(head + b"\0" + body).hexdigest()


def request_environ(record: RequestRecord, again: bool = False) -> dict[str, t.Any]:
    """Make the WSGI environment (PEP 3333) for a replay of the request.

    The request was captured behind the app's middleware, but the replay enters in
    front of it, and so gets the path that was noted there. For a process's very
    first request there may be no note: then the path is the captured one, or, if
    that led nowhere, the one that the server received.

    :param again: whether an earlier replay led nowhere
    """
    head = json.loads(record.head)
    environ = dict(head["environ"])

    if head["entry"] is not None:
        environ |= head["entry"]
    elif again:
        _as_received(environ)

    secrets = json.loads(record.secrets) if record.secrets else []

    for name, value in itertools.chain(head["headers"], secrets):
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value

    environ["wsgi.input"] = io.BytesIO(record.body)
    environ["wsgi.input_terminated"] = True
    environ["wsgi.version"] = (1, 0)
    return environ


@dataclasses.dataclass(frozen=True)
class WireRequest:
    """A request as it is sent over HTTP, its text in Latin-1."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def wire_request(record: RequestRecord) -> WireRequest:
    """Make the request to send to a server of the app for a replay."""
    head = json.loads(record.head)
    environ = head["environ"]
    secrets = json.loads(record.secrets) if record.secrets else []
    headers = dict(itertools.chain(head["headers"], secrets))

    if "CONTENT_LENGTH" in environ:
        headers["Content-Length"] = str(len(record.body))

    target = _target({**environ, **(head["entry"] or {})})
    target = re.sub(r"[\0- \x7f]", lambda found: f"%{ord(found[0]):02X}", target)
    return WireRequest(environ["REQUEST_METHOD"], target, headers, record.body)


def _target(environ: cabc.Mapping[str, str]) -> str:
    """Return the request's target, as the server received it if that is known."""
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")

    if raw and raw[0] == "/":
        return raw

    query = environ.get("QUERY_STRING", "")
    path = urllib.parse.urlsplit(raw).path if raw else ""

    if not path:
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        path = urllib.parse.quote(path, safe="/!$&'()*+,;=:@~", encoding="latin-1")

    return f"{path}?{query}" if query else path


def request_origin(record: RequestRecord) -> dict[str, str]:
    """Return a captured request's origin, which a server can't see in its replay."""
    return origin_of(request_environ(record))


def origin_of(environ: cabc.Mapping[str, t.Any]) -> dict[str, str]:
    """Return a request's origin, from its WSGI environment."""
    return {key: str(environ[key]) for key in ORIGIN_KEYS if in_origin(environ, key)}


def in_origin(environ: cabc.Mapping[str, t.Any], key: str) -> bool:
    """Tell whether a ticket carries this key: trace headers may be too long for it."""
    value = environ.get(key)
    return value is not None and (key not in TRACE_KEYS or len(value) <= MAX_TRACE)


def _as_received(environ: dict[str, t.Any]) -> None:
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")

    if raw:
        path = urllib.parse.urlsplit(raw).path if raw[0] != "/" else raw.split("?")[0]
        environ["SCRIPT_NAME"] = ""
        environ["PATH_INFO"] = urllib.parse.unquote(path, "latin-1")


def capture_response(
    response: Response, url: cabc.Callable[[], str], limit: int
) -> ResponseRecord:
    """Make a record of what a view returned; streams are read, up to the limit.

    ``Set-Cookie`` is left out, ``Location`` is made absolute.

    :param url: returns the request's URL; called only if that is needed
    :param limit: most bytes of a body; a bigger one is not stored, its rest not read
    """
    body = _buffer(response, limit)
    headers = [
        (
            name,
            urllib.parse.urljoin(url(), value) if name.lower() == "location" else value,
        )
        for name, value in response.headers.items()
        if name.lower() != "set-cookie"
    ]
    head = json.dumps({"status": response.status, "headers": headers}).encode()
    return ResponseRecord(head, body)


def _buffer(response: Response, limit: int) -> bytes | None:
    try:
        return _read_response(response, limit)
    except BaseException:
        response.close()
        raise


def _read_response(response: Response, limit: int) -> bytes | None:
    response.direct_passthrough = False
    parts: list[bytes] = []
    size = 0
    rest = response.iter_encoded()

    for part in rest:
        parts.append(part)
        size += len(part)

        if size > limit:
            close = getattr(response.response, "close", None)
            response.response = itertools.chain(parts, rest)

            if close is not None:
                response.call_on_close(close)

            return None

    if response.is_streamed:
        _close_iterable(response)
        response.response = parts
        response.headers.setdefault("Content-Length", str(size))

    return b"".join(parts)


def _close_iterable(response: Response) -> None:
    close = getattr(response.response, "close", None)

    if close is not None:
        close()


def stored_response(record: ResponseRecord, body: bytes) -> Response:
    """Make a response from its record and body."""
    head = json.loads(record.head)
    return same_response(body, head["status"], head["headers"])
