"""Figures of many samples, as the tables show them."""

from __future__ import annotations

import collections.abc as cabc
import csv
import dataclasses
import pathlib
import statistics

HEADER = ["Measure", "Database", "Ours", "Against", "Ratio (least to most)", "Goal"]


def percentile(samples: cabc.Sequence[float], share: float) -> float:
    """Give the sample that this share of all is not over: 0.5 is the median."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def in_milliseconds(samples: cabc.Sequence[float]) -> str:
    """Describe durations in seconds: least, median, p99 and most."""
    values = (
        min(samples),
        statistics.median(samples),
        percentile(samples, 0.99),
        max(samples),
    )
    names = ("min", "p50", "p99", "max")
    parts = (
        f"{name} {value * 1000:8.1f}" for name, value in zip(names, values, strict=True)
    )
    return f"{'  '.join(parts)}  ms, n = {len(samples)}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One measure of ours and of another, taken in turns in one run.

    :param ours: a sample a round
    :param theirs: the other's samples of the same rounds
    :param unit: of the samples, such as ``/s`` or ``ms``
    :param goal: what ours divided by theirs is to reach, if anything
    :param at_least: whether the goal is the least of it, else the most
    """

    measure: str
    database: str
    other: str
    ours: list[float]
    theirs: list[float]
    unit: str
    goal: float | None = None
    at_least: bool = True

    @property
    def ratios(self) -> list[float]:
        """Ours divided by theirs, round by round."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)

    @property
    def is_reached(self) -> bool:
        """Tell whether the goal is reached."""
        return self.score >= 1

    @property
    def score(self) -> float:
        """How many times the goal is reached."""
        assert self.goal is not None
        ratio = max(self.ratio, 0.001)
        return ratio / self.goal if self.at_least else self.goal / ratio

    @property
    def sign(self) -> str:
        """Give the goal's sign."""
        return "≥" if self.at_least else "≤"

    def __str__(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        return (
            f"{self.measure:34} {self.database:10}"
            f" {statistics.median(self.ours):9.2f} {self.unit:6}"
            f" {self.other:14} {statistics.median(self.theirs):9.2f} {self.unit:6}"
            f" ratio {self.ratio:6.2f} ({low:.2f} to {high:.2f})"
            f"{self._verdict()}"
        )

    def row(self) -> list[str]:
        """Give the cells of a table's row, as :data:`HEADER` names them."""
        number, _, unit = self.other.partition(" ")
        # What is not measured against another is so against a unit, such as "1 ms".
        alone = number.isdigit()
        goal = "--"

        if self.goal is not None:
            most = (
                f"{self.goal * int(number):g} {unit}" if alone else f"{self.goal:.3g}"
            )
            goal = f"{self.sign} {most}, {'yes' if self.is_reached else '**no**'}"

        ours, theirs = map(statistics.median, (self.ours, self.theirs))
        low, high = min(self.ratios), max(self.ratios)
        ratio = f"{self.ratio:.2f} ({low:.2f} to {high:.2f})"
        return [
            self.measure,
            self.database,
            f"{_short(ours)} {self.unit}",
            "--" if alone else f"{self.other}: {_short(theirs)} {self.unit}",
            "--" if alone else ratio,
            goal,
        ]

    def _verdict(self) -> str:
        if self.goal is None:
            return ""

        return f" {self.sign} {self.goal:g} {'yes' if self.is_reached else 'NO'}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_table(comparisons: cabc.Iterable[Comparison], path: pathlib.Path) -> None:
    """Write a table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(each.row() for each in comparisons)


def shown(comparisons: cabc.Iterable[Comparison]) -> list[Comparison]:
    """Print each as soon as it is there, and give them all."""
    found = []

    for comparison in comparisons:
        print(comparison, flush=True)
        found.append(comparison)

    return found
