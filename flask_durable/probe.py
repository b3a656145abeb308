"""The one seam for tests: whoever is put there hears of each step, and may step in."""

from __future__ import annotations

import typing as t

from .records import StepRecord


class Probe(t.Protocol):
    """Stands in ``State.probe`` while tests drive the app; else there is none.

    It is called in the thread and the context of the step. What it raises is raised
    there.
    """

    strict: bool
    """Whether replays that differ raise, as with ``DURABLE_STRICT_REPLAY``."""

    def before(self, step: StepRecord) -> None:
        """Hear that a step's function is about to be called.

        An exception counts as one of the function.
        """

    def after(self, step: StepRecord) -> None:
        """Hear that it has returned; its outcome is not committed yet."""

    def recorded(self, step: StepRecord) -> None:
        """Hear that a step's outcome was committed."""

    def pause(self, seconds: float) -> None:
        """Wait until the next try, where the attempt does so in place."""
