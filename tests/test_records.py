"""Failures as the journal keeps them, and what nothing follows."""

from __future__ import annotations

import dataclasses
import json

import pytest
from werkzeug.exceptions import NotFound

from flask_durable.records import Failure
from flask_durable.records import MAX_MESSAGE
from flask_durable.records import MAX_TRACEBACK
from flask_durable.records import qualified_name
from flask_durable.records import StepRecord
from flask_durable.records import StepStatus


class Declined(Exception):
    """An error of the app's own."""

    class Softly(Exception):
        """One inside its class."""


class Unprintable(Exception):
    """An error that has no message."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


def raised(error: Exception) -> Exception:
    """Give an error with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (Declined(), f"{__name__}.Declined"),
        (Declined.Softly(), f"{__name__}.Declined.Softly"),
        (NotFound(), "werkzeug.exceptions.NotFound"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_class_is_named_as_it_is_imported(error: BaseException, name: str) -> None:
    """Builtins by their bare names."""
    assert qualified_name(error) == name
    assert Failure.of(error).type == name


def test_a_failure_has_message_and_traceback() -> None:
    """What happened, and where."""
    failure = Failure.of(raised(Declined("card expired")))
    assert failure.message == "card expired"
    assert "in raised" in failure.traceback
    assert failure.traceback.endswith("Declined: card expired\n")


def test_the_cause_is_in_the_traceback() -> None:
    """The error beneath is what people look for."""
    error = Declined("no")
    error.__cause__ = raised(OSError("connection reset"))
    assert "OSError: connection reset" in Failure.of(error).traceback


def test_a_long_message_is_cut_at_its_end() -> None:
    """Some libraries put whole pages into it."""
    failure = Failure.of(Declined("first " + "x" * 10 * MAX_MESSAGE))
    assert len(failure.message) == MAX_MESSAGE
    assert failure.message.startswith("first ")


def test_a_long_traceback_is_cut_at_its_beginning() -> None:
    """Its end says what happened."""
    failure = Failure.of(Declined("x" * 2 * MAX_TRACEBACK + " last"))
    assert len(failure.traceback) == MAX_TRACEBACK
    assert failure.traceback.endswith(" last\n")


def test_a_message_that_cant_be_printed_is_said_to_be_so() -> None:
    """The failure is recorded like any other."""
    failure = Failure.of(raised(Unprintable()))
    assert failure.message == "(its message can't be printed)"
    assert "Unprintable" in failure.traceback


@pytest.mark.parametrize("message", ["", "Grüße ✓", "\x00", "\ud800", "a\nb"])
def test_a_failure_is_read_as_it_was_written(message: str) -> None:
    """Whatever characters are in its message."""
    failure = Failure.of(raised(Declined(message)), [404, None, ["404", [], "x"]])
    assert Failure.decode(failure.encode()) == failure


def test_a_failure_is_json() -> None:
    """Other programs can read it."""
    stored = json.loads(Failure("ValueError", "no").encode())
    assert stored["type"] == "ValueError"
    assert stored["http"] is None


@pytest.mark.parametrize(
    ("status", "final"),
    [
        ("running", False),
        ("retrying", False),
        ("sleeping", False),
        ("waiting", False),
        ("completed", True),
        ("failed", True),
        ("interrupted", True),
    ],
)
def test_marks_are_no_outcomes(status: StepStatus, final: bool) -> None:
    """Something follows a mark."""
    assert StepRecord("pay", "run", status, 1, 0, 1, 1.0).is_outcome is final


def test_records_are_frozen() -> None:
    """They are shared by threads."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Failure("a", "b"), "type", "c")  # noqa: B010
