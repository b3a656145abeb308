"""One execution as a waterfall: its attempts, and under them its steps."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import itertools
import math

from ...history import ENDED
from ...history import Span
from ...records import Execution
from ...records import Failure
from ...records import StepRecord
from .scale import Scale
from .wording import duration

THIN = 0.6
"""The narrowest bar, in hundredths of the axis."""

PASSIVE = frozenset({"sleep", "event", "callback", "invoke"})
"""Kinds of steps that only wait."""

UNSETTLED = frozenset({"running", "retrying", "sleeping", "waiting"})

HOW = {"s": "suspended", "l": "its process ended", "e": "ended", "": "running"}


@dataclasses.dataclass(frozen=True)
class Bar:
    """A stretch of time."""

    kind: str
    """``run``, ``wait``, ``fail`` or ``done``."""
    x: float
    width: float
    title: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A step and its bars."""

    step: StepRecord
    bars: list[Bar]
    seconds: float | None
    error: str = ""
    """The message of its last failure."""
    failed: int = 0
    """How many tries failed, as far as is known."""
    is_kept: bool = False
    """Whether it was taken over from the execution that this is a rerun of."""
    group: int = 0
    """A number that neighbours share which ran at once; 0 for a step alone."""
    child: str | None = None
    """The execution that it began."""


@dataclasses.dataclass(frozen=True)
class AttemptBar:
    """An attempt and its bar."""

    number: int
    bar: Bar
    begun: float
    seconds: float
    how: str


@dataclasses.dataclass(frozen=True)
class Waterfall:
    """What a page draws."""

    attempts: list[AttemptBar]
    lines: list[Line]
    ticks: list[tuple[float, str]]
    pauses: list[tuple[float, float, str]]
    """Where waiting looks shorter than it was: place, width and how long."""
    hidden: int
    """Older attempts that are not known any more."""


class Drawing:
    """Makes the waterfall of an execution.

    :param spans: its attempts
    :param failures: how the tries of steps failed, by their names
    :param children: the executions that steps began, by their names
    """

    def __init__(
        self,
        execution: Execution,
        spans: cabc.Sequence[Span],
        steps: cabc.Sequence[StepRecord],
        failures: cabc.Mapping[str, Failure],
        children: cabc.Mapping[str, str],
    ) -> None:
        self._origin = execution.created_at
        self._total = max(0.0, (execution.finished_at or execution.now) - self._origin)
        self._failed = execution.status == "failed"
        self._spans = spans
        self._steps = steps
        self._failures = failures
        self._children = children
        self._attempt = execution.attempt
        busy = [(span.begun, self._end(span)) for span in spans]
        self._scale = Scale(self._total, busy)

    def draw(self) -> Waterfall:
        """Return all that there is to draw."""
        lines = [self._line(step) for step in self._steps]
        scale = self._scale
        return Waterfall(
            attempts=[self._attempt_bar(span) for span in self._spans],
            lines=_group(lines, self._origin),
            ticks=[(place, duration(moment)) for place, moment in scale.ticks()],
            pauses=[
                (
                    scale.place(begin),
                    scale.place(end) - scale.place(begin),
                    duration(end - begin),
                )
                for begin, end in scale.pauses
            ],
            hidden=max(0, self._attempt - len(self._spans)),
        )

    def _end(self, span: Span) -> float:
        return self._total if span.ended is None else span.ended

    def _bar(self, kind: str, begin: float, end: float, what: str) -> Bar:
        x = min(self._scale.place(begin), 100 - THIN)
        width = max(THIN, self._scale.place(end) - x)
        return Bar(
            kind, round(x, 3), round(width, 3), f"{what} {duration(end - begin)}"
        )

    def _attempt_bar(self, span: Span) -> AttemptBar:
        end = self._end(span)
        last = span.number == self._attempt
        # If an ended execution went on, it had failed: no others are resumed.
        fails = self._failed if last else span.how == ENDED
        kind = "fail" if fails else {"l": "fail", "": "run"}.get(span.how, "done")
        how = "failed" if fails and span.how == ENDED else HOW[span.how]
        bar = self._bar(kind, span.begun, end, f"Attempt {span.number}, {how}:")
        return AttemptBar(span.number, bar, span.begun, end - span.begun, how)

    def _line(self, step: StepRecord) -> Line:
        begin = step.started_at - self._origin
        failure = self._failures.get(step.id)
        child = self._children.get(step.id)
        settled = step.finished_at is not None
        end = (step.finished_at or math.inf) - self._origin
        kept = settled and end <= 0
        error = failure.message if failure else ""
        failed = sum(1 for _, _, kind in failure.tries if kind) if failure else 0

        if kept:
            seconds = end - begin
            return Line(step, [], seconds, error, failed, is_kept=True, child=child)

        end = min(end, self._total)
        begin = min(max(0.0, begin), end)
        bars = list(self._bars(step, begin, end, failure))
        return Line(step, bars, end - begin, error, failed, child=child)

    def _bars(
        self, step: StepRecord, begin: float, end: float, failure: Failure | None
    ) -> cabc.Iterator[Bar]:
        if step.kind in PASSIVE:
            yield self._bar("wait", begin, end, "Waited")
            return

        at = begin

        for since, until, error in failure.tries if failure else ():
            first, last = begin + since, begin + until

            if first > at + 0.001:
                yield self._bar("wait", at, first, "Waited")

            kind, what = ("fail", f"{error},") if error else ("done", "Ran")
            yield self._bar(kind, first, last, what)
            at = last

        # The last try of a step that is done led to its outcome.
        if at == begin or step.finished_at is None:
            yield from self._rest(step, at, end)

    def _rest(self, step: StepRecord, begin: float, end: float) -> cabc.Iterator[Bar]:
        """Tell from the attempts when a step ran and when it waited."""
        runs = _run_kind(step.status)
        at = begin

        if step.status == "retrying":
            yield self._bar("wait", begin, end, "Waits for its next try:")
            return

        for span in self._spans:
            first, last = max(span.begun, at), min(self._end(span), end)

            if last < first or self._end(span) <= begin < end:
                continue

            if first > at + 0.001:
                yield self._bar("wait", at, first, "Waited")

            yield self._bar(runs, first, last, "Ran")
            at = last

        if not self._spans:
            yield self._bar(runs, begin, end, "Ran")
        elif at < end - 0.001:
            yield self._bar("wait", at, end, "Waited")


def _run_kind(status: str) -> str:
    if status in UNSETTLED:
        return "run"

    return "done" if status == "completed" else "fail"


def _group(lines: list[Line], origin: float) -> list[Line]:
    """Number the neighbours that ran at once."""
    numbers = itertools.count(1)
    groups: list[list[Line]] = []
    until = -math.inf

    for line in lines:
        step = line.step
        end = math.inf if step.finished_at is None else step.finished_at

        if groups and not line.is_kept and step.started_at < until - 0.0005:
            groups[-1].append(line)
        else:
            groups.append([line])
            until = -math.inf

        until = until if line.is_kept else max(until, end)

    return [
        dataclasses.replace(line, group=number)
        for group in groups
        for number in [next(numbers) if len(group) > 1 else 0]
        for line in group
    ]
