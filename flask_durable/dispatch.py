"""Protocols: the dispatcher, and the hands into which a sweeper puts what is due."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from .records import Due


class Dispatcher(t.Protocol):
    """Runs in this process and has due executions replayed."""

    def start(self) -> None:
        """Begin to look for due executions."""

    def wake(self, delay: float) -> None:
        """Hear that an execution becomes due in so many seconds."""

    def stop(self, grace: float) -> None:
        """Take no more, and wait up to so many seconds for what is in hand."""


class Hands(t.Protocol):
    """Takes due executions from the sweeper."""

    patience: float
    """Seconds after which an execution that nobody claimed is sent again."""

    pause: float
    """Seconds after which to ask again whether hands are free, if none reports that."""

    shared: bool
    """Whether all processes share these hands, like a queue; then only one sweeps."""

    usable: bool
    """Whether this process can reach them, as far as it knows. While it can't, because
    Redis is away, it leaves the sweep to others. ``free`` tries again."""

    def free(self) -> int:
        """Tell how many executions can be taken now."""
        ...

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Take executions and have them replayed."""
