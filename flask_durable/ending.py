"""How an attempt ends: committed once, and its lease given back."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import typing as t

from .attempt import Attempt
from .records import ExecutionStatus
from .records import ResponseRecord
from .records import StepRecord
from .sending import Inside
from .state import State
from .watchers import watchers

logger = logging.getLogger(__name__)

SUSPENDED = "is suspended for %.1f s"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an execution ends once Flask has made the error's response."""

    status: ExecutionStatus
    error: bytes | None = None


class Ending:
    """Ends one attempt: finished, suspended, or abandoned."""

    def __init__(self, state: State, attempt: Attempt, inside: Inside | None) -> None:
        self._state = state
        self._attempt = attempt
        self._inside = inside
        self.done = False

    @property
    def is_forked(self) -> bool:
        """Tell whether this is a child of the process that runs the attempt."""
        return self._attempt.lease.pid != os.getpid()

    def finish(
        self,
        status: ExecutionStatus,
        response: ResponseRecord | None,
        error: bytes | None = None,
    ) -> None:
        """Commit the end of the execution."""
        self._check_lost()
        attempt = self._attempt
        execution = attempt.execution
        follow_up = self._state.follow_ups if self._is_followed(status) else None
        parent = (execution.parent_id, execution.parent_step)
        self._state.store.finish(
            attempt.id, attempt.attempt, status, response, error, follow_up, parent
        )
        self.end(status)
        self._log(f"is {status}" if status == "cancelled" else status)

        if follow_up is not None:
            self._state.wake(0.0)

        self._state.notices.ended(execution, status, error, attempt.now)

    def _is_followed(self, status: ExecutionStatus) -> bool:
        """Tell whether something follows the end, to be committed with it."""
        execution = self._attempt.execution

        if execution.role != "view":
            return False

        after_failure = execution.on_failure and status in ("failed", "cancelled")
        return bool(after_failure or execution.parent_id is not None)

    def suspend(
        self,
        ready_at: float,
        mark: StepRecord | None,
        errors: int,
        failure: bytes | None,
    ) -> None:
        """Commit that the next attempt is to begin at a given time."""
        self._check_lost()
        attempt = self._attempt
        self._state.store.suspend(
            attempt.id,
            attempt.attempt,
            ready_at,
            mark,
            errors,
            failure,
            attempt.execution.wakes,
            attempt.waits.values(),
        )
        self.end("suspended")
        delay = ready_at - attempt.now()
        # What it waits for may have come in the meantime.
        self._state.wake(0.0 if attempt.waits else delay)
        what = "is suspended until it is woken" if math.isinf(delay) else SUSPENDED
        self._log(what, *() if math.isinf(delay) else (max(0.0, delay),))
        self._state.notices.suspended(
            "error" if failure else "step",
            lambda: attempt.execution,
            ready_at=None if math.isinf(ready_at) else ready_at,
            error=failure,
        )

    def end(self, status: ExecutionStatus | None = None) -> None:
        """Stop renewing the lease, since the row says that the attempt is over.

        :param status: the row's status, if it is known
        """
        self.done = True

        if self._inside is not None:
            self._inside.status = status

        self._state.heartbeat.end(self._attempt.lease)
        watchers.tell(self._attempt.id)

    def abandon(self, crashed: bool = True) -> None:
        """Hand the attempt's lease back, unless the attempt has ended otherwise."""
        if not self.done and not self.is_forked:
            self.done = True
            crashed = crashed and not self._state.leaves
            self._state.heartbeat.abandon(self._attempt.lease, crashed)

    def leave(self, error: BaseException) -> None:
        """Hand the lease back after a ``BaseException``, such as an exit."""
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            logger.warning(
                "%r left the view in attempt %d of execution %s, and is treated as the"
                " end of its process.",
                error,
                self._attempt.attempt,
                self._attempt.id,
            )

        self.abandon()

    def _check_lost(self) -> None:
        """Refuse to write if a step's outcome could not be committed before."""
        if self._attempt.lost is not None:
            raise self._attempt.lost

    def _log(self, what: str, *values: t.Any) -> None:
        attempt = self._attempt
        message = f"Execution %s {what} in attempt %d."
        logger.info(message, attempt.id, *values, attempt.attempt)
