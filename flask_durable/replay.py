"""Run a suspended execution's next attempt: send its captured request again."""

from __future__ import annotations

import dataclasses
import logging
import math
import typing as t

from flask import Flask

from .capture import capture_response
from .capture import request_origin
from .errors import DecryptionError
from .errors import ExecutionNotFound
from .errors import JournalUnavailable
from .errors import ReplayRejected
from .records import CLAIMABLE
from .records import Failure
from .records import Outgoing
from .records import qualified_name
from .recovery import backoff
from .recovery import PUT_OFF
from .sending import Answer
from .sending import Inside
from .sending import send_in_process
from .sending import send_over_http
from .signing import sign_ticket
from .signing import Ticket
from .state import get_state
from .state import State

logger = logging.getLogger(__name__)

AWAY = "is replayed later: the journal can't be reached"
"""What becomes of an execution while the journal is away."""

UNREACHED_BACKOFF = 5.0
"""Longest wait before a server that can't be reached is tried again, in seconds."""

MAX_REFUSALS = 10
"""How often the app may turn a replay away before the execution fails."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """A verified replay, as hooks see it."""

    execution_id: str
    """The id of the execution that goes on."""

    identity: t.Any
    """What ``@durable.identity`` returned when the execution began."""


def replay(
    app: Flask, execution_id: str, attempt: int, in_process: bool = False
) -> str:
    """Have the app run an execution's next attempt, and say what became of it.

    The request goes over HTTP if ``DURABLE_REPLAY_URL`` is set. If it does not reach
    its endpoint, it is sent again later.

    :param attempt: the number of the attempt that is to begin
    :param in_process: go through WSGI in any case
    """
    state = get_state(app)

    try:
        try:
            found = state.store.outgoing(execution_id)
        except DecryptionError as error:
            return _put_off(state, execution_id, attempt, error)

        if reason := _reason_against(state, found, attempt):
            return f"is passed over: {reason}"

        over_http = state.config.replay_url is not None and not in_process
        inside = (
            None if over_http else Inside(execution_id, found.identity, found.ready_at)
        )
        answer = _try_to_send(app, state, execution_id, found, inside)

        if inside is not None and inside.status is not None:
            return f"is {inside.status}"

        return _settle(state, execution_id, attempt, answer)
    except ExecutionNotFound:
        return "is passed over: the journal has no such execution"
    except JournalUnavailable as error:
        logger.warning("Execution %s is replayed later: %s", execution_id, error)
        return AWAY


def _put_off(
    state: State, execution_id: str, attempt: int, error: DecryptionError
) -> str:
    """Leave an execution of this app alone for a while: its key is missing."""
    if not state.upkeep.reject(execution_id, attempt - 1, PUT_OFF, refused=False):
        return "is passed over: it is not due, or of another app"

    logger.error("Execution %s is put off for %g s: %s", execution_id, PUT_OFF, error)
    return f"is put off for {PUT_OFF:g} s: its request can't be decrypted"


def _reason_against(state: State, found: Outgoing, attempt: int) -> str | None:
    if found.app != state.store.app:
        return (
            f'it is of the app "{found.app}", and this is "{state.store.app}":'
            " give each app a DURABLE_QUEUE of its own"
        )

    if found.attempt + 1 != attempt or not found.is_claimable:
        early = found.status in CLAIMABLE and not found.due
        when = ", and not due yet" if early else ""
        return f"it is {found.status} in attempt {found.attempt}{when}"

    return None


def _try_to_send(
    app: Flask, state: State, execution_id: str, found: Outgoing, inside: Inside | None
) -> Answer:
    """Send the request; if it can't be sent, that counts as no answer."""
    try:
        return _send(app, state, execution_id, found, inside)
    except JournalUnavailable:
        raise
    except Exception as error:
        # Such as a stored request that can't be read: don't try in a tight loop.
        logger.exception("The request of execution %s can't be sent.", execution_id)
        name = qualified_name(error)
        return Answer(None, f"by nobody, since it can't be sent ({name})")


def _send(
    app: Flask, state: State, execution_id: str, found: Outgoing, inside: Inside | None
) -> Answer:
    config = state.config
    request = found.request
    origin = {} if inside else request_origin(request)
    ticket = Ticket(execution_id, found.attempt + 1, request.digest, origin)

    if inside:
        again = found.rejections % 2 == 1
        return send_in_process(app, request, sign_ticket(app, ticket), again, inside)

    answer = send_over_http(config, request, sign_ticket(app, ticket))

    if answer.broken and not _began(state, ticket):
        # The server may just have closed a kept-alive connection. To send again is
        # safe: a ticket is good for one attempt, however often it is sent.
        answer = send_over_http(config, request, sign_ticket(app, ticket))

    return answer


def _began(state: State, ticket: Ticket) -> bool:
    return state.store.replay(ticket.execution_id).attempt >= ticket.attempt


def _settle(state: State, execution_id: str, attempt: int, answer: Answer) -> str:
    """Read from the execution's row whether the attempt ran; else put it off."""
    execution = state.store.execution(execution_id)

    if execution.ended or execution.attempt >= attempt:
        return f"is {execution.status}"

    refused = answer.refused

    if refused and execution.refusals + 1 >= MAX_REFUSALS:
        return _refuse(state, execution_id, attempt, answer)

    limit = UNREACHED_BACKOFF if answer.broken else math.inf
    delay = min(limit, max(1.0, backoff(execution.rejections + 2)))

    if state.upkeep.reject(execution_id, attempt - 1, delay, refused):
        logger.warning(
            "The replay of execution %s for attempt %d was answered %s before its"
            " endpoint; it is tried again in %g s.%s",
            execution_id,
            attempt,
            answer,
            delay,
            answer.advice and f" {answer.advice}",
        )

    return f"is put off for {delay:g} s: answered {answer}"


def _refuse(state: State, execution_id: str, attempt: int, answer: Answer) -> str:
    assert answer.response is not None
    error = ReplayRejected(
        f"The app rejected the replay for attempt {attempt} {MAX_REFUSALS} times before"
        f" its endpoint, last with {answer}: let replays pass, with durable_replay()."
    )
    logger.error("Execution %s failed: %s", execution_id, error)
    record = None

    # A 2xx answer would look like success, and 202 as if the execution went on.
    if answer.response.status_code >= 300:
        limit = state.config.max_response_bytes
        record = capture_response(answer.response, lambda: "", limit)

    failure = Failure.of(error).encode()
    state.upkeep.refuse(execution_id, attempt - 1, record, failure)
    return "is failed"
