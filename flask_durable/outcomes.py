"""The outcome of a step, as later attempts get it from the journal."""

from __future__ import annotations

import typing as t

from werkzeug.exceptions import HTTPException

from .attempt import Attempt
from .errors import StepError
from .errors import StepInterruptedError
from .errors import StepOutputError
from .errors import StoredValueError
from .errors import WaitTimeoutError
from .httperrors import http_error
from .records import class_name
from .records import Failure
from .records import StepRecord
from .scope import Scope
from .unstorable import Undecodable

OUTPUT_ERROR = class_name(StepOutputError)
TIMEOUT_ERROR = class_name(WaitTimeoutError)
INTERRUPTED_ERROR = class_name(StepInterruptedError)

_OWN_ERRORS = {TIMEOUT_ERROR: WaitTimeoutError, INTERRUPTED_ERROR: StepInterruptedError}


def replay_outcome(scope: Scope, step: StepRecord) -> t.Any:
    """Return what a step returned, or raise what it raised.

    :raises StoredValueError: if the stored value can't be rebuilt
    """
    if step.status == "completed":
        return stored_value(scope.attempt, step.id, step.output or b"null")

    failure = Failure.decode(step.error or b"{}")

    if failure.http is not None:
        raise stored_http_error(scope.attempt, step.id, failure)

    if step.error_type == OUTPUT_ERROR:
        raise StepOutputError(failure.message)

    cls = _OWN_ERRORS.get(failure.type, StepError)
    raise cls(step.id, step.tries, failure.type, failure.message)


def stored_value(attempt: Attempt, step_id: str, output: bytes) -> t.Any:
    """Rebuild the value that a step returned.

    :raises StoredValueError: if that fails
    """
    try:
        return attempt.state.codec.decode(output)
    except Undecodable as error:
        raise stored_error(attempt, step_id, error) from error.__cause__


def stored_http_error(
    attempt: Attempt, step_id: str, failure: Failure
) -> HTTPException:
    """Rebuild the HTTP error that a step raised.

    :raises StoredValueError: if one of its attributes can't be rebuilt
    """
    try:
        return http_error(failure, attempt.state.codec)
    except Undecodable as error:
        raise stored_error(attempt, step_id, error) from error.__cause__


def stored_error(attempt: Attempt, step_id: str, why: Undecodable) -> StoredValueError:
    """Make an error that names the step whose stored value can't be rebuilt."""
    return StoredValueError(f'Step "{step_id}" of execution {attempt.id} has {why}')
