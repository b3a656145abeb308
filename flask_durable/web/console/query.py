"""What a page's address asks for: filters of the list, a window of the counts."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt
import re
import typing as t

from ...listing import Filters

WINDOWS = {
    "15m": ("15 minutes", 900.0),
    "1h": ("60 minutes", 3_600.0),
    "24h": ("24 hours", 86_400.0),
    "7d": ("7 days", 7 * 86_400.0),
}

STATUSES = ("pending", "running", "suspended", "completed", "failed", "cancelled")

_ID = re.compile(r"[0-9a-f-]{1,36}")


@dataclasses.dataclass(frozen=True)
class Question:
    """The filters as they were asked for, and what they mean."""

    values: dict[str, str]
    filters: Filters
    problem: str = ""
    """Why a filter can't be understood."""

    @property
    def is_filtered(self) -> bool:
        """Tell whether there is any filter, apart from the place in the list."""
        return bool(self.values.keys() - {"before"})


NAMES = ("status", "endpoint", "within", "from", "to", "id", "before")


def read_question(args: cabc.Mapping[str, str], now: float) -> Question:
    """Read the filters of the list from an address."""
    values = {name: args.get(name, "").strip() for name in NAMES}
    values = {name: value for name, value in values.items() if value}

    try:
        return Question(values, _filters(values, now))
    except _Unclear as problem:
        return Question(values, Filters(), str(problem))


class _Unclear(ValueError):
    """A filter can't be understood."""


def _filters(values: dict[str, str], now: float) -> Filters:
    if any("\0" in value for value in values.values()):
        raise _Unclear("A filter can't contain a zero byte.")

    status = values.get("status")
    within = values.get("within")
    since = _moment(values, "from")

    if status is not None and status not in STATUSES:
        raise _Unclear(f"There is no status “{status}”.")

    if within is not None:
        if within not in WINDOWS:
            raise _Unclear(f"There is no period “{within}”.")

        since = max(since or 0.0, now - WINDOWS[within][1])

    return Filters(
        status=status,
        endpoint=values.get("endpoint"),
        since=since,
        until=_moment(values, "to"),
        id=_id(values, "id") or "",
        before=_id(values, "before"),
    )


def _id(values: dict[str, str], name: str) -> str | None:
    value = values.get(name)

    if value is None:
        return None

    if not _ID.fullmatch(value.lower()):
        raise _Unclear(
            f"“{value[:60]}” can't be part of an id: ids have 0–9, a–f and “-”."
        )

    return value.lower()


def _moment(values: dict[str, str], name: str) -> float | None:
    value = values.get(name)

    if value is None:
        return None

    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        raise _Unclear(
            f"“{value[:60]}” is not a time: write it as in 2030-12-24T18:00."
        ) from None

    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)

    return max(0.0, moment.timestamp())


def read_window(args: cabc.Mapping[str, t.Any]) -> str:
    """Read the window of the counts from an address."""
    name = str(args.get("within", ""))
    return name if name in WINDOWS else "1h"
