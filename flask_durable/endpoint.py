"""The decorator's work: begin or claim an attempt, run the view, end it."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import dataclasses
import logging
import sys
import typing as t

from flask import current_app
from flask import Flask
from flask import request
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.wrappers import Response

from . import clock
from .again import answer_again
from .answers import later_response
from .answers import link_this_answer
from .arrival import Arrival
from .arrival import arrival_of
from .arrival import refuse_replay
from .arrival import unavailable
from .arrival import USED
from .attempt import Attempt
from .awaiting import resolve
from .call import Call
from .call import KEY as CALL_KEY
from .errors import DecryptionError
from .errors import JournalUnavailable
from .errors import KeyTaken
from .errors import LeaseLostError
from .heartbeat import Lease
from .idempotency import find_key
from .ids import new_id
from .infos import execution_info
from .options import Options
from .patience import apply
from .patience import Patience
from .problems import Problem
from .records import Execution
from .records import Failure
from .records import RequestKey
from .records import RequestRecord
from .records import StepRecord
from .recovery import PUT_OFF
from .scope import current_scope
from .signing import Ticket
from .state import get_state
from .state import State
from .state import this_app
from .state import this_request
from .status import status_url

logger = logging.getLogger(__name__)

View = cabc.Callable[..., t.Any]


def serve(options: Options, view: View, args: t.Any, kwargs: t.Any) -> t.Any:
    """Run a durable view for the current request."""
    request = this_request()
    scope = current_scope.get()
    call = request.environ.get(CALL_KEY)

    if scope is not None and isinstance(call, Call) and call.runs(scope.attempt):
        # Another durable view calls this one as a function: its steps are the caller's.
        return current_app.ensure_sync(view)(*args, **kwargs)

    app = this_app()
    state = get_state(app)
    arrival = arrival_of(request)

    if request.method == "HEAD":
        rule = request.url_rule
        methods = (rule.methods if rule else None) or {"GET"}
        raise MethodNotAllowed(sorted(methods - {"HEAD"}))

    try:
        if arrival.ticket is not None:
            due_at = arrival.due_at
            attempt = _claim(app, state, options, arrival.ticket, due_at)
            return _run(state, options, attempt, None, view, args, kwargs, due_at)

        newcomer = _newcomer(app, state, options, arrival)
        patience = Patience(request, state.config.max_wait)

        try:
            if patience.respond_async:
                return _start(state, options, patience, newcomer)

            attempt = _begin(app, state, options, newcomer)
        except KeyTaken as taken:
            assert newcomer.key is not None
            return answer_again(state, options, patience, newcomer.key, taken)
    except JournalUnavailable as error:
        raise unavailable(error) from error

    return _run(state, options, attempt, patience, view, args, kwargs)


def _run(
    state: State,
    options: Options,
    attempt: Attempt,
    patience: Patience | None,
    view: View,
    args: t.Any,
    kwargs: t.Any,
    due_at: float | None = None,
) -> t.Any:
    call = Call(state, options, attempt, patience)
    execution = attempt.execution

    if execution.role == "on_failure":
        view, args, kwargs = _after_failure, (state, options, execution), {}

    if state.tracer is None:
        return call.run(view, args, kwargs)

    with state.tracer.attempt(execution, due_at):
        return call.run(view, args, kwargs)


def _after_failure(
    state: State, options: Options, execution: Execution
) -> tuple[str, int]:
    """Run the ``on_failure`` function for the failed parent, in place of the view."""
    if options.on_failure is not None:
        failed = t.cast(str, execution.parent_id)
        steps = state.store.journal(failed)
        info = execution_info(state.store.execution(failed), steps)
        resolve(options.on_failure(info))

    return "", 204


@dataclasses.dataclass(frozen=True)
class Newcomer:
    """A request that is to begin an execution, and what to store with it."""

    id: str
    url: str
    endpoint: str
    record: RequestRecord
    identity: bytes | None
    key: RequestKey | None

    def execution(
        self, now: float, options: Options, owner: str | None = None
    ) -> Execution:
        """Return the execution as it is stored.

        :param owner: the process whose first attempt runs, if one does
        """
        deadline = options.deadline_seconds
        return Execution(
            id=self.id,
            endpoint=self.endpoint,
            status="running" if owner else "pending",
            attempt=1 if owner else 0,
            owner=owner,
            ready_at=now,
            created_at=now,
            finished_at=None,
            crashes=0,
            errors=0,
            rejections=0,
            refusals=0,
            error=None,
            now=now,
            on_failure=int(options.on_failure is not None),
            deadline_at=None if deadline is None else now + deadline,
        )


def _newcomer(app: Flask, state: State, options: Options, arrival: Arrival) -> Newcomer:
    execution_id = new_id()
    # This comes first, since it signs: without a SECRET_KEY nothing may begin.
    url = status_url(execution_id)
    endpoint = request.endpoint or ""
    record = arrival.record
    identity = current_identity(app, state)
    key = find_key(app, options.idempotency, endpoint, record, identity)
    return Newcomer(execution_id, url, endpoint, record, identity, key)


def _begin(app: Flask, state: State, options: Options, new: Newcomer) -> Attempt:
    """Store a new execution before its view runs."""
    state.store.check()
    lease = state.lease(new.id, 1)

    try:
        now = state.store.begin(
            new.id,
            new.endpoint,
            state.owner,
            state.config.lease,
            new.record,
            new.identity,
            options.on_failure is not None,
            options.deadline_seconds,
            new.key,
        )
        execution = new.execution(now, options, state.owner)
        return _attempt(app, state, options, execution, [], lease, new.url)
    except KeyTaken:
        state.heartbeat.end(lease)
        raise
    except JournalUnavailable as error:
        if not error.unknown:
            state.heartbeat.end(lease)
            raise

        state.heartbeat.abandon(lease, crashed=False)
        raise _unknown(new.id) from error
    except BaseException:
        state.heartbeat.abandon(lease)
        raise


def _start(
    state: State, options: Options, patience: Patience, new: Newcomer
) -> Response:
    """Store a new execution for a dispatcher to run, and answer at once."""
    try:
        now = state.store.start(
            new.id,
            new.endpoint,
            new.record,
            new.identity,
            options.on_failure is not None,
            options.deadline_seconds,
            key=new.key,
        )
    except JournalUnavailable as error:
        if not error.unknown:
            raise

        raise _unknown(new.id) from error

    state.wake(0.0)
    apply("respond-async")
    link_this_answer(new.id)
    execution = new.execution(now or clock.now(), options)
    return later_response(state, options, patience, execution, [])


def _claim(
    app: Flask,
    state: State,
    options: Options,
    ticket: Ticket,
    due_at: float | None,
) -> Attempt:
    """Begin the attempt for which a replay's ticket is valid; that works once."""
    url = status_url(ticket.execution_id)
    state.store.check()
    lease = state.lease(ticket.execution_id, ticket.attempt)

    try:
        execution = state.store.claim(
            ticket.execution_id, ticket.attempt, state.owner, state.config.lease
        )

        if execution is None:
            state.heartbeat.end(lease)
            raise refuse_replay(USED)

        journal = _journal(state, execution)
        return _attempt(app, state, options, execution, journal, lease, url, due_at)
    except Problem:
        raise
    except BaseException as error:
        crashed = not isinstance(error, JournalUnavailable)
        state.heartbeat.abandon(lease, crashed)
        raise


def _journal(state: State, execution: Execution) -> list[StepRecord]:
    """Read the steps; if they can't be decrypted, suspend the execution and raise."""
    try:
        return state.store.journal(execution.id)
    except DecryptionError as error:
        with contextlib.suppress(LeaseLostError):
            state.store.suspend(
                execution.id,
                execution.attempt,
                execution.now + PUT_OFF,
                errors=execution.errors,
                error=Failure.of(error).encode(),
                wakes=execution.wakes,
            )

        raise


def _attempt(
    app: Flask,
    state: State,
    options: Options,
    execution: Execution,
    journal: list[StepRecord],
    lease: Lease,
    url: str,
    due_at: float | None = None,
) -> Attempt:
    state.heartbeat.hold(lease)
    state.notices.started(execution, due_at)
    return Attempt(
        state=state,
        execution=execution,
        journal=journal,
        lease=lease,
        retry=options.retry or state.config.retry,
        debug=app.debug,
        status_url=url,
    )


def current_identity(app: Flask, state: State) -> bytes | None:
    """Return whose request this is: by the app's hook, else by Flask-Login."""
    if state.hooks.identity is not None:
        value = resolve(state.hooks.identity())
        return state.codec.encode_for("What @durable.identity gives", value)

    if hasattr(app, "login_manager") and (login := sys.modules.get("flask_login")):
        user = login.current_user
        return state.codec.encode(user.get_id()) if user.is_authenticated else None

    return None


def _unknown(execution_id: str) -> Problem:
    return Problem(
        503,
        "The connection to the journal broke while the execution was stored:"
        " it is unknown whether it runs.",
        {"Retry-After": "5", "Durable-Execution": execution_id},
        execution=execution_id,
    )
