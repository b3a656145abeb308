"""The extension's methods for working with executions of the current app."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import typing as t

from flask import has_request_context

from .callbacks import complete
from .callbacks import send
from .checks import check_mappings
from .checks import check_page
from .clock import duration
from .endpoint import current_identity
from .errors import ControlError
from .errors import KeyTaken
from .globals import durable_replay
from .idempotency import begun_before
from .idempotency import start_key
from .ids import new_id
from .infos import execution_info
from .infos import ExecutionInfo
from .new_request import make_request
from .new_request import NewRequest
from .options import Options
from .records import Execution
from .records import ExecutionStatus
from .records import RequestKey
from .signing import check_secret_key
from .state import opened_state
from .state import State
from .state import this_app
from .waits import check_event


class Operations:
    """What an app, a script or an operator can do with executions.

    The executions are those of ``flask.current_app``.
    """

    def get(self, execution_id: str) -> ExecutionInfo:
        """Read an execution with its steps.

        :raises ExecutionNotFound: if there is none with this id
        """
        state = _state()
        execution = _own(state, execution_id)
        return execution_info(execution, state.store.journal(execution_id))

    def executions(
        self,
        *,
        status: ExecutionStatus | None = None,
        endpoint: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[ExecutionInfo]:
        """Read executions, the newest first, without their steps.

        :param status: only those of this status
        :param endpoint: only those of this endpoint
        :param before: only those that began before the execution of this id, for the
            next page
        :param limit: how many at most
        :raises ValueError: if there is no such status, if ``before`` is no id, or if
            the limit is below 1
        """
        check_page(status, before, limit)
        found = _state().control.find(status, endpoint, before, limit)
        return [execution_info(execution) for execution in found]

    def start(
        self,
        endpoint: str,
        *,
        values: cabc.Mapping[str, t.Any] | None = None,
        query: cabc.Mapping[str, t.Any] | None = None,
        json: t.Any = None,
        headers: cabc.Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Begin an execution without a client, and give its id.

        It is committed when this returns; a dispatcher runs it. Within a request it
        has that request's identity, see :meth:`FlaskDurable.identity`; else none.

        :param endpoint: a durable endpoint, as for ``url_for``
        :param values: the variables of its rule, as for ``url_for``
        :param query: the query's parameters
        :param json: the JSON body
        :param headers: further headers
        :param idempotency_key: a second start of the endpoint with the same key
            begins nothing, and gives the id of the first
        :raises ValueError: if there is no such endpoint, it is not durable, the body is
            over its limit, or the key was used for another request
        """
        app = this_app()
        check_secret_key(app)
        state = opened_state(app)
        check_mappings(values=values, query=query, headers=headers)
        request = make_request(app, endpoint, values, query, json, headers)
        options = request.options

        if options is None:
            raise ValueError(f'The endpoint "{request.endpoint}" is not durable.')

        key = None

        if idempotency_key is not None:
            key = start_key(app, request.endpoint, idempotency_key, request.record)

        return _start(state, request, options, key)

    def cancel(self, execution_id: str) -> None:
        """Cancel an execution: a running one at its next step, others at once.

        The outcome in flight is recorded. Its children are cancelled, too.

        :raises ExecutionNotFound: if there is none with this id
        :raises ControlError: if it has ended
        """
        state = _state()
        _own(state, execution_id)

        if not state.control.cancel(execution_id):
            raise ControlError(f"Execution {execution_id} has ended already.")

        state.wake(0.0)

    def resume(self, execution_id: str, *, force: bool = False) -> None:
        """Let a failed execution go on where it failed: that step is tried again.

        So are the steps that failed beside it in a parallel call; what the other
        branches recorded stays. A failed child of such a step goes on where it failed.
        If the view had gone on after that, and failed of something else, nothing is
        repeated.

        :param force: also if the view caught the failure and has recorded steps after
            it; those are forgotten, and done again. Also if its ``on_failure`` has not
            ended
        :raises ExecutionNotFound: if there is none with this id
        :raises ControlError: if it has not failed, or needs force
        """
        state = _state()
        _own(state, execution_id)
        state.control.resume(execution_id, force)
        state.wake(0.0)

    def rerun(self, execution_id: str, *, from_step: str | None = None) -> str:
        """Begin a new execution with the request of another, and give its id.

        :param from_step: keep the outcomes of the steps that were called before this
        :raises ExecutionNotFound: if there is none with this id
        :raises ControlError: if it has no such step, or if it handles the failure of
            another execution, which can be run again instead
        """
        state = _state()
        _own(state, execution_id)
        execution_id = state.control.rerun(execution_id, from_step)
        state.wake(0.0)
        return execution_id

    def purge(self, older_than: float | dt.timedelta | None = None) -> int:
        """Delete executions that ended long ago, and events of that age.

        :param older_than: seconds or a ``timedelta``, else ``DURABLE_RETENTION``
        :return: how many executions were deleted
        """
        state = _state()
        given = state.config.retention if older_than is None else older_than
        return state.control.purge(duration(given))

    def send_event(
        self,
        event: str,
        *,
        key: str | None = None,
        data: t.Any = None,
        dedup: str | None = None,
    ) -> bool:
        """Send an event to every execution of the current app that waits for it.

        Executions that have begun by now get it even if they wait for it later.

        :param event: its name
        :param key: distinguishes it from other events with the name
        :param data: what waits return, of any type that steps may return
        :param dedup: an identifier of this one event: a second event with the same
            name, key and identifier is dropped
        :return: whether it is new
        :raises TypeError: if the data is of a type that steps may not return
        :raises ValueError: if the data is over ``DURABLE_MAX_OUTPUT_BYTES``
        :raises JournalUnavailable: if it could not be stored
        """
        check_event(event, key)
        return send(_state(), event, key, data, dedup)

    def complete_callback(self, token: str, data: t.Any) -> None:
        """Complete a callback with data, in a view of your own such as a form's.

        The same data again changes nothing.

        :param token: the callback's ``token``
        :param data: what the wait returns, of any type that steps may return
        :raises TypeError: if the data is of another type, or the token is no string
        :raises ExecutionNotFound: if the token is invalid
        :raises CallbackConflict: if it was completed before with other data
        :raises CallbackGone: if its time is over, or its execution has ended
        :raises ValueError: if the data is over ``DURABLE_MAX_OUTPUT_BYTES``
        """
        complete(_state(), token, data)


def _state() -> State:
    return opened_state(this_app())


def _own(state: State, execution_id: str) -> Execution:
    """Read an execution of the current app: another one may share its journal.

    :raises ExecutionNotFound: if there is none with this id
    """
    return state.listing.head(execution_id).execution


def _identity(state: State) -> bytes | None:
    """Return the identity for a new execution: the current request's, if there is one.

    A replay passes on that of its execution, because the login may have expired.
    """
    if not has_request_context():
        return None

    if (found := durable_replay()) is not None:
        return None if found.identity is None else state.codec.encode(found.identity)

    return current_identity(this_app(), state)


def _start(
    state: State, request: NewRequest, options: Options, key: RequestKey | None
) -> str:
    execution_id = new_id()

    try:
        state.store.start(
            execution_id,
            request.endpoint,
            request.record,
            _identity(state),
            options.on_failure is not None,
            options.deadline_seconds,
            key=key,
        )
    except KeyTaken as taken:
        return begun_before(taken, request.record.digest)

    state.wake(0.0)
    return execution_id
