"""Durable timers."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from .attempt import Attempt
from .outcomes import replay_outcome
from .records import StepRecord
from .scope import Scope


def run_sleep(scope: Scope, step_id: str, until: cabc.Callable[[], float]) -> None:
    """Return if a time has come, else suspend until then.

    :param until: returns the time, in seconds since the epoch; called in the first
        attempt only
    """
    name, found = scope.enter(step_id, "sleep")
    attempt = scope.attempt

    if found is not None and found.is_outcome:
        replay_outcome(scope, found)
        return

    step = found or _first(attempt, name, until())
    wake_at = t.cast(float, step.wake_at)
    now = attempt.now()

    if wake_at > now:
        raise scope.suspend(wake_at, None if found else step)

    attempt.ensure_lease()
    attempt.record(step._replace(status="completed", finished_at=now))


def _first(attempt: Attempt, name: str, wake_at: float) -> StepRecord:
    return StepRecord(
        id=name,
        kind="sleep",
        status="sleeping",
        tries=1,
        position=attempt.next_position(),
        attempt=attempt.attempt,
        started_at=attempt.now(),
        wake_at=wake_at,
    )
