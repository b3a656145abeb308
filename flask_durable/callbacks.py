"""What others send to executions: events for all that wait, callbacks for one."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import url_for

from .checks import check_token
from .errors import CallbackConflict
from .errors import CallbackGone
from .errors import ExecutionNotFound
from .events import Events
from .ids import new_nonce
from .scope import current_scope
from .scope import Scope
from .signing import read_callback
from .signing import sign_callback
from .state import State
from .state import this_app
from .waits import callback_topic
from .waits import check_timeout
from .waits import event_topic
from .waits import Timeout
from .waits import Waiting

KIND = "callback"


class DataTooBig(ValueError):
    """The data that is sent is bigger than what a step may return."""


class Callback:
    """What ``step.callback`` gives: a link for others, and the wait for them."""

    def __init__(self, scope: Scope, name: str) -> None:
        self._scope = scope
        self._name = name

    @property
    def token(self) -> str:
        """The signed token, for ``durable.complete_callback`` in a view of yours."""
        return sign_callback(this_app(), self._scope.attempt.id, self._name)

    @property
    def url(self) -> str:
        """The signed and absolute link to which others POST their JSON."""
        return url_for("durable.callback", token=self.token, _external=True)

    def wait(self, timeout: Timeout = None) -> t.Any:
        """Give the JSON that was posted; until then no thread is held.

        :param timeout: how long to wait, in seconds or as a ``timedelta``, from the
            moment when the view first came here
        :raises WaitTimeoutError: if nothing was posted in time
        """
        seconds = check_timeout(self._name, timeout)
        # The view may have made the callback, and a branch now wait for it.
        scope = current_scope.get() or self._scope
        scope.check(self._name)
        found = scope.find(self._name, KIND)
        topic = callback_topic(scope.attempt.id, self._name)
        return Waiting(scope, self._name, found, KIND, topic, seconds).result()


def send(
    state: State, name: str, key: str | None, data: t.Any, dedup: str | None
) -> bool:
    """Send an event, and tell whether it is new."""
    topic = event_topic(state.store.app, name, key)
    encoded = _encoded(state, f'event "{name}"', data)
    # An event without ``dedup`` gets a unique mark: if the commit's answer is lost,
    # the second try finds the event by it.
    mark = f"~{new_nonce()}" if dedup is None else f"={dedup}"
    events = Events(state.store)

    def work(connection: sa.Connection) -> bool:
        with state.store.database.transaction(connection):
            return events.send(connection, topic, encoded, mark) or dedup is None

    state.store.check()
    new = state.store.database.run(work)
    state.wake(0.0)
    return new


def complete(state: State, token: str, data: t.Any) -> None:
    """Complete a callback with data; the same data again changes nothing.

    :raises ExecutionNotFound: if there is no callback behind the token
    :raises CallbackConflict: if it was completed with other data
    :raises CallbackGone: if its time is over, or its execution has ended
    :raises DataTooBig: if the data is over ``DURABLE_MAX_OUTPUT_BYTES``
    """
    check_token(token)
    found = read_callback(this_app(), token)

    if found is None:
        raise ExecutionNotFound("There is no callback behind this token.")

    execution_id, name = found
    topic = callback_topic(execution_id, name)
    encoded = _encoded(state, f'callback "{name}" of execution {execution_id}', data)
    events = Events(state.store)

    def work(connection: sa.Connection) -> None:
        with state.store.database.transaction(connection):
            state.store.lock_topic(connection, topic)
            before = events.sent(connection, topic, KIND)

            if before is None:
                _ensure_open(state, connection, execution_id, name)
                events.send(connection, topic, encoded, KIND)
            elif before != encoded:
                raise CallbackConflict(
                    f'Callback "{name}" of execution {execution_id} was completed'
                    " before, with other data."
                )

    state.store.check()
    state.store.database.run(work)
    state.wake(0.0)


def _encoded(state: State, whose: str, data: t.Any) -> bytes:
    """Encode what is sent.

    :param whose: for what it is, in messages
    :raises TypeError: if it can't be stored
    :raises DataTooBig: if it is over ``DURABLE_MAX_OUTPUT_BYTES``
    """
    encoded = state.codec.encode_for(f"The data for {whose}", data)
    limit = state.config.max_output_bytes

    if len(encoded) > limit:
        raise DataTooBig(
            f"The data for {whose} has {len(encoded)} bytes, which is over the limit of"
            f" DURABLE_MAX_OUTPUT_BYTES ({limit}): keep it elsewhere and send where it"
            " is."
        )

    return encoded


def _ensure_open(
    state: State, connection: sa.Connection, execution_id: str, name: str
) -> None:
    sql = state.store.sql
    rows = sql.execution(connection, execution_id=execution_id)

    if not rows:
        raise ExecutionNotFound(f"There is no execution {execution_id}.")

    status = sql.step_status(connection, execution_id=execution_id, id=name)

    if rows[0].finished_at is not None or (status and status[0][0] == "failed"):
        raise CallbackGone(
            f'Callback "{name}" of execution {execution_id} came too late: its time is'
            " over, or the execution has ended."
        )
