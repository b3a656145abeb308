"""The only seam for tests: a probe is told of each step, and may interfere."""

from __future__ import annotations

import typing as t

from .records import StepRecord


class Probe(t.Protocol):
    """Is ``State.probe`` while a test drives the app; otherwise that is ``None``.

    It is called in the thread and the context of the step, and what it raises is raised
    there.
    """

    strict: bool
    """Whether replays that differ raise, as with ``DURABLE_STRICT_REPLAY``."""

    def before(self, step: StepRecord) -> None:
        """Hear that a step's function is about to be called.

        An exception counts as raised by the function.
        """

    def after(self, step: StepRecord) -> None:
        """Hear that it has returned; its outcome is not committed yet."""

    def recorded(self, step: StepRecord) -> None:
        """Hear that a step's outcome was committed."""

    def pause(self, seconds: float) -> None:
        """Wait for the next try, if the attempt does so without suspending."""
