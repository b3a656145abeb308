"""When a failed try is tried again."""

from __future__ import annotations

import math
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.http import http_date

from flask_durable import clock
from flask_durable.clock import LONGEST
from flask_durable.errors import NonRetryableError
from flask_durable.errors import RetryAfterError
from flask_durable.retry import Retry

DOWN = ConnectionError("bank is down")


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(jitter=0), [0.5, 2, 8, 32, 128, 300, 300]),
        (Retry(jitter=0, initial=1, factor=1), [1, 1, 1]),
        (Retry(jitter=0, initial=10, factor=0.5), [10, 5, 2.5]),
        (Retry(jitter=0, initial=0), [0, 0, 0]),
        (Retry(jitter=0, initial=10, maximum=3), [3, 3]),
        (Retry(jitter=0, maximum=0), [0, 0]),
        (Retry(jitter=0, factor=0), [0.5, 0, 0]),
    ],
)
def test_the_schedule(retry: Retry, delays: list[float]) -> None:
    """Each delay is the one before by the factor, up to the maximum."""
    found = [retry.delay(DOWN, tries) for tries in range(1, len(delays) + 1)]
    assert found == delays


def test_a_delay_that_overflows_is_the_maximum() -> None:
    """After a thousand tries the power is no float any more."""
    assert Retry(10_000, jitter=0, maximum=60).delay(DOWN, 9_999) == 60


@given(
    tries=st.integers(1, 50),
    jitter=st.floats(0, 1),
    initial=st.floats(0, 100),
    factor=st.floats(0, 10),
)
def test_jitter_stays_within_its_share(
    tries: int, jitter: float, initial: float, factor: float
) -> None:
    """More or less than the schedule by the share at most, never negative."""
    plain = Retry(100, initial, factor, jitter=0).delay(DOWN, tries)
    found = Retry(100, initial, factor, jitter=jitter).delay(DOWN, tries)
    assert plain * (1 - jitter) - 1e-9 <= found <= plain * (1 + jitter) + 1e-9
    assert found >= 0


def test_jitter_spreads_delays() -> None:
    """Those that failed together don't come back together."""
    retry = Retry(jitter=0.5)
    assert len({retry.delay(DOWN, 1) for _ in range(20)}) > 10


@pytest.mark.parametrize(("seconds", "delay"), [(60, 60), (0.1, 0.5), (900, 900)])
def test_a_retry_after_error_is_waited_for_at_least(
    seconds: float, delay: float
) -> None:
    """The longer of both delays, even over the maximum."""
    assert Retry(jitter=0).delay(RetryAfterError(seconds), 1) == delay


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5", 1.5)])
def test_a_retry_after_header_may_have_seconds(text: str, seconds: float) -> None:
    """As its text."""
    assert RetryAfterError(text).seconds == seconds


@pytest.mark.parametrize(("offset", "seconds"), [(90, 90), (-90, 0)])
def test_a_retry_after_header_may_have_a_date(offset: float, seconds: float) -> None:
    """What is left until then; a date has whole seconds."""
    header = http_date(clock.now() + offset)
    assert RetryAfterError(header).seconds == pytest.approx(seconds, abs=2)


def test_a_retry_after_header_that_has_neither_is_refused() -> None:
    """Nobody knows how long to wait."""
    with pytest.raises(ValueError, match="soon"):
        RetryAfterError("soon")


@pytest.mark.parametrize(
    ("on", "error", "allowed"),
    [
        (Exception, DOWN, True),
        (OSError, DOWN, True),
        (ValueError, DOWN, False),
        ((ValueError, OSError), DOWN, True),
        ((ValueError, KeyError), DOWN, False),
        ((), DOWN, False),
        (lambda error: "bank" in str(error), DOWN, True),
        (lambda error: "", DOWN, False),
        (ValueError, RetryAfterError(1), True),
        (Exception, NonRetryableError("no"), False),
        (lambda error: True, NonRetryableError("no"), False),
    ],
)
def test_which_errors_are_worth_another_try(
    on: t.Any, error: Exception, allowed: bool
) -> None:
    """A class, a tuple, or a predicate; two errors speak for themselves."""
    assert Retry(on=on).allows(error, 1) is allowed


@pytest.mark.parametrize("error", [DOWN, RetryAfterError(1)])
def test_tries_are_used_up(error: Exception) -> None:
    """``max_attempts`` counts the first one too."""
    allowed = [Retry(3).allows(error, tries) for tries in (1, 2, 3, 4)]
    assert allowed == [True, True, False, False]


def test_one_attempt_is_no_retry() -> None:
    """The predicate isn't even asked."""
    assert not Retry(1, on=lambda error: 1 / 0 > 0).allows(DOWN, 1)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None])
def test_a_wrong_number_of_attempts_is_refused(value: t.Any) -> None:
    """At least one, and whole."""
    with pytest.raises(ValueError, match="max_attempts must be a whole number"):
        Retry(value)


@pytest.mark.parametrize("name", ["initial", "factor", "maximum", "jitter"])
@pytest.mark.parametrize("value", [-1, -0.001, "1", None, math.nan])
def test_a_wrong_number_is_refused(name: str, value: t.Any) -> None:
    """The message has the parameter's name."""
    with pytest.raises(ValueError, match=f"{name} must be"):
        Retry(**{name: value})


def test_a_jitter_over_one_is_refused() -> None:
    """It is a share."""
    with pytest.raises(ValueError, match="jitter must be a share from 0 to 1"):
        Retry(jitter=1.1)


def test_a_maximum_over_a_hundred_years_is_refused() -> None:
    """No wake time could hold it."""
    assert Retry(maximum=LONGEST).maximum == LONGEST

    with pytest.raises(ValueError, match="maximum must be at most a hundred years"):
        Retry(maximum=math.inf)


@pytest.mark.parametrize("value", ["ValueError", [ValueError], 5, None, (1, 2)])
def test_a_wrong_on_is_refused(value: t.Any) -> None:
    """At once, not when the first try has failed."""
    with pytest.raises((TypeError, ValueError), match="on must be"):
        Retry(on=value)


def test_a_policy_is_frozen() -> None:
    """It may be shared by views and apps."""
    with pytest.raises(AttributeError, match="max_attempts"):
        setattr(Retry(), "max_attempts", 2)  # noqa: B010
