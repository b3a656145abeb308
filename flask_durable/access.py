"""What somebody may see and do in the console."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import typing as t

from flask import Request


@dataclasses.dataclass(frozen=True)
class ConsoleAccess:
    """What a user may see and do in the console.

    :param view: executions, steps, times and types of errors; without it there is no
        console
    :param data: requests, results, error messages with tracebacks, and responses
    :param act: cancel, resume and rerun
    """

    view: bool = True
    data: bool = False
    act: bool = False

    @classmethod
    def of(cls, answer: t.Any) -> ConsoleAccess:
        """Convert what the app's ``console_auth`` function returned.

        :raises TypeError: if it is neither a bool nor an access
        """
        if isinstance(answer, ConsoleAccess):
            return answer

        if isinstance(answer, bool):
            return cls(answer, answer, answer)

        raise TypeError(
            "The function given to @durable.console_auth answered with"
            f" {type(answer).__name__}: return True, False or a ConsoleAccess."
        )


ConsoleAuth = cabc.Callable[[Request], t.Any]
"""Tells what a request may see, as a bool or a :class:`ConsoleAccess`."""
