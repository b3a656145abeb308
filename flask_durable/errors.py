"""What can go wrong, as classes.

::

    Exception
      DurableError                 the library's errors
        StepError                  a step failed and its tries are used up
          StepInterruptedError     a step may have run, and is not run again
          WaitTimeoutError         what a step waited for did not come in time
        StepOutputError            a step ran, but its result can't be stored
        StoredValueError           a stored value can't be decoded
        NestedStepError            a step was called inside a step function
        MisplacedStepError         a step was called outside of a durable view
        DuplicateStepError         two parallel branches used the same id
        NonDeterminismError        a replay asked for something else
        AttemptCrashed             an execution killed its process too often
        ReplayRejected             the application turned its own replay away
        ConfigError                a setting is wrong
        SchemaError                the journal's tables are of another version
        JournalUnavailable         the journal's database can't be reached
          DecryptionError          a part of it can't be decrypted
        DeadlineExceeded           an execution's time is over
        ControlError               an execution can't be resumed or rerun
        ExecutionNotFound          no execution has this id
        IdempotencyError           an endpoint's idempotency function failed
        KeyTaken                   an execution with this key has begun
        CallbackError              a callback can't be completed
          CallbackConflict         it was completed with other data
          CallbackGone             its time is over
      NonRetryableError            raised by users: no more tries
      RetryAfterError              raised by users: the next try not before then
    BaseException
      Suspended                    ends an attempt that goes on later
      LeaseLostError               ends an attempt that somebody else took over
        JournalLostError           ends an attempt that can't record any more
      Cancelled                    ends an attempt whose execution is cancelled
      ProcessEnds                  ends an attempt whose process gives no more threads

The last five are control flow: ``except Exception`` must not catch them.
This module imports nothing of the package but the clock.
"""

from __future__ import annotations

import datetime as dt

from werkzeug.http import parse_date

from .clock import duration
from .clock import now


class DurableError(Exception):
    """The base of the library's own errors."""


class StepError(DurableError):
    """A step failed and its tries are used up.

    It is raised by the step's call, now and on each replay, so that a view
    can catch it and compensate with further steps.

    :param step: the step's id
    :param tries: how many tries failed
    :param error_type: qualified name of the last try's exception
    :param error_message: message of the last try's exception
    """

    def __init__(
        self, step: str, tries: int, error_type: str, error_message: str
    ) -> None:
        self.step = step
        self.tries = tries
        self.error_type = error_type
        self.error_message = error_message
        times = "try" if tries == 1 else "tries"
        super().__init__(
            f'Step "{step}" failed after {tries} {times}: {error_type}: {error_message}'
        )


class StepInterruptedError(StepError):
    """A step that runs at most once was cut off: nobody knows what it has done.

    Its function is never called again. Find out what has happened outside, and go
    on accordingly.
    """

    def __str__(self) -> str:
        return (
            f'Step "{self.step}" was cut off while it ran: whether it took effect is'
            " unknown, and it is not called again."
        )


class WaitTimeoutError(StepError):
    """What a step waited for did not come in time."""

    def __str__(self) -> str:
        return f'Step "{self.step}" timed out: {self.error_message}'


class CallbackError(DurableError):
    """A callback can't be completed."""


class CallbackConflict(CallbackError):
    """The callback was completed before, with other data."""


class CallbackGone(CallbackError):
    """The callback's time is over, or its execution has ended."""


class StepOutputError(DurableError):
    """A step ran, but its result can't be encoded or is too big to store."""


class StoredValueError(DurableError):
    """A value in the journal can't be decoded; nothing is lost.

    Its type is no longer registered, or the type's own function raised. That error is
    then the ``__cause__``, and a retry policy is asked about it.
    """


class NestedStepError(DurableError):
    """A step was called inside the function of another step."""


class MisplacedStepError(DurableError, RuntimeError):
    """A step was called outside of a running attempt."""


class DuplicateStepError(DurableError):
    """Two parallel branches used the same step id."""


class NonDeterminismError(DurableError):
    """A replay called other steps than those in the journal."""


class AttemptCrashed(DurableError):
    """The process of an execution died too often without a new outcome."""


class ReplayRejected(DurableError):
    """The application rejected its own replays before their endpoint."""


class ConfigError(DurableError):
    """A setting is wrong; the message names its key."""


class SchemaError(DurableError):
    """The journal's tables are missing or of another version."""


class JournalUnavailable(DurableError):
    """The journal's database can't be reached or written."""

    unknown = False
    """Whether the write may have happened although its answer was lost."""

    public = "The journal can't be reached: try later."
    """What clients are told."""


class DecryptionError(JournalUnavailable):
    """A part of the journal was encrypted with a key that is missing now.

    Nothing is lost: put the key back into ``DURABLE_ENCRYPTION_KEYS``. Until then
    executions that need it are put off.
    """

    public = "A part of the journal can't be decrypted: try later."


class DeadlineExceeded(DurableError):
    """The execution took longer than its endpoint's deadline allows."""


class ControlError(DurableError):
    """The execution's state does not allow this operation."""


class ExecutionNotFound(DurableError):
    """There is no execution with this id."""


class IdempotencyError(DurableError):
    """The ``idempotency`` function of an endpoint raised, or returned no string."""


class KeyTaken(DurableError):
    """An execution with the same idempotency key has begun before.

    :param execution_id: that execution
    :param fingerprint: the digest of its request
    """

    def __init__(self, execution_id: str, fingerprint: str) -> None:
        self.execution_id = execution_id
        self.fingerprint = fingerprint
        super().__init__(f"Execution {execution_id} has begun with the same key.")


MISUSE = (
    ConfigError,
    DuplicateStepError,
    MisplacedStepError,
    NestedStepError,
    NonDeterminismError,
)
"""Errors that stay until somebody changes the code: nothing is tried again."""


class NonRetryableError(Exception):
    """Raise this in a step function to fail the step without another try."""


FINAL = (StepError, StepOutputError, DeadlineExceeded, NonRetryableError, *MISUSE)
"""Errors that end an execution if they leave its view: the next attempt would meet them
again."""


class RetryAfterError(Exception):
    """Raise this in a step function to delay its next try.

    :param seconds: how long to wait at least: seconds, a ``timedelta``, or the text of
        a ``Retry-After`` header, which has seconds or a date
    :param message: what happened, for the logs
    """

    def __init__(self, seconds: float | str | dt.timedelta, message: str = "") -> None:
        # Text is accepted: a TypeError here would be the step's, and the wait lost.
        number = _seconds(seconds) if isinstance(seconds, str) else seconds
        self.seconds = duration(number)
        super().__init__(message or f"try again in {self.seconds:g} s")


def _seconds(text: str) -> float:
    """Read a ``Retry-After`` header (RFC 9110, section 10.2.3).

    :raises ValueError: if it has neither seconds nor a date
    """
    date = parse_date(text)
    return float(text) if date is None else max(0.0, date.timestamp() - now())


class Suspended(BaseException):
    """Ends an attempt whose execution goes on later.

    :param wake_at: when to go on, in seconds since the epoch; infinite if something
        must wake it
    """

    def __init__(self, wake_at: float) -> None:
        self.wake_at = wake_at
        super().__init__("this attempt is suspended: let the exception pass")


class Cancelled(BaseException):
    """Ends an attempt at a step, because its execution was cancelled."""


class ProcessEnds(BaseException):
    """Ends an attempt whose process is about to end and gives no more threads."""


class LeaseLostError(BaseException):
    """Ends an attempt that may no longer write: another attempt took over."""


class JournalLostError(LeaseLostError):
    """Ends an attempt whose outcome could not be committed in time."""
