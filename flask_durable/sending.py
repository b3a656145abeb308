"""Send a captured request to the app: over HTTP, or through WSGI in this process."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import contextvars
import dataclasses
import functools
import logging
import os
import sys
import typing as t

from flask import Flask
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Response

from .capture import HOP_BY_HOP
from .capture import request_environ
from .capture import wire_request
from .config import Config
from .records import ExecutionStatus
from .records import qualified_name
from .records import RequestRecord
from .signing import WHAT_TO_DO

if t.TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

HEADER = "Durable-Replay"
"""The header with the ticket; an answer that has it says that another one may do."""

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a server of the app to accept a connection."""

SERVERS_OWN = (HOP_BY_HOP | {"date", "server"}) - {HEADER.lower()}
"""Headers of an answer that come from the server, not from the app."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the app answered to a replay; no response if there was none."""

    response: Response | None
    error: str = ""
    broken: bool = False
    """Whether the connection broke, so that another one may do better."""

    @property
    def refused(self) -> bool:
        """Tell whether asking again soon is unlikely to help."""
        if self.response is None or HEADER in self.response.headers:
            return False

        return self.response.status_code < 500 and self.response.status_code != 429

    @property
    def advice(self) -> str:
        """Tell what to do if the server that answered can't accept our tickets."""
        found = self.response.headers.get(HEADER, "") if self.response else ""
        return WHAT_TO_DO.get(found, "")

    def __str__(self) -> str:
        return self.response.status if self.response is not None else self.error


@dataclasses.dataclass
class Inside:
    """What the sender and the endpoint of a replay tell each other in one process.

    Over HTTP both ask the journal.
    """

    execution_id: str
    identity: bytes | None
    ready_at: float | None
    status: ExecutionStatus | None = None
    """The execution's status when the attempt had committed its end."""


INSIDE = "flask_durable.inside"


def send_in_process(
    app: Flask, record: RequestRecord, ticket: str, again: bool, inside: Inside
) -> Answer:
    """Issue the request through WSGI, in an empty context.

    :param again: whether the replay before did not reach its endpoint
    """
    environ = request_environ(record, again) | {INSIDE: inside}
    environ["HTTP_DURABLE_REPLAY"] = ticket
    environ |= {
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": os.environ.get("SERVER_SOFTWARE", "") != "",
        "wsgi.run_once": False,
    }
    return contextvars.Context().run(_run, app, environ)


def _run(app: Flask, environ: dict[str, t.Any]) -> Answer:
    try:
        body, status, headers = run_wsgi_app(app, environ, buffered=True)
    except BaseException as error:
        # SystemExit and the like too: the thread goes on with other replays.
        logger.exception(
            "The replay of execution %s, %r, raised.",
            environ[INSIDE].execution_id,
            environ.get("PATH_INFO"),
        )
        # Redis keeps this text, so it must not contain the exception's message.
        return Answer(None, f"by an exception ({qualified_name(error)})")

    return Answer(Response(body, status, headers))


def warm_up() -> None:
    """Import what :func:`send_over_http` needs, so that the first replay doesn't wait
    0.1 s for it."""
    from .http_session import this_session

    this_session()


def send_over_http(config: Config, record: RequestRecord, ticket: str) -> Answer:
    """Issue the request to a server of the app.

    If the view takes longer than ``DURABLE_REPLAY_TIMEOUT``, it goes on without us.
    """
    # Most processes don't need them.
    import requests
    import urllib3

    from .http_session import this_session

    wire = wire_request(record)
    assert config.replay_url is not None
    prepared = requests.PreparedRequest()
    prepared.prepare(wire.method, config.replay_url, data=wire.body or None)
    prepared.method = wire.method
    prepared.headers.clear()
    prepared.headers.update({**_without_defaults(), **wire.headers, HEADER: ticket})
    timeout = (CONNECT_TIMEOUT, config.replay_timeout)

    try:
        with (
            _waiting(),
            this_session().send_exactly(prepared, wire.target, timeout) as found,
        ):
            return Answer(_response(found, config.max_response_bytes))
    except _LetGo:
        return Answer(None, "nothing yet: this process ends")
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        return Answer(None, f"nothing within {config.replay_timeout:g} s")
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        return Answer(None, f"by a broken connection ({_cause(error)})", broken=True)


class _LetGo(BaseException):
    """Ends the wait for an answer: the server goes on with the view."""


_waits = False


@contextlib.contextmanager
def _waiting() -> cabc.Iterator[None]:
    global _waits
    _waits = True

    try:
        yield
    finally:
        _waits = False


def let_go() -> None:
    """Stop waiting for an answer over HTTP; signal handlers call this.

    The view goes on in its server; its lease shows whether it is alive.
    """
    if _waits:
        raise _LetGo


@functools.cache
def _without_defaults() -> dict[str, str]:
    """Keep urllib3 from adding headers that the request did not have."""
    from urllib3.util import SKIP_HEADER

    return dict.fromkeys(("Accept-Encoding", "User-Agent"), SKIP_HEADER)


def _cause(error: BaseException) -> BaseException:
    """Return the original error, which other exceptions wrap."""
    while error.__context__ is not None:
        error = error.__context__

    return error


def _response(found: requests.Response, limit: int) -> Response:
    body = found.raw.read(limit, decode_content=False)

    if len(body) < limit:
        # Only a further read notices that the connection broke off too early.
        found.raw.read(1, decode_content=False)

    headers = [
        (name, value)
        for name, value in found.raw.headers.items()
        if name.lower() not in SERVERS_OWN
    ]
    return Response(body, f"{found.status_code} {found.reason}", headers)
