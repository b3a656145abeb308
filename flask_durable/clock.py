"""The process's clocks; the truth about wake times is the database's clock."""

from __future__ import annotations

import datetime as dt
import functools
import time


def _boot_clock() -> int:
    return getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


_BOOT_CLOCK = _boot_clock()


def now() -> float:
    """Give the time in seconds since the epoch, by this machine's clock."""
    return time.time()


boottime = functools.partial(time.clock_gettime, _BOOT_CLOCK)
"""Give seconds that never jump and go on while the machine sleeps."""


def sleep(seconds: float) -> None:
    """Hold this thread for a while."""
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
    """Give a duration, a number of seconds or a ``timedelta``, in seconds.

    :raises TypeError: if it is neither
    :raises ValueError: if it is no time, or over a hundred years
    """
    if isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
    else:
        # A text could be read, but would be a mistake.
        if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
            raise TypeError(f"A duration is seconds or a timedelta, not {value!r:.80}.")

        seconds = float(value)

    if not -LONGEST <= seconds <= LONGEST:
        raise ValueError(f"A duration is at most a hundred years, not {value!r}.")

    return seconds
