"""What the contract's tests share: functions that fail on purpose, and short looks."""

from __future__ import annotations

import collections.abc as cabc
import threading
import typing as t

V = t.TypeVar("V")


class Flaky(t.Generic[V]):
    """Fail the first calls, an error each, then return the value; count the calls."""

    def __init__(self, value: V, *errors: BaseException) -> None:
        self.value = value
        self.errors = list(errors)
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, *args: t.Any, **kwargs: t.Any) -> V:
        with self._lock:
            self.calls += 1
            error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return self.value


class Failing:
    """Fail every call with a new error of the same kind; count the calls."""

    def __init__(self, make: cabc.Callable[[], BaseException]) -> None:
        self.make = make
        self.calls = 0

    def __call__(self, *args: t.Any, **kwargs: t.Any) -> t.NoReturn:
        self.calls += 1
        raise self.make()


def down() -> ConnectionError:
    """Make the error of a provider that can't be reached."""
    return ConnectionError("bank is down")
