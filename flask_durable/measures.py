"""What is measured of an app, by its signals, for any metrics library."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import typing as t

from blinker import NamedSignal
from flask import Flask

from .infos import ExecutionInfo
from .infos import StepInfo
from .names import plain_name
from .signals import execution_cancelled
from .signals import execution_completed
from .signals import execution_failed
from .signals import execution_started
from .signals import execution_suspended
from .signals import step_completed
from .signals import step_failed

MAX_STEPS = 100
"""Most names of steps that a process distinguishes; others are counted together."""

OTHER = "(other)"
"""The name under which those others are counted."""

BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86_400)
"""Upper bounds of the histograms' buckets, in seconds."""

Labels = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A counter, or, if its unit is seconds, a histogram."""

    name: str
    """Its words, with dots between them."""
    text: str
    labels: tuple[str, ...]
    unit: t.Literal["", "s"] = ""


OF_EXECUTION = ("endpoint", "role")
OF_STEP = (*OF_EXECUTION, "step")

EXECUTIONS = Metric(
    "executions", "Executions that have ended.", (*OF_EXECUTION, "outcome")
)
EXECUTION_DURATION = Metric(
    "execution.duration",
    "Time from the first request to the end.",
    (*OF_EXECUTION, "outcome"),
    "s",
)
ATTEMPTS = Metric("attempts", "Attempts that have begun.", OF_EXECUTION)
QUEUE_DELAY = Metric(
    "queue.delay",
    "Time from when an attempt was due until it began.",
    OF_EXECUTION,
    "s",
)
SUSPENSIONS = Metric(
    "suspensions", "Attempts that another one follows.", (*OF_EXECUTION, "reason")
)
RECOVERIES = Metric(
    "recoveries", "Attempts that were taken from a dead process.", OF_EXECUTION
)
STEPS = Metric("steps", "Steps that have an outcome.", (*OF_STEP, "outcome"))
STEP_DURATION = Metric(
    "step.duration",
    "Time from a step's first try to its outcome.",
    (*OF_STEP, "outcome"),
    "s",
)
STEP_RETRIES = Metric(
    "step.retries", "Tries of steps beyond the first, counted at the outcome.", OF_STEP
)

METRICS = (
    EXECUTIONS,
    EXECUTION_DURATION,
    ATTEMPTS,
    QUEUE_DELAY,
    SUSPENSIONS,
    RECOVERIES,
    STEPS,
    STEP_DURATION,
    STEP_RETRIES,
)

Record = cabc.Callable[[Metric, Labels, float], None]
"""Adds to a counter, or notes seconds; the labels are those of the metric."""


class Measures:
    """Receives an app's signals, as long as this object lives."""

    def __init__(self, app: Flask, record: Record) -> None:
        self._record = record
        self._steps: set[str] = set()
        receivers: list[tuple[NamedSignal, cabc.Callable[..., None]]] = [
            (execution_started, self._started),
            (execution_suspended, self._suspended),
            (execution_completed, self._ended),
            (execution_failed, self._ended),
            (execution_cancelled, self._ended),
            (step_completed, self._step_ended),
            (step_failed, self._step_ended),
        ]

        for signal, receiver in receivers:
            signal.connect(receiver, app)

    def _started(
        self, app: Flask, execution: ExecutionInfo, delay: float | None
    ) -> None:
        labels = _labels(execution)
        self._record(ATTEMPTS, labels, 1)

        if delay is not None:
            self._record(QUEUE_DELAY, labels, delay)

    def _suspended(self, app: Flask, execution: ExecutionInfo, reason: str) -> None:
        labels = _labels(execution)

        if reason == "crash":
            self._record(RECOVERIES, labels, 1)
        else:
            self._record(SUSPENSIONS, labels | {"reason": reason}, 1)

    def _ended(self, app: Flask, execution: ExecutionInfo, duration: float) -> None:
        labels = _labels(execution) | {"outcome": execution.status}
        self._record(EXECUTIONS, labels, 1)
        self._record(EXECUTION_DURATION, labels, duration)

    def _step_ended(
        self, app: Flask, execution: ExecutionInfo, step: StepInfo, duration: float
    ) -> None:
        labels = _labels(execution) | {"step": self._name(step)}
        outcome = labels | {"outcome": step.status}
        self._record(STEPS, outcome, 1)
        self._record(STEP_DURATION, outcome, duration)

        if step.tries > 1:
            self._record(STEP_RETRIES, labels, step.tries - 1)

    def _name(self, step: StepInfo) -> str:
        name = plain_name(step.id)

        if name not in self._steps:
            if len(self._steps) >= MAX_STEPS:
                return OTHER

            self._steps.add(name)

        return name


def _labels(execution: ExecutionInfo) -> Labels:
    return {"endpoint": execution.endpoint, "role": execution.role}
