"""What a view reaches without passing it around."""

from __future__ import annotations

import typing as t

from flask import has_request_context
from flask import request
from werkzeug.local import LocalProxy

from .attempt import Attempt
from .replay import Replay
from .scope import running_step
from .scope import RunningStep
from .steps import get_scope
from .steps import Steps


def _current_attempt() -> Attempt:
    return get_scope().attempt


def _current_step() -> RunningStep:
    found = running_step.get()

    if found is None:
        raise RuntimeError(
            "current_step is there while a step's function runs: use it in the"
            " function that you gave to step.run."
        )

    return found


step = Steps()
"""The steps of the execution that this thread or greenlet runs."""

current_execution = t.cast("CurrentExecution", LocalProxy(_current_attempt))
"""The running execution: ``id``, ``attempt`` and ``status_url``."""

current_step = t.cast(RunningStep, LocalProxy(_current_step))
"""The running step: ``id``, ``attempt`` (the try) and ``idempotency_key``."""


class CurrentExecution(t.Protocol):
    """What a view can know of its execution."""

    @property
    def id(self) -> str:
        """The execution's id."""
        ...

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        ...

    @property
    def status_url(self) -> str:
        """Where the execution can be watched, absolute and signed."""
        ...


def durable_replay() -> Replay | None:
    """Give the verified replay if the current request is one, else ``None``.

    Hooks use it to skip what only a client's own request needs, such as CSRF
    tokens and rate limits, and to log in the user who began the execution.
    """
    if not has_request_context():
        return None

    return t.cast("Replay | None", request.environ.get("flask_durable.replay"))
