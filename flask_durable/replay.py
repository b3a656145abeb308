"""Re-issue a captured request, and know a re-issued one."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import os
import sys
import typing as t

from flask import Flask
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Response

from .capture import capture_response
from .capture import request_environ
from .errors import JournalUnavailable
from .errors import ReplayRejected
from .records import Due
from .records import Failure
from .records import RequestRecord
from .recovery import backoff
from .signing import sign_ticket
from .signing import Ticket
from .state import get_state
from .state import State

logger = logging.getLogger(__name__)

HEADER = "Durable-Replay"
"""The request header that carries the ticket."""

MAX_REFUSALS = 10
"""How often the app may turn a replay away before the execution fails."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """A verified replay, as hooks see it."""

    execution_id: str
    """The id of the execution that goes on."""

    identity: t.Any
    """What ``@durable.identity`` gave when the execution began."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the app answered to a replay; no response if it raised."""

    response: Response | None
    error: str = ""

    @property
    def refused(self) -> bool:
        """Tell whether asking again soon is unlikely to help."""
        status = self.response.status_code if self.response is not None else 500
        return status < 500 and status != 429


def replay(app: Flask, due: Due) -> None:
    """Have an execution's next attempt run by the app, in this process.

    A replay that does not reach its endpoint is put off.
    """
    state = get_state(app)

    try:
        record = state.store.request(due.id)
        ticket = Ticket(due.id, due.attempt + 1, record.digest)
        again = due.rejections % 2 == 1
        answer = contextvars.Context().run(_send, app, record, ticket, again)
        _settle(state, due, answer)
    except JournalUnavailable as error:
        logger.warning("Execution %s is replayed later: %s", due.id, error)


def _send(app: Flask, record: RequestRecord, ticket: Ticket, again: bool) -> Answer:
    environ = request_environ(record, again)
    environ["HTTP_DURABLE_REPLAY"] = sign_ticket(app, ticket)
    environ |= {
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": os.environ.get("SERVER_SOFTWARE", "") != "",
        "wsgi.run_once": False,
    }

    try:
        body, status, headers = run_wsgi_app(app, environ, buffered=True)
    except BaseException as error:
        # SystemExit and the like too: the thread goes on with other replays.
        logger.exception("The replay of execution %s raised.", ticket.execution_id)
        return Answer(None, repr(error))

    return Answer(Response(body, status, headers))


def _settle(state: State, due: Due, answer: Answer) -> None:
    """Read from the execution's row whether the attempt ran; else put it off."""
    execution = state.store.execution(due.id)

    if execution.ended or execution.attempt != due.attempt:
        return

    refused = answer.refused

    if refused and execution.refusals + 1 >= MAX_REFUSALS and answer.response:
        _refuse(state, due, answer.response)
        return

    delay = max(1.0, backoff(execution.rejections + 2))

    if state.upkeep.reject(due.id, due.attempt, delay, refused):
        what = answer.response.status if answer.response else answer.error
        logger.warning(
            "The replay of execution %s for attempt %d was answered %s before its"
            " endpoint; it is tried again in %g s.",
            due.id,
            due.attempt + 1,
            what,
            delay,
        )


def _refuse(state: State, due: Due, response: Response) -> None:
    error = ReplayRejected(
        f"The app turned the replay for attempt {due.attempt + 1} away"
        f" {MAX_REFUSALS} times before its endpoint, last with {response.status}:"
        " let replays pass with durable_replay()."
    )
    logger.error("Execution %s failed: %s", due.id, error)
    limit = state.config.max_response_bytes
    record = capture_response(response, "", limit)
    state.upkeep.refuse(due.id, due.attempt, record, Failure.of(error).encode())
