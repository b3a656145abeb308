"""Steps that run another durable endpoint as a child execution."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import json
import typing as t

from .blobs import UNREADABLE
from .capture import stored_response
from .errors import DecryptionError
from .errors import StepError
from .follow_ups import child_topic
from .ids import new_id
from .new_request import make_request
from .new_request import NewRequest
from .records import Event
from .records import Execution
from .records import Failure
from .records import StepRecord
from .records import Wait
from .scope import Scope
from .state import this_app
from .waits import Waiting

KIND = "invoke"
STEP_ERROR = f"{StepError.__module__}.{StepError.__qualname__}"


def run_invoke(
    scope: Scope,
    step_id: str,
    endpoint: str,
    values: cabc.Mapping[str, t.Any] | None,
    query: cabc.Mapping[str, t.Any] | None,
    body: t.Any,
    headers: cabc.Mapping[str, str] | None,
) -> t.Any:
    """Begin a child execution, wait for its end, and return the JSON it answered."""
    name, found = scope.enter(step_id, KIND)

    if found is None:
        given = (endpoint, values, query, body, headers)
        _begin(scope, name, make_request(this_app(), *given))

    topic = child_topic(scope.attempt.id, name)
    return ChildWaiting(scope, name, found, KIND, topic, None).result()


def _begin(scope: Scope, name: str, request: NewRequest) -> None:
    """Store the child, unless an earlier attempt has stored it."""
    attempt = scope.attempt
    state = attempt.state
    options = request.options

    if options is None:
        raise ValueError(
            f'Step "{name}" invokes "{request.endpoint}", which is not durable: call it'
            " in a step.run, or put @durable.endpoint under its route."
        )

    attempt.ensure_lease()
    state.store.start(
        new_id(),
        request.endpoint,
        request.record,
        state.store.replay(attempt.id).identity,
        options.on_failure is not None,
        options.deadline_seconds,
        (attempt.id, name),
    )
    state.wake(0.0)


class ChildWaiting(Waiting):
    """Waits for the end of a child."""

    _child: Execution
    """The child, as it ended."""

    def _look(self, wait: Wait) -> tuple[Event | None, Wait]:
        """Return the event of the child's end, unless it was resumed after that."""
        store = self.attempt.state.store

        while (event := store.next_event(wait)) is not None:
            self._child = store.child(self.attempt.id, self.step.id)

            if self._child.ended:
                break

            wait = dataclasses.replace(wait, after=event.number)

        return event, wait

    def _completed(self, event: Event) -> StepRecord:
        step = super()._completed(event)
        error, output = self._answer()

        if error is None:
            return step._replace(output=output)

        return step._replace(
            status="failed",
            output=None,
            error_type=error.type,
            error=error.encode(),
        )

    def _answer(self) -> tuple[Failure | None, bytes | None]:
        """Return why the child failed, or the JSON that it answered."""
        store = self.attempt.state.store
        child = self._child

        if child.status != "completed":
            if child.error == UNREADABLE:
                raise DecryptionError(f"The error of execution {child.id}.")

            if child.error is not None:
                return Failure.decode(child.error), None

            return Failure(STEP_ERROR, f"its execution is {child.status}"), None

        record = store.response(child.id)

        if record is None or record.body is None:
            return Failure(STEP_ERROR, "its response was too big to store"), None

        response = stored_response(record, record.body)

        if response.status_code >= 400:
            return Failure(STEP_ERROR, f"it answered {response.status}"), None

        if response.status_code == 204 or not record.body:
            return None, b"null"

        if not response.is_json:
            what = response.mimetype or "nothing"
            return Failure(STEP_ERROR, f"it answered {what}, not JSON"), None

        try:
            value = json.loads(record.body)
            return None, self.attempt.state.codec.encode(value)
        except (ValueError, RecursionError) as error:
            why = f"it answered JSON that can't be read: {error}"
            return Failure(STEP_ERROR, why), None
