"""What operators and failure handlers are told of executions."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt

from .records import Execution
from .records import ExecutionStatus
from .records import Failure
from .records import StepRecord
from .records import StepStatus


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """A step, as the journal has it; times are in UTC."""

    id: str
    kind: str
    status: StepStatus
    tries: int
    started_at: dt.datetime
    finished_at: dt.datetime | None
    wake_at: dt.datetime | None
    error_type: str | None
    error_message: str | None = None


@dataclasses.dataclass(frozen=True)
class ExecutionInfo:
    """An execution, as the journal has it; times are in UTC."""

    id: str
    endpoint: str
    status: ExecutionStatus
    attempt: int
    role: str
    """``view``, or ``on_failure`` for what follows the failure of its parent."""
    parent_id: str | None
    created_at: dt.datetime
    finished_at: dt.datetime | None
    ready_at: dt.datetime | None
    """When the next attempt may begin, or, of a running one, the lease's end."""
    error_type: str | None
    error_message: str | None
    cancel_requested: bool
    rejections: int
    """How many replays for the next attempt did not reach the view."""
    refusals: int
    """How many of them the app turned away: after ten it fails."""
    steps: tuple[StepInfo, ...] = ()
    """In the order of their first calls; empty in lists."""


def execution_info(
    execution: Execution, steps: cabc.Iterable[StepRecord] = ()
) -> ExecutionInfo:
    """Describe an execution."""
    failure = Failure.decode(execution.error) if execution.error else None
    return ExecutionInfo(
        id=execution.id,
        endpoint=execution.endpoint,
        status=execution.status,
        attempt=execution.attempt,
        role=execution.role,
        parent_id=execution.parent_id,
        created_at=_time(execution.created_at),
        finished_at=_optional(execution.finished_at),
        ready_at=_optional(execution.ready_at),
        error_type=failure.type if failure else None,
        error_message=failure.message if failure else None,
        cancel_requested=bool(execution.cancel_requested),
        rejections=execution.rejections,
        refusals=execution.refusals,
        steps=tuple(map(step_info, steps)),
    )


def step_info(step: StepRecord) -> StepInfo:
    """Describe a step."""
    # A step that succeeded in the end keeps its failed tries, without an error_type.
    failure = Failure.decode(step.error) if step.error and step.error_type else None
    return StepInfo(
        id=step.id,
        kind=step.kind,
        status=step.status,
        tries=step.tries,
        started_at=_time(step.started_at),
        finished_at=_optional(step.finished_at),
        wake_at=_optional(step.wake_at),
        error_type=step.error_type,
        error_message=failure.message if failure else None,
    )


def _time(moment: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(moment, dt.UTC)


def _optional(moment: float | None) -> dt.datetime | None:
    return None if moment is None else _time(moment)
