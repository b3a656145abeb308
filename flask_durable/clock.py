"""The process's clocks; wake times are decided by the database's clock."""

from __future__ import annotations

import datetime as dt
import functools
import time


def _boot_clock() -> int:
    return getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


_BOOT_CLOCK = _boot_clock()


def now() -> float:
    """Return the time in seconds since the epoch, by this machine's clock."""
    return time.time()


boottime = functools.partial(time.clock_gettime, _BOOT_CLOCK)
"""Return the seconds of a clock that never jumps and runs while the machine sleeps."""


def sleep(seconds: float) -> None:
    """Block this thread for so many seconds."""
    time.sleep(max(0.0, seconds))


def isoformat(moment: float | None) -> str | None:
    """Format seconds since the epoch as ISO 8601 in UTC, to milliseconds."""
    if moment is None:
        return None

    value = dt.datetime.fromtimestamp(moment, dt.UTC)
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


LONGEST = 100 * 366 * 86_400.0
"""The longest duration, in seconds: a hundred years."""


def duration(value: float | dt.timedelta) -> float:
    """Convert a duration, a number of seconds or a ``timedelta``, to seconds.

    :raises TypeError: if it is neither
    :raises ValueError: if it is NaN, or over a hundred years
    """
    if isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
    else:
        # float() takes strings too, but here one would be a mistake.
        if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
            raise TypeError(f"A duration is seconds or a timedelta, not {value!r:.80}.")

        seconds = float(value)

    if not -LONGEST <= seconds <= LONGEST:
        raise ValueError(f"A duration is at most a hundred years, not {value!r}.")

    return seconds
