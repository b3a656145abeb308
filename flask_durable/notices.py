"""Sends the signals, each after the commit that it tells of."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import logging
import typing as t
import weakref

from blinker import NamedSignal
from flask import Flask

from .awaiting import resolve
from .infos import execution_info
from .infos import step_info
from .records import Execution
from .records import ExecutionStatus
from .records import StepRecord
from .signals import execution_cancelled
from .signals import execution_completed
from .signals import execution_failed
from .signals import execution_started
from .signals import execution_suspended
from .signals import step_completed
from .signals import step_failed

logger = logging.getLogger(__name__)

Reason = t.Literal["step", "error", "crash", "stop"]
"""Why an attempt was not the last: a step waits or is tried again later, the view
raised outside of its steps, the process died, or it stopped in an orderly way."""

Values = dict[str, t.Any]

ENDS = {
    "completed": execution_completed,
    "failed": execution_failed,
    "cancelled": execution_cancelled,
}


class Notices:
    """Sends the signals of one app; without receivers that costs nothing.

    Without an app nothing is sent. A receiver's error is logged and goes no further.
    """

    def __init__(self, app: weakref.ref[Flask] | None = None) -> None:
        self._app = app

    def started(self, execution: Execution, due_at: float | None) -> None:
        """Tell that an attempt has begun.

        :param due_at: since when it was due; ``None`` if a client's request began it
        """
        if execution_started.receivers:

            def values() -> Values:
                delay = queue_delay(execution, due_at)
                return {"execution": execution_info(execution), "delay": delay}

            self._send(execution_started, values)

    def suspended(
        self, reason: Reason, execution: cabc.Callable[[], Execution], **changed: t.Any
    ) -> None:
        """Tell that an attempt has ended, and another one will follow.

        :param execution: returns the execution as it was before
        :param changed: the fields that have changed, with their new values
        """
        if execution_suspended.receivers:

            def values() -> Values:
                info = _changed(execution(), status="suspended", **changed)
                return {"execution": execution_info(info), "reason": reason}

            self._send(execution_suspended, values)

    def ended(
        self,
        execution: Execution,
        status: ExecutionStatus,
        error: bytes | None,
        now: cabc.Callable[[], float] | None = None,
    ) -> None:
        """Tell that an execution has ended.

        :param execution: as it was before
        :param now: returns the time of the end, else it is when the execution was read
        """
        if (signal := ENDS[status]).receivers:

            def values() -> Values:
                at = max(now() if now else execution.now, execution.created_at)
                info = _changed(
                    execution, status=status, error=error, finished_at=at, ready_at=None
                )
                duration = at - execution.created_at
                return {"execution": execution_info(info), "duration": duration}

            self._send(signal, values)

    def step_ended(self, execution: Execution, step: StepRecord) -> None:
        """Tell that a step's outcome is stored."""
        signal = step_completed if step.status == "completed" else step_failed

        if signal.receivers:

            def values() -> Values:
                finished_at = step.finished_at or step.started_at
                return {
                    "execution": execution_info(execution),
                    "step": step_info(step),
                    "duration": max(0.0, finished_at - step.started_at),
                }

            self._send(signal, values)

    def _send(self, signal: NamedSignal, values: cabc.Callable[[], Values]) -> None:
        app = self._app and self._app()

        if app is None or signal.is_muted:
            return

        receivers = list(signal.receivers_for(app))

        try:
            given = values() if receivers else {}
        except Exception as error:
            logger.warning("The signal %s was not sent: %s", signal.name, error)
            return

        for receiver in receivers:
            try:
                resolve(receiver(app, **given))
            except Exception:
                logger.exception(
                    "A receiver of the signal %s failed: %r.", signal.name, receiver
                )


def queue_delay(execution: Execution, due_at: float | None) -> float | None:
    """Return for how many seconds an attempt that begins now has been due."""
    return None if due_at is None else max(0.0, execution.now - due_at)


def _changed(execution: Execution, **values: t.Any) -> Execution:
    return dataclasses.replace(execution, **values)
