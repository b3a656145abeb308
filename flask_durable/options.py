"""The options of ``@durable.endpoint``, kept on the view."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt
import typing as t

from flask import Flask

from .clock import duration
from .infos import ExecutionInfo
from .retry import check_retry
from .retry import Retry

MARK = "__durable_options__"
"""The attribute of a view that holds its options; ``functools.wraps`` copies it."""

Idempotency = t.Literal["optional", "required", "off"] | cabc.Callable[[], str | None]
"""What tells that a request is a repetition: its ``Idempotency-Key``, or a function."""

OnFailure = cabc.Callable[[ExecutionInfo], t.Any]
"""Runs after an execution failed or was cancelled."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of ``@durable.endpoint``."""

    retry: Retry | None = None
    pending: t.Literal["accepted", "redirect"] | None = None
    max_request_bytes: int | None = None
    deadline: float | dt.timedelta | None = None
    on_failure: OnFailure | None = None
    idempotency: Idempotency = "optional"

    @property
    def deadline_seconds(self) -> float | None:
        """How long an execution may take, in seconds."""
        return None if self.deadline is None else duration(self.deadline)

    def __post_init__(self) -> None:
        check_retry(self.retry)

        if self.deadline is not None and _seconds(self.deadline) <= 0:
            raise ValueError("deadline must be a time after the start.")

        if self.on_failure is not None and not callable(self.on_failure):
            raise TypeError("on_failure must be a function of the execution.")

        known = ("optional", "required", "off")

        if not callable(self.idempotency) and self.idempotency not in known:
            raise ValueError(
                'idempotency is "optional", "required", "off" or a function,'
                f" not {self.idempotency!r}."
            )

        if self.pending not in (None, "accepted", "redirect"):
            raise ValueError(
                f'pending is "accepted" or "redirect", not {self.pending!r}.'
            )

        limit = self.max_request_bytes

        if limit is not None and not isinstance(limit, int):
            raise TypeError(f"max_request_bytes is a whole number, not {limit!r:.80}.")

        if limit is not None and limit < 1:
            raise ValueError("max_request_bytes must be at least 1.")


def _seconds(deadline: float | dt.timedelta) -> float:
    try:
        return duration(deadline)
    except (TypeError, ValueError) as error:
        raise type(error)(f"deadline is not valid: {error}") from None


def options_of(app: Flask, endpoint: str, method: str) -> Options | None:
    """Return the options of an endpoint's view, if it is durable."""
    view = app.view_functions.get(endpoint)
    options = getattr(view, MARK, None)
    view_class = getattr(view, "view_class", None)
    method = method.lower()

    for name in (method, "get" if method == "head" else method, "dispatch_request"):
        if options is None and view_class is not None:
            options = getattr(getattr(view_class, name, None), MARK, None)

    return options
