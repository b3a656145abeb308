"""When a failed try is tried again."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import dataclasses
import logging
import random

from .clock import LONGEST
from .errors import Cancelled
from .errors import LeaseLostError
from .errors import NonRetryableError
from .errors import RetryAfterError
from .errors import StoredValueError
from .errors import Suspended

logger = logging.getLogger(__name__)

EXITS = (
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    Suspended,
    Cancelled,
    LeaseLostError,
)
"""Exceptions that end a process or an attempt; they are never failed tries."""

RetryOn = (
    type[BaseException]
    | tuple[type[BaseException], ...]
    | cabc.Callable[[Exception], bool]
)


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often, and with which delays, something that failed is tried again.

    The delay before try ``n + 1`` is ``initial * factor ** (n - 1)``, at most
    ``maximum``, more or less by up to the share ``jitter``.

    :param max_attempts: tries in all, the first one included
    :param initial: delay before the second try, in seconds
    :param factor: how many times longer each delay is than the one before
    :param maximum: longest delay, in seconds
    :param jitter: share of the delay by which it varies at random, 0 to 1
    :param on: which exceptions are worth another try: a class, a tuple of
        classes, or a function that gets the exception. What is not an ``Exception``,
        such as ``gevent.Timeout``, is a failed try only if a class here covers it;
        otherwise it leaves the view, and exits of the process always do
    """

    max_attempts: int = 5
    initial: float = 0.5
    factor: float = 4.0
    maximum: float = 300.0
    jitter: float = 0.1
    on: RetryOn = Exception

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise ValueError("max_attempts must be a whole number of at least 1")

        for name in ("initial", "factor", "maximum", "jitter"):
            value = getattr(self, name)

            if not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be a number of at least 0")

        if self.maximum > LONGEST:
            raise ValueError("maximum must be at most a hundred years")

        if self.jitter > 1:
            raise ValueError("jitter must be a share from 0 to 1")

        classes = self.on if isinstance(self.on, tuple) else (self.on,)

        if not callable(self.on) and not all(map(_is_exception, classes)):
            raise TypeError(
                "on must be an exception's class, a tuple of them, or a function,"
                f" not {self.on!r}"
            )

    def names(self, error: BaseException) -> bool:
        """Tell whether a ``BaseException`` that is no ``Exception`` is a failed try:
        if ``on`` names its class, or a task was cancelled."""
        if isinstance(error, asyncio.CancelledError):
            return True

        if isinstance(error, EXITS) or type(error).__name__ == "GreenletExit":
            return False

        return isinstance(self.on, type | tuple) and isinstance(error, self.on)

    def allows(self, error: BaseException, tries: int) -> bool:
        """Tell whether there is another try after this many failed."""
        if isinstance(error, StoredValueError):
            error = error.__cause__ or error

        if isinstance(error, NonRetryableError) or tries >= self.max_attempts:
            return False

        if isinstance(error, RetryAfterError):
            return True

        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)

        if not isinstance(error, Exception):
            return False

        try:
            return bool(self.on(error))
        except Exception:
            logger.exception("Retry.on raised: there is no other try.")
            return False

    def delay(self, error: BaseException, tries: int) -> float:
        """Return the seconds to wait after this many tries failed."""
        try:
            delay = min(self.maximum, self.initial * self.factor ** (tries - 1))
        except OverflowError:
            delay = self.maximum

        delay *= 1 + random.uniform(-self.jitter, self.jitter)

        if isinstance(error, RetryAfterError):
            return max(delay, error.seconds)

        return delay


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def check_retry(retry: Retry | None) -> None:
    """Make sure that the option ``retry`` is a policy.

    :raises TypeError: if it is not
    """
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, such as Retry(3), not {retry!r}.")
