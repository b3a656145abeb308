"""Kills, outages, and what brings things back."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import dataclasses
import os
import threading

from ..processes import Process
from ..processes import wait_until
from ..processes import Worker
from .ledger import Being
from .ledger import being

START_TRIES = 3
"""How often a program is started that does not get ready in time."""

LOAD_TIMEOUT = 60.0
"""Seconds that a worker's children have to load the app."""

WORKING_THREADS = 3
"""Threads of a child that works: one works, one sweeps, one watches its parent."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """Something was killed between two moments; only later it was gone."""

    kind: str
    before: float
    after: float
    victim: Being | None = None
    group: int | None = None
    """The process group, if all of it was killed."""


@dataclasses.dataclass(frozen=True)
class Outage:
    """A server was away between two moments."""

    kind: str
    began: float
    ended: float


class Down(threading.Thread):
    """Something that is away, and what brings it back when it is time."""

    def __init__(
        self, kind: str, since: float, until: float, back: cabc.Callable[[], None]
    ) -> None:
        super().__init__(daemon=True)
        self.kind = kind
        self.since = since
        self.until = until
        self.failure: Exception | None = None
        self._back = back

    def run(self) -> None:
        """Bring it back, while the monkey goes on with others."""
        try:
            self._back()
        except Exception as error:
            self.failure = error

    @property
    def is_back(self) -> bool:
        """Tell whether it was brought back."""
        return self.ident is not None and not self.is_alive()


def start(process: Process) -> None:
    """Start a program, again if the machine was too busy for it.

    A worker is there when its children have loaded the app.
    """
    for _ in range(START_TRIES - 1):
        with contextlib.suppress(TimeoutError):
            process.start()
            break
    else:
        process.start()

    if isinstance(process, Worker):
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: _loaded(process), LOAD_TIMEOUT)


def _loaded(worker: Worker) -> bool:
    """Tell whether all children have begun to work: then they have threads."""
    children = worker.children()
    enough = len(children) >= worker.processes
    return enough and all(map(_has_threads, children))


def _has_threads(pid: int) -> bool:
    try:
        return len(os.listdir(f"/proc/{pid}/task")) >= WORKING_THREADS
    except OSError:
        return False


def is_gone(victim: Being) -> bool:
    """Tell whether a process has ended, be it a zombie or none any more."""
    try:
        with open(f"/proc/{victim.pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return True

    return state in "ZX" or being(victim.pid) != victim
