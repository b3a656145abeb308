"""A request of a durable endpoint, captured before any hook can read it."""

from __future__ import annotations

import dataclasses
import json
import logging
import typing as t

from flask import current_app
from flask import Flask
from flask import Request
from flask import request

from .capture import capture_request
from .capture import ENTRY_KEY
from .capture import HOP_BY_HOP
from .capture import in_origin
from .capture import ORIGIN_KEYS
from .capture import origin_of
from .capture import PATH_KEYS
from .errors import ExecutionNotFound
from .errors import JournalUnavailable
from .errors import StoredValueError
from .options import options_of
from .problems import Problem
from .records import RequestRecord
from .replay import Replay
from .sending import HEADER
from .sending import INSIDE
from .sending import Inside
from .signing import FOR_NOW
from .signing import read_ticket
from .signing import Ticket
from .state import get_state
from .state import State
from .state import this_request
from .unstorable import Undecodable

logger = logging.getLogger(__name__)


KEY = "flask_durable.arrival"
REPLAY_KEY = "flask_durable.replay"
ENVIRON_HEADER = "HTTP_DURABLE_REPLAY"

MAX_FIELDS = 100
"""Most header fields that a server accepts (gunicorn's ``limit_request_fields``)."""

MAX_FIELD_SIZE = 8_190
"""Most bytes of a header, with its name and line end (``limit_request_field_size``)."""

ADDED = 3
"""Fields that a replay may have in addition to the request's: its ticket, and ``Host``
and ``Content-Length`` if the request had none."""

MAX_ORIGIN = 4_096
"""Longest origin, as JSON, with which a ticket, in base64, still fits into a header."""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A captured request, and its ticket if it is a replay."""

    record: RequestRecord
    ticket: Ticket | None
    due_at: float | None = None
    """When the replay's attempt became due."""


def arrive(app: Flask) -> None:
    """Capture the current request, if its view is durable.

    :raises Problem: 413 if its body is too big, 431 if its headers are too many or too
        long to be sent again, 403 if it claims to be a replay and is none
    """
    request = this_request()
    options = options_of(app, request.endpoint or "", request.method)
    header = request.headers.get(HEADER)

    if options is None:
        if header is not None:
            _check_lost_way(app, header)

        return

    state = get_state(app)
    limit = options.max_request_bytes or state.config.max_request_bytes
    ticket = due_at = None

    if header is not None:
        ticket = _verify(app, header)
        # Its body was within the limit when it came first; that may be lower now.
        limit = max(limit, request.content_length or 0)
    elif state.config.replay_url is not None:
        _check_room(request)

    record = capture_request(request, limit)

    if ticket is not None:
        if ticket.digest != record.digest:
            raise refuse_replay("it was made for another request")

        request.environ[REPLAY_KEY], due_at = _replay(state, ticket)

    request.environ[KEY] = Arrival(record, ticket, due_at)


def _check_room(request: Request) -> None:
    """Make sure that a server will accept the request again, with a ticket added.

    :raises Problem: 431 if it won't
    """
    count = ADDED

    for name, value in request.headers.items():
        if name.lower() not in HOP_BY_HOP:
            count += 1

            # The four are the colon, the space and CRLF.
            if (size := len(name) + len(value) + 4) > MAX_FIELD_SIZE:
                raise _no_room(
                    f"header field {name} has {size} bytes, as it is sent again, and"
                    f" may have {MAX_FIELD_SIZE}"
                )

    if count > MAX_FIELDS:
        raise _no_room(
            f"request has {count - ADDED} header fields, and may have"
            f" {MAX_FIELDS - ADDED}"
        )

    if len(json.dumps(origin_of(request.environ))) > MAX_ORIGIN:
        raise _no_room("request's host and its client's address are too long")


def _no_room(why: str) -> Problem:
    return Problem(431, f"The {why}: it could not be sent to the server again.")


def arrival_of(request: Request) -> Arrival:
    """Return what was captured of a request before its view was called."""
    arrival = request.environ.get(KEY)

    if arrival is None:
        raise RuntimeError(
            f'The durable view of endpoint "{request.endpoint}" is hidden by a'
            " decorator above @durable.endpoint, which must use functools.wraps. Or it"
            " is made durable only during the request, as by method_decorators of"
            " flask-restx: put @durable.endpoint above the method itself. Or it was"
            " called without a dispatched request: in a test, send one with"
            " durable_client or app.test_client()."
        )

    return t.cast(Arrival, arrival)


class Entry:
    """The outermost WSGI layer of an app: it sees requests before any middleware.

    It notes the path before middleware rewrites it, and gives a replay that came over
    HTTP the client's address, the scheme and the host of the original request. These
    come from the signed ticket, never from headers that anybody could send.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._inner = app.wsgi_app

    def __call__(self, environ: dict[str, t.Any], start_response: t.Any) -> t.Any:
        outermost = self._app.wsgi_app

        if outermost is self:
            environ[ENTRY_KEY] = {key: environ.get(key, "") for key in PATH_KEYS}

        # There are two if middleware was added after ``init_app``: the outer one acts.
        if outermost is self or not isinstance(outermost, Entry):
            self._restore(environ)

        return self._inner(environ, start_response)

    def _restore(self, environ: dict[str, t.Any]) -> None:
        header = environ.get(ENVIRON_HEADER)

        # A replay within this process already has the original environment.
        if header is None or INSIDE in environ or not self._app.secret_key:
            return

        ticket = read_ticket(self._app, header)

        if isinstance(ticket, Ticket) and ticket.origin:
            for key in ORIGIN_KEYS:
                if in_origin(environ, key):
                    del environ[key]

            environ.update(ticket.origin)


def install_entry(app: Flask) -> None:
    """Put an :class:`Entry` in front of all middleware that an app has so far."""
    if not isinstance(app.wsgi_app, Entry):
        t.cast(t.Any, app).wsgi_app = Entry(app)


def _check_lost_way(app: Flask, header: str) -> None:
    """Refuse a replay if its view is not durable; if it has none, let Flask answer."""
    ticket = read_ticket(app, header)

    if isinstance(ticket, str):
        raise refuse_replay(ticket)

    # A ticket for no execution only asks whether this server accepts tickets.
    if request.routing_exception is None and ticket.execution_id:
        raise refuse_replay("the view is not durable")


def _verify(app: Flask, header: str) -> Ticket:
    ticket = read_ticket(app, header)

    if isinstance(ticket, str):
        raise refuse_replay(ticket)

    return ticket


def _replay(state: State, ticket: Ticket) -> tuple[Replay, float | None]:
    """Return the replay, for hooks, and when it was due; refuse a used ticket."""
    inside = request.environ.get(INSIDE)

    if isinstance(inside, Inside):
        # Its sender has just read the row.
        return _replay_of(state, ticket, inside.identity), inside.ready_at

    try:
        found = state.store.replay(ticket.execution_id)
    except ExecutionNotFound as error:
        raise refuse_replay("there is no such execution") from error
    except JournalUnavailable as error:
        raise unavailable(error) from error

    if found.attempt != ticket.attempt - 1 or not found.is_claimable:
        raise refuse_replay(USED)

    return _replay_of(state, ticket, found.identity), found.ready_at


def _replay_of(state: State, ticket: Ticket, identity: bytes | None) -> Replay:
    try:
        value = None if identity is None else state.codec.decode(identity)
    except Undecodable as error:
        raise StoredValueError(
            f"The identity of execution {ticket.execution_id} has {error}"
        ) from error.__cause__

    return Replay(ticket.execution_id, value)


def unavailable(error: JournalUnavailable) -> Problem:
    """Log that the journal can't be reached, and make the response that says so."""
    logger.error("%s", error)
    debug = current_app.debug
    detail = str(error) if debug else error.public
    return Problem(503, detail, {"Retry-After": "5"})


USED = "it was used before, or the execution is not due"


def refuse_replay(reason: str) -> Problem:
    """Log that a replay is refused because of its ticket, and make the response."""
    logger.warning(
        "Refused a replay of %s %r: %s.", request.method, request.path, reason
    )
    headers = {HEADER: FOR_NOW[reason]} if reason in FOR_NOW else {}
    detail = f"The {HEADER} header is not valid for this request: {reason}."
    return Problem(403, detail, headers)
