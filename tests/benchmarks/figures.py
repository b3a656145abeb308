"""Figures of many samples, as the tables show them."""

from __future__ import annotations

import collections.abc as cabc
import statistics


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
