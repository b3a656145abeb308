"""A run's report, as text."""

from __future__ import annotations

import collections
import collections.abc as cabc
import dataclasses
import itertools

from .checks import Evidence
from .checks import killer
from .checks import Repeat
from .checks import repeats
from .checks import violations
from .monkey import Monkey
from .outages import Outage
from .shapes import SHAPES


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a run.

    :param settled: seconds from the monkey's end until nothing was under way
    """

    seconds: float
    settled: float
    evidence: Evidence
    monkey: Monkey

    @property
    def violations(self) -> list[str]:
        """List everything that must not be."""
        return violations(self.evidence)

    def text(self) -> str:
        """Tell what happened, and what must not have."""
        found = self.violations
        parts = [
            self._head(),
            self._executions(),
            self._blows(),
            self._calls(),
            [f"violations: {len(found)}", *(f"  {line}" for line in found)],
        ]
        return "\n".join(itertools.chain.from_iterable([*part, ""] for part in parts))

    def _head(self) -> list[str]:
        answers = collections.Counter(
            "broken" if answer.code is None else str(answer.code)
            for answer in self.evidence.answers
            if answer.asked == "post"
        )
        finals = sum(one.asked == "final" for one in self.evidence.answers)
        polls = sum(one.asked == "poll" for one in self.evidence.answers)
        return [
            f"chaos with seed {self.monkey.seed}: {self.seconds:g} s,"
            f" and {self.settled:.1f} s until all had ended",
            f"orders sent: {_counted(answers)}",
            f"links followed: {polls} on the way, {finals} at the end",
        ]

    def _executions(self) -> list[str]:
        rows = self.evidence.executions
        lines = [
            f"executions: {len(rows)}, in {sum(row.attempt for row in rows)} attempts",
            "  shape          completed  failed  other  p50 s  p99 s",
        ]

        for shape in [*SHAPES, ""]:
            mine = [row for row in rows if shape in ("", row.shape)]
            count = collections.Counter(row.status for row in mine)
            done, failed = count.pop("completed", 0), count.pop("failed", 0)
            times = sorted(
                row.finished_at - row.created_at
                for row in mine
                if row.finished_at is not None
            )
            lines.append(
                f"  {shape or 'all':14} {done:9} {failed:7} {count.total():6}"
                f" {percentile(times, 50):6.2f} {percentile(times, 99):6.2f}"
            )

        return lines

    def _blows(self) -> list[str]:
        kills = collections.Counter(kill.kind for kill in self.monkey.kills)
        lines = [f"kills: {kills.total()}"]
        lines += [f"  {kind:20} {count:4}" for kind, count in sorted(kills.items())]
        by_kind: dict[str, list[Outage]] = collections.defaultdict(list)

        for outage in self.monkey.outages:
            by_kind[outage.kind].append(outage)

        lines.append("away, with restart:")

        for kind, outages in sorted(by_kind.items()):
            longest = max(one.ended - one.began for one in outages)
            lines.append(f"  {kind:20} {len(outages):4}, up to {longest:.1f} s")

        return lines

    def _calls(self) -> list[str]:
        calls = self.evidence.calls
        again = list(repeats(calls))
        returned = sum(one.call.how == "returned" for one in again)
        raised = sum(one.call.how == "raised" for one in again)
        times = sorted(self._resumes(again))
        alone = self._longest_alone(again)
        return [
            f"calls of step functions: {len(calls)}",
            f"  called again after a kill: {len(again)}, of which {returned} had"
            f" returned and {raised} had raised",
            f"  from kill to the call again: p50 {percentile(times, 50):.2f} s,"
            f" longest {percentile(times, 100):.2f} s",
            f"  longest where nothing else was away: {alone:.2f} s",
        ]

    def _resumes(self, again: cabc.Iterable[Repeat]) -> cabc.Iterator[float]:
        for one in again:
            kill = killer(one.call, one.again.began, self.monkey.kills)

            if kill is not None:
                yield one.again.began - kill.after

    def _longest_alone(self, again: cabc.Iterable[Repeat]) -> float:
        """Give the longest of those that met no outage on their way."""
        alone = [
            one
            for one in again
            if not any(
                outage.began <= one.again.began and one.call.began <= outage.ended
                for outage in self.monkey.outages
            )
        ]
        return max(self._resumes(alone), default=0.0)


def percentile(values: cabc.Sequence[float], share: float) -> float:
    """Give the value below which so many percent of sorted values are."""
    if not values:
        return 0.0

    return values[min(len(values) - 1, int(len(values) * share / 100))]


def _counted(counter: collections.Counter[str]) -> str:
    parts = ", ".join(f"{name}: {count}" for name, count in sorted(counter.items()))
    return f"{counter.total()} ({parts})"
