"""Recognise a repeated request by its ``Idempotency-Key``, within the key's scope.

The header is that of draft-ietf-httpapi-idempotency-key-header: a string of RFC
9651, in quotes. Many clients leave the quotes out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import typing as t
import weakref

from flask import Flask
from flask import Request
from flask import request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio import multipart

from .errors import IdempotencyError
from .errors import KeyTaken
from .options import Idempotency
from .problems import Problem
from .records import RequestKey
from .records import RequestRecord

logger = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"

MAX_LENGTH = 255
"""Most characters of a key."""

MAX_HEAD = 16 * 1024
"""Most bytes of a part's headers, where a form is compared by its parts."""

MAX_LINES = 16
"""Most headers of such a part."""

_LENGTH = f"An idempotency key has 1 to {MAX_LENGTH} characters."

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"[ \t]*(?:;[ -~]*)?')
_BARE = re.compile(r"[!#-+\--~]+")
"""Visible ASCII without quotes, and without commas: servers join two headers by one."""


_told: weakref.WeakSet[Flask] = weakref.WeakSet()
"""The apps for which the log says already that users may share their keys."""


def find_key(
    app: Flask,
    policy: Idempotency,
    endpoint: str,
    record: RequestRecord,
    identity: bytes | None,
) -> RequestKey | None:
    """Return the current request's key, with its fingerprint, if it has one.

    :param identity: whose request it is
    :raises Problem: 400 if the key is missing or not valid
    :raises IdempotencyError: if the endpoint's function raises, or returns no string
    """
    if policy == "off":
        return None

    if callable(policy):
        value = _call(app, policy, endpoint)
    else:
        value = _from_header(policy)

    if value is None:
        return None

    if not callable(policy) and identity is None and "Cookie" in request.headers:
        _warn_of_sharing(app, endpoint)

    who = _who(identity)
    parts = [app.name, endpoint, _host(app), *who, value]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return RequestKey(digest, fingerprint(request, record))


def start_key(
    app: Flask, endpoint: str, value: str, record: RequestRecord
) -> RequestKey:
    """Return the key for an execution that ``durable.start`` begins.

    :raises ValueError: if it can't be a key
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_LENGTH:
        raise ValueError(_LENGTH)

    parts = [app.name, endpoint, "start", "", value]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return RequestKey(digest, record.digest)


def begun_before(taken: KeyTaken, fingerprint: str) -> str:
    """Return the id of the execution that was started with the same key.

    :raises ValueError: if its request was different
    """
    if taken.fingerprint != fingerprint:
        raise ValueError(
            f"The key was used before for another request, by execution"
            f" {taken.execution_id}: give each request a key of its own."
        )

    return taken.execution_id


def _from_header(policy: t.Any) -> str | None:
    header = request.headers.get(HEADER)

    if header is not None:
        return parse_key(header)

    if policy == "required":
        raise Problem(400, f"This request needs an {HEADER} header.")

    return None


def parse_key(header: str) -> str:
    """Read the header: a string in quotes, or bare.

    :raises Problem: 400 if it is neither
    """
    text = header.strip(" \t")

    if found := _QUOTED.fullmatch(text):
        return check_key(re.sub(r"\\(.)", r"\1", found[1]))

    if not _BARE.fullmatch(text):
        raise Problem(
            400,
            f'The {HEADER} header is one string of ASCII characters, as in "8e03978e".',
        )

    return check_key(text)


def check_key(value: str) -> str:
    """Make sure that a key is neither empty nor too long.

    :raises Problem: 400 if it is
    """
    if not 0 < len(value) <= MAX_LENGTH:
        raise Problem(400, _LENGTH)

    return value


def _call(app: Flask, function: t.Any, endpoint: str) -> str | None:
    try:
        value = app.ensure_sync(function)()
    except HTTPException:
        # The request itself is bad, for example if its body is not JSON.
        raise
    except Exception as error:
        raise IdempotencyError(
            f'The idempotency function of endpoint "{endpoint}" raised'
            f" {type(error).__name__}: {error}. Let it return None for requests that"
            " have no key."
        ) from error

    if value is not None and not isinstance(value, str):
        raise IdempotencyError(
            f'The idempotency function of endpoint "{endpoint}" returned'
            f" {value!r:.80}: it must be a string, or None if there is no key."
        )

    return value if value is None else check_key(value)


def _host(app: Flask) -> str:
    """Return the host, if the app's rules distinguish hosts, else an empty string.

    Otherwise an app's hosts are equivalent, and a client may try again with another.
    """
    tells = app.url_map.host_matching or app.subdomain_matching
    return request.host.lower() if tells else ""


def _who(identity: bytes | None) -> tuple[str, str]:
    """Say whose key it is: by the identity, else by the credentials in the request."""
    if identity is not None and identity != b"null":
        return "identity", identity.decode("latin-1")

    credentials = request.headers.get("Authorization", "")
    return "authorization", hashlib.sha256(credentials.encode()).hexdigest()


def _warn_of_sharing(app: Flask, endpoint: str) -> None:
    """Warn once that users who are known only by a cookie share their keys."""
    is_known = "Authorization" in request.headers or hasattr(app, "login_manager")

    if not is_known and app not in _told:
        _told.add(app)
        logger.warning(
            'A request to endpoint "%s" has an %s and a cookie, but nothing says whose'
            " it is: users whose clients choose the same key get each other's"
            " responses. Register a function with @durable.identity that returns the"
            " user's id, or None.",
            endpoint,
            HEADER,
        )


def fingerprint(request: Request, record: RequestRecord) -> str:
    """Return a digest of method, path, query and body.

    A form with files is digested by its parts, since the boundary between them is new
    each time; unless the form is broken, or has more parts than the app would read.
    """
    if request.mimetype != "multipart/form-data":
        return record.digest

    try:
        boundary = request.mimetype_params["boundary"]
        parts = _parts(boundary, record.body, request.max_form_parts)
    except (KeyError, ValueError, RequestEntityTooLarge):
        return record.digest

    environ = request.environ
    names = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")
    head = [str(environ.get(name, "")) for name in names]
    return hashlib.sha256(json.dumps([head, parts]).encode()).hexdigest()


def _parts(boundary: str, body: bytes, most: int | None) -> list[list[t.Any]]:
    """List the parts: names, file names, content types, digests.

    :param most: how many there may be
    :raises ValueError: if the body is no such form
    :raises RequestEntityTooLarge: if there are more
    """
    # Limited, since a million small parts or headers take seconds to parse.
    decoder = multipart.MultipartDecoder(boundary.encode("latin-1"), max_parts=most)
    decoder.receive_data(body)
    decoder.receive_data(None)
    parts: list[list[t.Any]] = []
    content = hashlib.sha256()

    while not isinstance(event := _next_event(decoder), multipart.Epilogue):
        if isinstance(event, multipart.NeedData):
            raise ValueError("The body ends too soon.")

        if isinstance(event, multipart.Field | multipart.File):
            if len(event.headers) > MAX_LINES:
                raise ValueError("A part has too many headers.")

            name = getattr(event, "filename", None)
            parts.append([event.name, name, event.headers.get("Content-Type")])
            content = hashlib.sha256()
        elif isinstance(event, multipart.Data):
            content.update(event.data)

            if not event.more_data:
                parts[-1].append(content.hexdigest())

    return parts


def _next_event(decoder: multipart.MultipartDecoder) -> multipart.Event:
    if decoder.state is multipart.State.PART and not (
        multipart.BLANK_LINE_RE.search(decoder.buffer, 0, MAX_HEAD)
    ):
        raise ValueError("A part's headers are too long.")

    return decoder.next_event()
