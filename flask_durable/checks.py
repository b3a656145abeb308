"""Checks of the arguments that apps pass to the extension."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import functools
import inspect
import os
import sys
import typing as t

import sqlalchemy as sa

from . import clock
from .config import check_database
from .ids import is_id
from .records import ExecutionStatus

MAX_ID_LENGTH = 200

PACKAGE = os.path.join(os.path.dirname(__file__), "")
"""The folder, with a separator at its end: other packages' names may begin alike."""


def check_id(step_id: str) -> None:
    """Make sure that a step can have this id in every database.

    :raises ValueError: if it can't
    """
    if not isinstance(step_id, str) or len(step_id) > MAX_ID_LENGTH:
        raise ValueError(
            f"A step's id is a string of at most {MAX_ID_LENGTH} characters,"
            f" and comes first; this is {step_id!r:.80}."
        )

    if not step_id or "\0" in step_id or not step_id.isascii() and _broken(step_id):
        what = "NUL or half of a surrogate pair" if step_id else "no characters"
        raise ValueError(
            f"A step can't be called {step_id!r}: a name with {what} can't be stored."
        )


def check_function(step_id: str, fn: t.Any, verb: str) -> None:
    """Make sure that a step was given a function, not what one returned."""
    if not callable(fn):
        raise TypeError(
            f'Step "{step_id}" needs a function, not {type(fn).__name__}: write'
            f' step.{verb}("{step_id}", function, argument), without calling it.'
        )


def wrong_call(
    step_id: str, verb: str, call: t.Any, error: BaseException
) -> TypeError | None:
    """Return a more helpful error, if a function can't take its step's arguments.

    Of a decorated function it is the decorator's own signature that counts.

    :param verb: the method of ``step`` that was called
    :param call: a ``functools.partial`` of the function; of others nothing is known
    :param error: what the call raised
    """
    if not isinstance(error, TypeError) or not isinstance(call, functools.partial):
        return None

    # The function was entered, so it took its arguments: the error is from within.
    if _is_of_others(error):
        return None

    try:
        signature = inspect.signature(call.func, follow_wrapped=False)
    except Exception:
        # Some builtins have no signature, and objects may raise anything here.
        return None

    try:
        signature.bind(*call.args, **call.keywords)
    except TypeError:
        return _wrong_call(step_id, verb, call.keywords, error)

    return None


def _is_of_others(error: BaseException) -> bool:
    """Tell whether an error was raised in code outside of this package."""
    trace = error.__traceback__

    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next

    name = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return name.partition(".")[0] != __name__.partition(".")[0]


def _wrong_call(
    step_id: str, verb: str, keywords: cabc.Container[str], error: TypeError
) -> TypeError:
    advice = "correct the arguments"
    # A transaction refuses the other option.
    options = ("retry",) if verb == "transaction" else ("retry", "at_most_once")
    stray = [name for name in options if name in keywords]

    if stray:
        given = ", ".join(f"{name}=…" for name in stray)
        advice = f'write step.options({given}).{verb}("{step_id}", …)'

    wrong = TypeError(f"{error}. Trying again would not help: {advice}.")
    wrong.__cause__ = error
    return wrong


def _broken(text: str) -> bool:
    """Tell whether a string contains surrogates, which UTF-8 can't encode."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def caller() -> str:
    """Name the file and line of the code that called into this package."""
    frame = sys._getframe(1)

    while frame.f_back and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back

    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_token(token: t.Any) -> None:
    """Make sure that the token of a callback is a string."""
    if not isinstance(token, str):
        raise TypeError(
            f"A callback's token is the string that is its .token, not {token!r:.80}."
        )


def check_workers(max_workers: t.Any) -> None:
    """Make sure that ``max_workers`` is a whole number of at least 1."""
    if not isinstance(max_workers, int) or isinstance(max_workers, bool):
        raise TypeError(f"max_workers is a whole number, not {max_workers!r:.80}.")

    if max_workers < 1:
        raise ValueError(f"max_workers must be at least 1, not {max_workers}.")


def check_branches(branches: cabc.Iterable[t.Any]) -> None:
    """Make sure that a parallel call got functions, not a list of them or results."""
    for branch in branches:
        if not callable(branch):
            raise TypeError(
                "step.parallel takes functions without arguments, not"
                f" {type(branch).__name__}: write step.parallel(f, g) or"
                " step.parallel(*functions), without calling them."
            )


def check_duration(step_id: str, duration: t.Any, verb: str) -> float:
    """Return a duration in seconds.

    :param verb: what the step does for so long, for the message
    """
    try:
        return clock.duration(duration)
    except (TypeError, ValueError) as error:
        raise type(error)(f'Step "{step_id}" can\'t {verb}: {error}') from None


def check_until(step_id: str, when: t.Any) -> float:
    """Convert a date to seconds since the epoch.

    :raises TypeError: if it is no ``datetime``
    :raises ValueError: if it has no time zone, or is too far away
    """
    if not isinstance(when, dt.datetime):
        raise TypeError(f'Step "{step_id}" sleeps until a datetime, not {when!r:.80}.')

    if when.tzinfo is None:
        raise ValueError(
            f'Step "{step_id}" sleeps until a time without a time zone: use'
            " datetime.now(timezone.utc), say."
        )

    until = when.timestamp()

    if abs(until - clock.now()) > clock.LONGEST:
        raise ValueError(
            f'Step "{step_id}" can\'t sleep until {when}: that is over a hundred years'
            " away."
        )

    return until


def check_every(step_id: str, every: t.Any) -> float:
    """Return the time between two polls, in seconds."""
    seconds = check_duration(step_id, every, "poll")

    if seconds <= 0:
        raise ValueError(
            f'Step "{step_id}" can\'t poll every {every!r}: let some time pass between'
            " two calls."
        )

    return seconds


def check_mappings(**given: t.Any) -> None:
    """Make sure that parts of a request are mappings, such as dicts."""
    for name, value in given.items():
        # Not isinstance: Werkzeug's Headers is no Mapping by its class.
        if value and not hasattr(value, "items"):
            raise TypeError(
                f"{name} is a mapping, as {{name: value}}, not {value!r:.80}."
            )


def check_page(status: t.Any, before: t.Any, limit: t.Any) -> None:
    """Make sure that a page of executions can be found by these arguments."""
    statuses = t.get_args(ExecutionStatus)

    if status is not None and status not in statuses:
        raise ValueError(f"status is one of {', '.join(statuses)}, not {status!r:.80}.")

    if before is not None and not (isinstance(before, str) and is_id(before)):
        raise ValueError(f"before is the id of an execution, not {before!r:.80}.")

    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit is a whole number of at least 1, not {limit!r:.80}.")


def check_view(view: t.Any) -> None:
    """Make sure that a view is one that can be made durable."""
    if isinstance(view, type):
        raise TypeError(
            f"@durable.endpoint takes a function, not the class {view.__name__}: put it"
            " over its methods, or into its list of decorators."
        )

    if not callable(view):
        raise TypeError(
            "@durable.endpoint takes a view, and its options by their names, as in"
            f' @durable.endpoint(idempotency="required"), not {view!r:.80}.'
        )


def check_hook(name: str, function: t.Any) -> None:
    """Make sure that what a decorator registers is a function."""
    if not callable(function):
        raise TypeError(f"{name} takes a function, not {function!r:.80}.")


def check_engine(engine: t.Any, given: str) -> None:
    """Make sure that the journal can live in an engine's database.

    :param given: where the engine is from, for the message
    :raises ConfigError: if it can't
    """
    if not isinstance(engine, sa.Engine):
        # It is not shown: it may be a URL with a password.
        raise TypeError(
            "engine is an SQLAlchemy Engine, or a function that gives one:"
            f" {given} is a {type(engine).__name__}. For a URL there is"
            " DURABLE_DATABASE_URL."
        )

    check_database(engine.url, "engine")
