"""Checks of what a view gives to the verbs."""

from __future__ import annotations

import pathlib
import sys
import typing as t

MAX_ID_LENGTH = 200

PACKAGE = str(pathlib.Path(__file__).parent)


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
        raise ValueError(f"A step can't be called {step_id!r}: give it a name.")


def check_function(step_id: str, fn: t.Any, verb: str) -> None:
    """Make sure that a step was given a function, not what one returned."""
    if not callable(fn):
        raise TypeError(
            f'Step "{step_id}" needs a function, not {type(fn).__name__}: write'
            f' step.{verb}("{step_id}", function, argument), without calling it.'
        )


def _broken(text: str) -> bool:
    """Tell whether a string has surrogates, which no encoding takes."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def caller() -> str:
    """Name the file and line of the code that called into this package."""
    frame = sys._getframe(1)

    while frame.f_back and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back

    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_token(token: t.Any) -> None:
    """Make sure that something may be the token of a callback."""
    if not isinstance(token, str):
        raise TypeError(
            f"A callback's token is the string that is its .token, not {token!r:.80}."
        )


def check_workers(max_workers: int) -> None:
    """Make sure that there is somebody to work."""
    if max_workers < 1:
        raise ValueError(f"max_workers must be at least 1, not {max_workers}.")
