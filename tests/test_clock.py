"""Times and durations."""

from __future__ import annotations

import datetime as dt
import math
import time

import pytest

from flask_durable import clock


def test_now_is_the_time_of_day() -> None:
    """Seconds since the epoch."""
    assert clock.now() == pytest.approx(time.time(), abs=5)


def test_the_boot_clock_never_goes_back() -> None:
    """Leases are measured by it."""
    moments = [clock.boottime() for _ in range(100)]
    assert moments == sorted(moments)


def test_the_boot_clock_is_monotonic_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS, whose Python has no CLOCK_BOOTTIME."""
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert clock._boot_clock() == time.CLOCK_MONOTONIC


def test_a_negative_sleep_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is over already, and ``time.sleep`` would raise."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    clock.sleep(-1)
    clock.sleep(0.5)
    assert slept == [0.0, 0.5]


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00.000Z"),
        (1_772_368_215.1239, "2026-03-01T12:30:15.123Z"),
        (-1.5, "1969-12-31T23:59:58.500Z"),
    ],
)
def test_a_moment_is_written_in_utc(moment: float | None, text: str | None) -> None:
    """With milliseconds, always."""
    assert clock.isoformat(moment) == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(3, 3.0), (0.25, 0.25), (-1, -1.0), (dt.timedelta(minutes=2), 120.0)],
)
def test_a_duration_is_seconds_or_a_timedelta(
    value: float | dt.timedelta, seconds: float
) -> None:
    """Both are given back as a number of seconds."""
    found = clock.duration(value)
    assert (found, type(found)) == (seconds, float)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, dt.timedelta.max])
def test_a_duration_beyond_all_measure_is_refused(value: float | dt.timedelta) -> None:
    """No database and no calendar could hold the wake time."""
    with pytest.raises(ValueError, match="at most a hundred years"):
        clock.duration(value)


def test_the_longest_duration_is_taken() -> None:
    """A hundred years are allowed."""
    assert clock.duration(clock.LONGEST) == clock.LONGEST
