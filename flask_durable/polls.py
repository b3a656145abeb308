"""Steps that look again and again until they find something."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from .outcomes import replay_outcome
from .records import Failure
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
        fails = found is not None and found.status == "retrying"
        self._ends = fails and self._is_over(self.wake_at or 0.0)
        """Whether its next call would have come after its time."""

    def run(self) -> t.Any:
        """Call the function, unless its time was over before the next try."""
        if not self._ends:
            return super().run()

        self._pause(self.until or 0.0)
        # No other try begins.
        self.step = self.step._replace(tries=self.step.tries - 1)
        return self._time_out(self._failure)

    def _is_over(self, moment: float) -> bool:
        return self.until is not None and moment >= self.until

    def _time_out(self, last: Failure | None = None) -> t.Any:
        step = self.step._replace(wake_at=self.until)
        step = timed_out(step, self.attempt.now(), last)
        self.attempt.record(step)
        return replay_outcome(self.scope, step)

    def _what_next(self, delay: float) -> str:
        if self._is_over(self.attempt.now() + delay):
            return "and its time is over before the next one"

        return super()._what_next(delay)

    def _retry_at(self, wake_at: float, delay: float, failure: Failure) -> None:
        if not self._is_over(wake_at):
            super()._retry_at(wake_at, delay, failure)
            return

        left = max(0.0, (self.until or 0.0) - self.attempt.now())
        super()._retry_at(self.until or 0.0, left, failure)
        self._time_out(self._failure)

    def _completed(self, value: t.Any) -> t.Any:
        if value:
            return super()._completed(value)

        now = self.attempt.now()

        if self._is_over(now):
            return self._time_out()

        wake_at = min(now + self.every, self.until or now + self.every)
        mark = self.step._replace(status="waiting", tries=0, wake_at=wake_at)
        raise self.scope.suspend(wake_at, mark)
