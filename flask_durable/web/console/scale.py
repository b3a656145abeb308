"""The places of moments on a page's time axis."""

from __future__ import annotations

import bisect
import collections.abc as cabc

SQUEEZED = 0.3
"""How long a long pause is drawn, as a share of the time that attempts ran."""

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Scale:
    """A time axis on which long pauses are short, so that what ran can be seen.

    :param total: the seconds from the first moment to the last
    :param busy: when something ran, as pairs of seconds
    """

    def __init__(
        self, total: float, busy: cabc.Iterable[tuple[float, float]] = ()
    ) -> None:
        self.total = max(total, 0.001)
        merged = _merge(busy, self.total)
        ran = sum(end - begin for begin, end in merged)
        self.pauses: list[tuple[float, float]] = []
        """The pauses that look shorter than they were."""
        self._moments = [0.0]
        self._places = [0.0]
        at = 0.0

        for begin, end in [*merged, (self.total, self.total)]:
            self._add(begin, self._shown(at, begin, ran))
            self._add(end, end - begin)
            at = end

        self._width = self._places[-1] or 1.0

    def _shown(self, begin: float, end: float, ran: float) -> float:
        """Return how many seconds long a pause is drawn."""
        pause = end - begin

        if not ran or pause <= 2 * SQUEEZED * ran:
            return pause

        self.pauses.append((begin, end))
        return SQUEEZED * ran

    def _add(self, moment: float, width: float) -> None:
        if moment > self._moments[-1]:
            self._moments.append(moment)
            self._places.append(self._places[-1] + width)

    def place(self, moment: float) -> float:
        """Return the place of a moment, from 0 to 100."""
        moment = min(max(moment, 0.0), self.total)
        after = max(1, bisect.bisect_left(self._moments, moment))
        after = min(after, len(self._moments) - 1)
        begin, end = self._moments[after - 1], self._moments[after]
        share = (moment - begin) / (end - begin)
        low, high = self._places[after - 1], self._places[after]
        return 100 * (low + share * (high - low)) / self._width

    def ticks(self) -> list[tuple[float, float]]:
        """Return the places on the axis that are labelled, and their moments.

        Within a shortened pause there is none: its own label says how long it was.
        """
        found = [(100 * share, self._moment(share)) for share in TICKS]
        inner = [tick for tick in found[1:-1] if not self._is_passed_over(tick[1])]
        return [found[0], *inner, found[-1]]

    def _is_passed_over(self, moment: float) -> bool:
        return any(begin < moment < end for begin, end in self.pauses)

    def _moment(self, share: float) -> float:
        place = share * self._width
        after = max(1, bisect.bisect_left(self._places, place))
        after = min(after, len(self._places) - 1)
        low, high = self._places[after - 1], self._places[after]
        part = (place - low) / (high - low) if high > low else 1.0
        begin, end = self._moments[after - 1], self._moments[after]
        return begin + part * (end - begin)


def _merge(
    busy: cabc.Iterable[tuple[float, float]], total: float
) -> list[tuple[float, float]]:
    """Join stretches that overlap, in their order."""
    merged: list[tuple[float, float]] = []

    for begin, end in sorted(busy):
        begin, end = max(0.0, begin), min(end, total)

        if end < begin:
            continue

        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))

    return merged
