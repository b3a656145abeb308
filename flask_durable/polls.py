"""Steps that look again and again until they find something."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from .outcomes import replay_outcome
from .records import StepRecord
from .retry import Retry
from .scope import Scope
from .tries import StepTries
from .waits import timed_out


def run_poll(
    scope: Scope,
    step_id: str,
    check: cabc.Callable[[], t.Any],
    retry: Retry,
    every: float,
    timeout: float | None,
) -> t.Any:
    """Return a poll's stored outcome, or look now and suspend until the next look."""
    name, found = scope.enter(step_id, PollTries.kind)

    if found is not None and found.is_outcome:
        return replay_outcome(scope, found)

    return PollTries(scope, name, found, check, retry, every, timeout).run()


class PollTries(StepTries):
    """Runs a check; its tries are the failures since it last succeeded."""

    kind = "poll"

    def __init__(
        self,
        scope: Scope,
        name: str,
        found: StepRecord | None,
        check: cabc.Callable[[], t.Any],
        retry: Retry,
        every: float,
        timeout: float | None,
    ) -> None:
        super().__init__(scope, name, found, check, retry)
        self.every = every
        self.until = None if timeout is None else self.step.started_at + timeout

    def _completed(self, value: t.Any) -> t.Any:
        if value:
            return super()._completed(value)

        now = self.attempt.now()

        if self.until is not None and now >= self.until:
            step = timed_out(self.step._replace(wake_at=self.until), now)
            self.attempt.record(step)
            return replay_outcome(self.scope, step)

        wake_at = min(now + self.every, self.until or now + self.every)
        mark = self.step._replace(status="waiting", tries=0, wake_at=wake_at)
        raise self.scope.suspend(wake_at, mark)
