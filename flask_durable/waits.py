"""Steps that wait for something that others send, without holding a thread."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import math
import typing as t

import sqlalchemy as sa

from .checks import check_duration
from .errors import DecryptionError
from .errors import StepOutputError
from .outcomes import replay_outcome
from .outcomes import TIMEOUT_ERROR
from .records import Event
from .records import Failure
from .records import StepRecord
from .records import Wait
from .recovery import PUT_OFF
from .scope import Scope

logger = logging.getLogger(__name__)

Timeout = float | dt.timedelta | None

EVENT = "event"
"""The kind of steps that wait for what is sent to many."""


def event_topic(app: str, name: str, key: str | None) -> str:
    """Return the topic of an event."""
    return json.dumps([app, "event", name, key])


def check_event(name: str, key: str | None) -> None:
    """Make sure that an event can have a name and a key.

    :raises TypeError: if they are no strings
    """
    if not isinstance(name, str) or not isinstance(key, str | None):
        raise TypeError(
            f"An event's name and key are strings, not {name!r} and {key!r}."
        )


def callback_topic(execution_id: str, step: str) -> str:
    """Return the topic of a step's callback."""
    return json.dumps([execution_id, "callback", step])


def check_timeout(step_id: str, timeout: Timeout) -> float | None:
    """Return a time-out in seconds.

    :raises ValueError: if it is negative or too long
    """
    if timeout is None:
        return None

    seconds = check_duration(step_id, timeout, "wait so long")

    if seconds < 0:
        raise ValueError(f'Step "{step_id}" can\'t wait for {timeout!r}.')

    return seconds


class Waiting:
    """One step's wait for the next event of a topic.

    :param name: the step's unique name
    :param found: what the journal has of it
    :param timeout: seconds from the first time that the view waited
    """

    def __init__(
        self,
        scope: Scope,
        name: str,
        found: StepRecord | None,
        kind: str,
        topic: str,
        timeout: float | None,
    ) -> None:
        self.scope = scope
        self.attempt = scope.attempt
        self.found = found
        self.topic = topic
        self.step = found or self._first(name, kind, timeout)

    def _first(self, name: str, kind: str, timeout: float | None) -> StepRecord:
        now = self.attempt.now()
        return StepRecord(
            id=name,
            kind=kind,
            status="waiting",
            tries=1,
            position=self.attempt.next_position(),
            attempt=self.attempt.attempt,
            started_at=now,
            wake_at=None if timeout is None else now + timeout,
            topic=self.topic,
        )

    def result(self) -> t.Any:
        """Return what the event brought.

        :raises Suspended: if it is not there yet
        :raises WaitTimeoutError: if it did not come in time
        """
        if self.found is not None and self.found.is_outcome:
            return replay_outcome(self.scope, self.found)

        try:
            return self._next()
        except DecryptionError as error:
            logger.error("Execution %s goes on waiting: %s", self.attempt.id, error)
            mark = None if self.found else self.step
            raise self.scope.suspend(self.attempt.now() + PUT_OFF, mark) from None

    def _next(self) -> t.Any:
        with self.attempt.receiving(self.topic, self.step.kind == EVENT) as given:
            event, wait = self._look(given)

            if event is not None:
                return self._received(event)

            if self._is_over():
                return self._time_out(wait)

        raise self._suspend(wait)

    def _look(self, wait: Wait) -> tuple[Event | None, Wait]:
        """Return the event, if it has been sent, and otherwise what to wait for."""
        return self.attempt.state.store.next_event(wait), wait

    def _suspend(self, wait: Wait) -> BaseException:
        self.attempt.waits[self.topic] = wait
        moved = self.found is not None and self.found.topic != self.topic
        mark = self.step._replace(topic=self.topic)
        wake_at = math.inf if mark.wake_at is None else mark.wake_at
        return self.scope.suspend(wake_at, None if self.found and not moved else mark)

    def _is_over(self) -> bool:
        wake_at = self.step.wake_at
        return wake_at is not None and wake_at <= self.attempt.now()

    def _received(self, event: Event) -> t.Any:
        self.attempt.ensure_lease()
        step = self._outcome(event)
        self.attempt.record(step)
        return replay_outcome(self.scope, step)

    def _time_out(self, wait: Wait) -> t.Any:
        """Commit that nothing came, unless the event comes at this very moment."""
        store = self.attempt.state.store

        def work(connection: sa.Connection) -> StepRecord:
            store.lock_topic(connection, self.topic)
            rows = store.sql.next_event(connection, **dataclasses.asdict(wait))
            return self._outcome(Event(*rows[0])) if rows else self._failed()

        self.attempt.ensure_lease()
        return replay_outcome(self.scope, self.attempt.transact(work))

    def _outcome(self, event: Event) -> StepRecord:
        """Return the step's outcome: completed by the event, or failed if too big."""
        step = self._completed(event)
        size = len(step.output or b"")

        if size <= self.attempt.room:
            return step

        error = StepOutputError(
            f'Step "{step.id}" got {size} bytes, which is over the limit of'
            f" {self.attempt.limit_under(size)}: keep the data elsewhere and send"
            " where it is."
        )
        logger.error("Execution %s: %s", self.attempt.id, error)
        return _failed_with(Failure.of(error), step._replace(output=None))

    def _completed(self, event: Event) -> StepRecord:
        return self.step._replace(
            status="completed",
            finished_at=self.attempt.now(),
            output=event.data,
            event=event.number,
            topic=self.topic,
        )

    def _failed(self) -> StepRecord:
        return timed_out(self.step, self.attempt.now())


def timed_out(step: StepRecord, now: float, last: Failure | None = None) -> StepRecord:
    """Return the outcome of a wait that took too long.

    :param last: why the last call failed, if there was no time for another
    """
    waited = (step.wake_at or now) - step.started_at
    why = f", and the last call failed: {last.type}: {last.message}" if last else ""
    failure = Failure(TIMEOUT_ERROR, f"nothing came within {waited:g} s{why}")
    return _failed_with(failure, step._replace(finished_at=now))


def _failed_with(failure: Failure, step: StepRecord) -> StepRecord:
    return step._replace(
        status="failed", error_type=failure.type, error=failure.encode()
    )
