"""Counts and rates by endpoint over time, as a page draws them."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses

from ...listing import Count

BUCKETS = 60

GOOD = frozenset({"completed"})
BAD = frozenset({"failed", "cancelled"})


@dataclasses.dataclass(frozen=True)
class Column:
    """The column of one stretch of time, with heights from 0 to 100."""

    x: float
    width: float
    good: float
    bad: float
    other: float
    title: str


@dataclasses.dataclass(frozen=True)
class EndpointCounts:
    """What happened at an endpoint, or at all of them."""

    name: str
    total: int
    completed: int
    bad: int
    active: int
    a_minute: float
    failing: float | None
    """The share of ended executions that failed or were cancelled."""
    mean: float | None
    """How long ended executions took, in seconds."""
    longest: float | None
    columns: list[Column]


@dataclasses.dataclass
class _Tally:
    counts: list[Count]

    def of(self, statuses: cabc.Container[str]) -> int:
        return sum(c.count for c in self.counts if c.status in statuses)


def count_up(name: str, counts: list[Count], seconds: float) -> EndpointCounts:
    """Sum up counts of one endpoint, or of all.

    :param seconds: how long the window is
    """
    tally = _Tally(counts)
    total = sum(count.count for count in counts)
    good, bad = tally.of(GOOD), tally.of(BAD)
    ended = good + bad
    took = sum(count.seconds for count in counts)
    return EndpointCounts(
        name=name,
        total=total,
        completed=good,
        bad=bad,
        active=total - ended,
        a_minute=total * 60 / seconds,
        failing=bad / ended if ended else None,
        mean=took / ended if ended else None,
        longest=max((count.longest for count in counts), default=0.0) or None,
        columns=_columns(counts),
    )


def by_endpoint(counts: list[Count], seconds: float) -> list[EndpointCounts]:
    """Sum up endpoint by endpoint, the busiest first."""
    found: dict[str, list[Count]] = {}

    for count in counts:
        found.setdefault(count.endpoint, []).append(count)

    endpoints = [count_up(name, mine, seconds) for name, mine in found.items()]
    return sorted(endpoints, key=lambda endpoint: (-endpoint.total, endpoint.name))


def _columns(counts: list[Count]) -> list[Column]:
    buckets: dict[int, list[Count]] = {}

    for count in counts:
        place = min(max(count.bucket, 0), BUCKETS - 1)
        buckets.setdefault(place, []).append(count)

    sums = {place: sum(c.count for c in mine) for place, mine in buckets.items()}
    highest = max(sums.values(), default=1)
    return [
        _column(place, _Tally(mine), sums[place], highest)
        for place, mine in sorted(buckets.items())
    ]


def _column(place: int, tally: _Tally, total: int, highest: int) -> Column:
    good, bad = tally.of(GOOD), tally.of(BAD)
    other = total - good - bad
    share = 100 / highest
    return Column(
        x=round(place * 100 / BUCKETS, 3),
        width=round(80 / BUCKETS, 3),
        good=round(good * share, 2),
        bad=round(bad * share, 2),
        other=round(other * share, 2),
        title=f"{good} completed, {bad} failed or cancelled, {other} active",
    )
