"""The tries of one step: run its function, commit the outcome."""

from __future__ import annotations

import collections.abc as cabc
import logging
import typing as t

from werkzeug.exceptions import HTTPException

from . import clock
from .awaiting import resolve
from .checks import wrong_call
from .errors import MISUSE
from .errors import StepError
from .errors import StepInterruptedError
from .errors import StepOutputError
from .httperrors import http_parts
from .outcomes import INTERRUPTED_ERROR
from .outcomes import replay_outcome
from .outcomes import stored_error
from .outcomes import stored_http_error
from .records import Failure
from .records import StepRecord
from .records import StepStatus
from .retry import Retry
from .scope import running_step
from .scope import RunningStep
from .scope import Scope
from .tracing import traced
from .unstorable import Undecodable
from .unstorable import Unencodable

logger = logging.getLogger(__name__)

PROGRAMMING_ERRORS = (NameError, TypeError, AttributeError, ImportError)
"""Not tried again in debug mode: a typo stays a typo."""


ONCE = Retry(max_attempts=1)
"""The policy of steps that run at most once."""


def run_step(
    scope: Scope,
    step_id: str,
    call: cabc.Callable[[], t.Any],
    retry: Retry,
    at_most_once: bool = False,
) -> t.Any:
    """Return a step's stored outcome, or run it and commit its outcome."""
    name, found = scope.enter(step_id, "run")

    if found is not None and found.is_outcome:
        return replay_outcome(scope, found)

    tries = StepTries(scope, name, found, call, ONCE if at_most_once else retry)

    if at_most_once:
        tries.mark_start(found)

    return tries.run()


class OutputProblem(Exception):
    """What a step returned can't be stored."""


class StepTries:
    """Runs a step's function until it succeeds or its tries are used up."""

    kind = "run"

    def __init__(
        self,
        scope: Scope,
        name: str,
        found: StepRecord | None,
        call: cabc.Callable[..., t.Any],
        retry: Retry,
    ) -> None:
        self.scope = scope
        self.attempt = scope.attempt
        self.call = call
        self.retry = retry
        self.step, self.wake_at = self._begin(name, found)
        self._began = 0.0
        """When its last try began, by the boot clock."""
        self._failure = Failure.decode(found.error) if found and found.error else None

    def _begin(
        self, name: str, found: StepRecord | None
    ) -> tuple[StepRecord, float | None]:
        """Return the step as it begins, and when its next try is due, if it waits."""
        attempt = self.attempt
        wake_at = None

        if found is None:
            tries, position = 1, attempt.next_position()
            started_at = attempt.now()
        else:
            # A crash is no failed try: one that ran when its process died begins
            # again under the same number.
            failed = found.tries if found.status in ("retrying", "waiting") else 0
            tries, position = max(failed + 1, found.tries), found.position
            started_at, wake_at = found.started_at, found.wake_at

        place = position, attempt.attempt, started_at
        return StepRecord(name, self.kind, "running", tries, *place), wake_at

    def mark_start(self, found: StepRecord | None) -> None:
        """Commit that the function is about to be called.

        :param found: what the journal has of the step
        :raises StepInterruptedError: if an earlier attempt began it and left no outcome
        """
        if found is not None and found.status == "running":
            failure = Failure(INTERRUPTED_ERROR, "its process ended meanwhile")
            self._record("interrupted", failure=failure)
            error = StepInterruptedError(
                self.step.id, found.tries, failure.type, failure.message
            )
            logger.error("Execution %s: %s", self.attempt.id, error)
            raise error

        self.attempt.ensure_lease()
        self.attempt.record(self.step)

    def run(self) -> t.Any:
        """Run the step to an outcome.

        :raises Suspended: if its next try is too far away
        :raises Cancelled: if the execution was asked to end before its next try
        :raises DeadlineExceeded: if its time is over before that
        """
        if self.wake_at is not None:
            self._pause(self.wake_at)
            self.attempt.check_goes_on(self.step.id)

        while True:
            try:
                value = self._try()
            except Exception as error:
                self._failed(error)
            except BaseException as error:
                if not self.retry.names(error):
                    raise

                self._failed(error)
            else:
                return self._completed(value)

            self.attempt.check_goes_on(self.step.id)
            self.step = self.step._replace(tries=self.step.tries + 1)

    def _try(self) -> t.Any:
        """Do the work; meanwhile the heartbeat may mark the step as running."""
        attempt, step = self.attempt, self.step
        lease = attempt.lease
        attempt.ensure_lease()
        self._began = began = clock.boottime()
        token = running_step.set(RunningStep(attempt.id, step.id, step.tries))
        lease.tries[step.id] = began, step

        try:
            return self._work()
        finally:
            running_step.reset(token)
            lease.tries.pop(step.id, None)

    def _work(self) -> t.Any:
        """Call the function."""
        state = self.attempt.state

        if state.probe is None and state.tracer is None:
            return resolve(self.call())

        with traced(state.tracer, self.attempt.execution, self.step):
            return self._probed()

    def _probed(self) -> t.Any:
        probe = self.attempt.state.probe

        if probe is None:
            return resolve(self.call())

        probe.before(self.step)
        value = resolve(self.call())
        probe.after(self.step)
        return value

    def _completed(self, value: t.Any) -> t.Any:
        try:
            output, plain = self._encode(value)
        except OutputProblem as problem:
            self._output_error(problem)

        # Earlier failures are kept, for people who look at the step later.
        failure = self._failure and self._timed(self._failure, "")
        error = failure.encode() if failure else None
        attempt = self.attempt
        self.scope.commit(self.step.completed(attempt.now(), output, error))
        # Only now: what an app's own decoder raises must not undo the step.
        try:
            return attempt.state.codec.copy(output, plain)
        except Undecodable as error:
            raise stored_error(attempt, self.step.id, error) from error.__cause__

    def _encode(self, value: t.Any) -> tuple[bytes, t.Any]:
        """Encode what the function returned; also return what its copy is made of.

        :raises OutputProblem: if it can't be encoded, or is too big
        """
        try:
            output, plain = self.attempt.state.codec.encode_both(value)
        except Unencodable as error:
            raise OutputProblem(error.advice) from None
        except (ValueError, RecursionError) as error:
            reason = f"returned what can't be stored: {error}. It ran."
            raise OutputProblem(reason) from None

        if len(output) > self.attempt.room:
            raise OutputProblem(self._too_big(len(output)))

        return output, plain

    def _too_big(self, size: int) -> str:
        return (
            f"returned {size} bytes. It ran, but that is over the limit of"
            f" {self.attempt.limit_under(size)}: keep the data elsewhere and return"
            " where it is."
        )

    def _failed(self, error: BaseException) -> None:
        """Return when it is time for the next try; if there is none, raise."""
        self.attempt.ensure_process(error)
        tries = self.step.tries

        if isinstance(error, MISUSE):
            raise error

        if isinstance(error, OutputProblem):
            self._output_error(error)

        if isinstance(error, HTTPException):
            self._http_error(error)

        wrong = wrong_call(self.step.id, self.kind, self.call, error)

        if wrong is not None or not self._is_tried_again(error):
            error = wrong or error
            self._log(error, "and is not tried again")
            self._record_failure(failure := Failure.of(error))
            raise StepError(
                self.step.id, tries, failure.type, failure.message
            ) from error

        delay = self.retry.delay(error, tries)
        self._log(error, self._what_next(delay))
        self._retry_at(self.attempt.now() + delay, delay, Failure.of(error))

    def _what_next(self, delay: float) -> str:
        return f"and is tried again in {delay:.1f} s"

    def _http_error(self, error: HTTPException) -> t.NoReturn:
        parts, left_out = http_parts(error, self.attempt.state.codec)

        for name, value in left_out.items():
            logger.warning(
                'Step "%s" of execution %s raised a %s whose attribute "%s" can\'t be'
                " stored: handlers of the error will miss it. Let it, a %s, and what is"
                " in it be what a step may return.",
                self.step.id,
                self.attempt.id,
                type(error).__name__,
                name,
                type(value).__name__,
            )

        self._record_failure(failure := Failure.of(error, parts))
        raise stored_http_error(self.attempt, self.step.id, failure) from error

    def _retry_at(self, wake_at: float, delay: float, failure: Failure) -> None:
        mark = self._as("retrying", wake_at=wake_at, failure=failure)

        if not self.attempt.take_inline(delay):
            raise self.scope.suspend(wake_at, mark)

        self.attempt.record(mark)
        self._sleep(delay)

    def _pause(self, until: float) -> None:
        delay = until - self.attempt.now()

        if delay <= 0:
            return

        if not self.attempt.take_inline(delay):
            raise self.scope.suspend(until)

        self._sleep(delay)

    def _sleep(self, delay: float) -> None:
        probe = self.attempt.state.probe
        (clock.sleep if probe is None else probe.pause)(delay)

    def _is_tried_again(self, error: BaseException) -> bool:
        if self.attempt.debug and isinstance(error, PROGRAMMING_ERRORS):
            return False

        return self.retry.allows(error, self.step.tries)

    def _output_error(self, problem: OutputProblem) -> t.NoReturn:
        error = StepOutputError(f'Step "{self.step.id}" {problem}')
        logger.error("Execution %s: %s", self.attempt.id, error)
        self._record_failure(Failure.of(error))
        raise error from None

    def _record_failure(self, failure: Failure) -> None:
        self._record("failed", failure=failure)

    def _record(self, status: StepStatus, **values: t.Any) -> None:
        self.attempt.record(self._as(status, finished_at=self.attempt.now(), **values))

    def _as(
        self, status: StepStatus, failure: Failure | None = None, **values: t.Any
    ) -> StepRecord:
        if failure is not None:
            failure = self._failure = self._timed(failure, failure.type)
            values |= {"error_type": failure.type, "error": failure.encode()}

        return self.step._replace(status=status, **values)

    def _timed(self, failure: Failure, why: str) -> Failure:
        since = self.step.started_at
        begun = max(self.attempt.at(self._began), since) - since
        ended = self.attempt.now() - since
        return failure.after(self._failure, begun, ended, why)

    def _log(self, error: BaseException, what_next: str) -> None:
        logger.warning(
            'Step "%s" of execution %s failed in try %d %s.',
            self.step.id,
            self.attempt.id,
            self.step.tries,
            what_next,
            exc_info=error,
        )
