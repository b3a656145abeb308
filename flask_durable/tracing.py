"""The seam for those who look at an app from within: what runs inside of what."""

from __future__ import annotations

import contextlib
import typing as t

from .records import Execution
from .records import StepRecord


class Tracer(t.Protocol):
    """Stands in ``State.tracer`` of an app that is traced; else there is none.

    What happens is told by signals; this is for what has to be current meanwhile.
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
        """Give the headers by which a new request is known to belong to what runs."""
        ...


def traced(
    tracer: Tracer | None, execution: Execution, step: StepRecord
) -> contextlib.AbstractContextManager[object]:
    """Surround one try of a step, if there is a tracer."""
    return tracer.call(execution, step) if tracer else contextlib.nullcontext()
