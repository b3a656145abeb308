"""What came of a run of the laboratory, and whether it is as it must be."""

from __future__ import annotations

import dataclasses
import typing as t

from .crash_shapes import Calls
from .crash_shapes import Shape

When = t.Literal["before", "after"]


@dataclasses.dataclass(frozen=True)
class Kill:
    """Where a process is killed, if it comes so far."""

    when: When
    statement: int
    """Its number among those that the process sends, from 1."""


@dataclasses.dataclass
class Report:
    """What came of one run, and of the kills in it, as far as it came to them."""

    shape: str
    plan: list[Kill]
    takeover: str
    """How the second process found what the first had left, if it was killed, too."""
    texts: list[str]
    """The statements of the kills that there were."""
    ends: list[str]
    """Each execution's role or endpoint, and its status."""
    answers: list[t.Any]
    called: int
    """How many functions of steps had been called at the last kill."""
    calls: dict[str, int]
    again: list[str]
    """Calls of steps that had an outcome at a kill."""
    counts: dict[str, int]

    @property
    def killed(self) -> bool:
        """Whether it came to all kills."""
        return len(self.texts) == len(self.plan)


def problems(report: Report, shape: type[Shape]) -> list[str]:
    """Say what is not as it must be after some kills."""
    if was_lost(report, shape):
        return []

    kills = len(report.texts)
    limits = {name: allowed(shape.calls[name], kills) for name in shape.calls}
    calls = {name: report.calls.get(name, 0) for name in limits}
    counts = {"orphans": 0, "rows": 0} | shape.counts
    # Who recovers runs views, whatever it was that died first.
    in_flight = (0, shape.in_flight, shape.in_flight + max(1, shape.in_flight))[kills]
    wrong = {
        "ends": report.ends != shape.ends,
        "answers": any(answer not in shape.answers for answer in report.answers),
        "calls": any(not within(calls[name], limits[name]) for name in calls),
        "unknown steps": not report.calls.keys() <= limits.keys(),
        "more than were in flight": repeated(calls, limits) > in_flight,
        "recorded ones again": bool(report.again),
        "counts": not report.counts.items() >= counts.items(),
    }
    return [what for what in wrong if wrong[what]]


def was_lost(report: Report, shape: type[Shape]) -> bool:
    """Tell whether nothing was stored yet, so that nothing had to be done."""
    lost = report.texts and report.plan[0].statement == 1 and not report.ends
    return bool(lost) and shape.may_be_lost and not report.calls


def allowed(limits: Calls, kills: int) -> Calls:
    """Give how often a step may be called: what a kill repeats, each one does."""
    least, most = limits
    repeats = max(0, most - max(1, least))
    return least, most + repeats * max(0, kills - 1)


def repeated(calls: dict[str, int], limits: dict[str, Calls]) -> int:
    """Count the calls that there would not have been without a kill."""
    return sum(calls[name] - max(1, limits[name][0]) for name in calls if calls[name])


def within(value: int, limits: Calls) -> bool:
    """Tell whether a number is within two others."""
    return limits[0] <= value <= limits[1]
