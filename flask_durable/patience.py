"""How long a client waits for the final response (RFC 7240)."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import typing as t

from flask import after_this_request
from flask import Request
from werkzeug.http import parse_list_header
from werkzeug.wrappers import Response

from . import clock
from .errors import JournalUnavailable
from .records import Execution
from .state import State
from .watchers import watchers

FIRST_PAUSE = 0.05
"""Seconds until the first look whether an execution has ended."""

LONGEST_PAUSE = 0.5
"""Most seconds between two looks."""


def read_preferences(header: str) -> dict[str, str]:
    """Read a ``Prefer`` header: names in lower case, and their values.

    If a name comes twice, the first one counts; parameters are left out.
    """
    found: dict[str, str] = {}

    for item in parse_list_header(header):
        name, _, value = item.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))

    return found


class Patience:
    """What a client said about waiting.

    :param limit: the most seconds that it may wait
    :param query: the URL's ``wait``, which counts more than the header
    """

    def __init__(self, request: Request, limit: float, query: str | None = None):
        preferences = read_preferences(request.headers.get("Prefer", ""))
        self.respond_async = "respond-async" in preferences
        self._environ = request.environ
        self._preferred = query is None
        self.wait = min(
            limit, _seconds(preferences.get("wait") if query is None else query)
        )
        self._until = clock.boottime() + self.wait

    def hold(self, state: State, execution: Execution) -> Execution:
        """Wait until the execution ends or time is up; return its state then.

        If too many requests wait already, return at once. No connection to the
        database is held meanwhile.
        """
        if execution.ended or self._left() <= 0 or not watchers.enter(self._environ):
            return execution

        try:
            if self._preferred:
                apply(f"wait={self.wait:g}")

            return self._watch(state, execution)
        finally:
            watchers.leave()

    def _watch(self, state: State, execution: Execution) -> Execution:
        with watchers.expect(execution.id) as bell:
            for pause in pauses():
                if execution.ended or (left := self._left()) <= 0:
                    break

                bell.wait(min(pause, left))
                bell.clear()

                # While the database is away, the last known state must do.
                with contextlib.suppress(JournalUnavailable):
                    execution = state.store.execution(execution.id)

        return execution

    def _left(self) -> float:
        return self._until - clock.boottime()


def pauses() -> cabc.Iterator[float]:
    """Yield the seconds between looks: short at first."""
    pause = FIRST_PAUSE

    while True:
        yield pause
        pause = min(LONGEST_PAUSE, pause * 1.5)


def apply(preference: str) -> None:
    """Name a preference that was honoured in the answer's ``Preference-Applied``."""

    def add(response: Response) -> Response:
        before = response.headers.get("Preference-Applied")
        value = f"{before}, {preference}" if before else preference
        response.headers["Preference-Applied"] = value
        return response

    after_this_request(t.cast(t.Any, add))


def _seconds(text: str | None) -> float:
    """Read a number of seconds; anything else means no wait."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0

    return seconds if seconds > 0 else 0.0
