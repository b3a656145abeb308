"""The seam for traces: what runs inside of what."""

from __future__ import annotations

import contextlib
import typing as t

from .records import Execution
from .records import StepRecord


class Tracer(t.Protocol):
    """Is ``State.tracer`` of an app that is traced; otherwise that is ``None``.

    Signals tell what has happened; this is for spans that must be current meanwhile.
    """

    def attempt(
        self, execution: Execution, due_at: float | None
    ) -> contextlib.AbstractContextManager[object]:
        """Surround an attempt: its view, and the commit of how it ended."""
        ...

    def call(
        self, execution: Execution, step: StepRecord
    ) -> contextlib.AbstractContextManager[object]:
        """Surround one try of a step: the call of its function."""
        ...

    def headers(self) -> dict[str, str]:
        """Return the headers that make a new request a part of the current trace."""
        ...


def traced(
    tracer: Tracer | None, execution: Execution, step: StepRecord
) -> contextlib.AbstractContextManager[object]:
    """Surround one try of a step, if there is a tracer."""
    return tracer.call(execution, step) if tracer else contextlib.nullcontext()
