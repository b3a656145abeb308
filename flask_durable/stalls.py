"""Why an execution that a test drives can't go on, and what to do about it."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import json
import math

from . import clock
from .errors import DurableError
from .errors import NonDeterminismError
from .faults import Crash
from .records import class_name
from .records import Execution
from .records import Failure
from .records import StepRecord

TICK = 0.001
"""Seconds by which the clock is moved beyond a due time, because clocks round."""

WAITING = ("retrying", "sleeping", "waiting")


class KitError(DurableError):
    """A test asked for what can't be."""


class StillWaiting(KitError):
    """An execution waits for something that is not due."""

    def __init__(self, execution: Execution, step: StepRecord) -> None:
        self.execution_id = execution.id
        """The execution."""
        self.kind = step.kind
        """``"sleep"``, ``"event"``, ``"callback"`` or ``"poll"``."""
        self.step = step.id
        """The id of the step that waits."""
        self.until = _datetime(step.wake_at)
        """When it ends by itself, by the journal's clock; ``None``: never."""
        super().__init__(
            f"Execution {execution.id} can't go on: {_advice(step, execution.now)}"
        )


class Crashed(KitError):
    """The attempt in the client's own request was killed: it has no answer.

    Give it to :meth:`DurableClient.run_until_complete` to go on.
    """

    def __init__(self, crash: Crash, status_url: str) -> None:
        self.execution_id = crash.execution_id
        """The execution, which goes on in another attempt."""
        self.attempt = crash.attempt
        """The number of the attempt that was killed."""
        self.step = crash.step
        """The step before or after whose call that was."""
        self.status_url = status_url
        """Where the execution can be watched."""
        super().__init__(
            f"Attempt {crash.attempt} of execution {crash.execution_id} was killed"
            f' {crash.moment} the call of step "{crash.step}", as the test wants it:'
            " client.run_until_complete(error) goes on."
        )


def waiting_step(
    execution: Execution, journal: cabc.Iterable[StepRecord]
) -> StepRecord | None:
    """Return the step that an execution waits for, unless it waits for a retry."""
    waiting = [step for step in journal if step.status in WAITING]
    first = min(waiting, key=_wake_at, default=None)

    if first is None or first.status == "retrying":
        return None

    # If its time has come, or the next attempt begins earlier, then the last attempt
    # raised, was killed, or did not reach the view, and is tried again.
    ready_at = math.inf if execution.ready_at is None else execution.ready_at
    again = _wake_at(first) <= execution.now or ready_at < _wake_at(first) - TICK
    return None if again else first


def _wake_at(step: StepRecord) -> float:
    return math.inf if step.wake_at is None else step.wake_at


def _advice(step: StepRecord, now: float) -> str:
    """Say what the step waits for, and how the test can end the wait."""
    until = ""
    turn = ""

    if step.wake_at is not None:
        until = f" until {clock.isoformat(step.wake_at)}"
        turn = f"client.advance({math.ceil(step.wake_at - now)})"

    if step.kind == "sleep":
        return f'step "{step.id}" sleeps{until}: {turn}.'

    if step.kind == "poll":
        return f'step "{step.id}" polls again later, it waits{until}: {turn}.'

    otherwise = f" For its timeout: {turn}." if turn else ""

    if step.kind == "event":
        _, _, event, key = json.loads(step.topic or "[0, 0, 0, 0]")
        call = f'"{event}"' if key is None else f'"{event}", key="{key}"'
        what = f"waits{until} for an event: durable.send_event({call})."
    else:
        what = (
            f"waits{until} for its callback: post JSON to its URL, or call"
            " durable.complete_callback(token, data)."
        )

    return f'step "{step.id}" {what}{otherwise}'


def _datetime(moment: float | None) -> dt.datetime | None:
    return None if moment is None else dt.datetime.fromtimestamp(moment, dt.UTC)


def check_replays(execution: Execution) -> None:
    """Raise the error of an execution that failed because a replay differed."""
    if execution.error is not None and execution.status == "failed":
        failure = Failure.decode(execution.error)

        if failure.type == class_name(NonDeterminismError):
            raise NonDeterminismError(failure.message)
