"""How the console says times, durations and values."""

from __future__ import annotations

import datetime as dt
import json
import re
import typing as t

from ...checks import PACKAGE

STATUSES = {
    "pending": "Pending",
    "running": "Running",
    "suspended": "Suspended",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "retrying": "Retrying",
    "sleeping": "Sleeping",
    "waiting": "Waiting",
    "interrupted": "Interrupted",
    "cut": "Cut off",
}

_FRAME = re.compile(r'  File "([^"]*)".*\n(?:    .*\n)*')

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def duration(seconds: float | None) -> str:
    """Say a duration in at most two units."""
    if seconds is None:
        return "–"

    seconds = max(0.0, seconds)

    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"

    if seconds < 59.95:
        return f"{seconds:.1f} s"

    left = round(seconds)
    first = next(place for place, (size, _) in enumerate(_UNITS) if left >= size)
    words: list[str] = []

    for size, unit in _UNITS[first : first + 2]:
        count, left = divmod(left, size)
        words += [f"{count} {unit}"] if count or not words else []

    return " ".join(words)


def ago(moment: float, now: float) -> str:
    """Say how far a time is from now."""
    passed = now - moment

    if abs(passed) < 1:
        return "now"

    left = abs(passed)
    size, unit = next((s, u) for s, u in _UNITS if left >= s)
    words = f"{int(left // size)} {unit}"
    return f"{words} ago" if passed > 0 else f"in {words}"


def absolute(moment: float, fine: bool = False) -> str:
    """Say a time in UTC.

    :param fine: to milliseconds
    """
    value = dt.datetime.fromtimestamp(moment, dt.UTC)
    text = value.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{value.microsecond // 1000:03d} UTC" if fine else f"{text} UTC"


def size(count: int) -> str:
    """Say a number of bytes."""
    if count < 1024:
        return f"{count} B"

    kibibytes = count / 1024
    return f"{kibibytes:.1f} KiB" if kibibytes < 1024 else f"{kibibytes / 1024:.1f} MiB"


def code(response: bytes | None) -> int | None:
    """Read the status code of a stored response's head."""
    if response is None:
        return None

    digits = str(json.loads(response).get("status", ""))[:3]
    return int(digits) if digits.isdecimal() else None


def pretty(value: t.Any) -> str:
    """Format a value as JSON for people."""
    return compact(value, indent=2)


def compact(value: t.Any, indent: int | None = None) -> str:
    """Return a value as JSON that can be encoded: lone surrogates are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def own_frames(traceback: str) -> str:
    """Leave this package's own frames out of a traceback, unless it has no others."""

    def is_ours(frame: re.Match[str]) -> bool:
        return frame[1].startswith(PACKAGE)

    if all(is_ours(frame) for frame in _FRAME.finditer(traceback)):
        return traceback

    return _FRAME.sub(lambda found: "" if is_ours(found) else found[0], traceback)
