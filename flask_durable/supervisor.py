"""Keep a number of child processes alive, and end them in order."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import types
import typing as t

from . import clock

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""By which a process is asked to end."""

STOP_GRACE = 25.0
"""Seconds that children have to finish what is in hand."""

FORCE_GRACE = 5.0
"""Seconds that they have after that to hand it back, before they are killed."""

MIN_LIFE = 1.0
"""Seconds between two starts of the same child, if it ends at once."""

STOP_LOOK = 1.0
"""Seconds after which a signal is seen for certain."""

ORPHAN_LOOK = 1.0
"""Seconds after which a child notices that its supervisor is gone."""


class _Stop(BaseException):
    """The process was asked to end."""


def wait_for_stop() -> None:
    """Do nothing until the process is asked to end."""
    with contextlib.suppress(_Stop):
        _raise_on_signals()

        while True:
            # A signal may come after Python looked for one and before it sleeps.
            time.sleep(STOP_LOOK)


def _raise_on_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, _raise)


def _raise(number: int, frame: types.FrameType | None) -> t.NoReturn:
    for other in STOP_SIGNALS:
        # Not SIG_IGN: Python reports a signal that is on its way by then as an error.
        signal.signal(other, _ignore)

    raise _Stop


def _ignore(number: int, frame: types.FrameType | None) -> None:
    """Do nothing: the end is under way."""


class Supervisor:
    """Runs the same work in several child processes.

    :param work: runs in each child and ends on ``SIGTERM``
    :param count: how many children
    :param once: whether a child that ended well is done, as for a burst
    """

    def __init__(
        self, work: cabc.Callable[[], None], count: int, once: bool = False
    ) -> None:
        self._work = work
        self._count = count
        self._once = once
        self._children: dict[int, float] = {}

    def run(self) -> int:
        """Run until asked to end, or until all children are done.

        A child that dies is started again.

        :return: the exit code: 1 if a child had to be killed
        """
        try:
            _raise_on_signals()

            for _ in range(self._count):
                self._start()

            while self._children:
                self._wait()
        except _Stop:
            return self._stop()

        return 0

    def _start(self) -> None:
        # What is buffered would be written by both.
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # A child must not take itself for its supervisor, nor that forget the child.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        pid = os.fork()

        if pid == 0:
            self._be_child(parent, mask)

        self._children[pid] = clock.boottime()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _be_child(self, parent: int, mask: set[t.Any]) -> t.NoReturn:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)

        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        watcher = threading.Thread(target=_end_with, args=(parent,), daemon=True)
        watcher.start()
        self._work()
        sys.exit()

    def _wait(self) -> None:
        pid, status = os.wait()
        began = self._children.pop(pid, None)

        if began is None or (self._once and status == 0):
            return

        logger.warning("Process %d %s; another one is started.", pid, _how(status))
        time.sleep(max(0.0, MIN_LIFE - (clock.boottime() - began)))
        self._start()

    def _stop(self) -> int:
        logger.info("Stopping: what is in hand is finished or handed over.")

        for number, grace in (
            (signal.SIGTERM, STOP_GRACE),
            (signal.SIGTERM, FORCE_GRACE),
        ):
            self._send(number)
            self._wait_all(grace)

        killed = bool(self._children)
        self._send(signal.SIGKILL)
        self._wait_all(FORCE_GRACE)
        return int(killed)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait_all(self, grace: float) -> None:
        deadline = clock.boottime() + grace

        while self._children and clock.boottime() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)

            if pid == 0:
                clock.sleep(0.02)

            self._children.pop(pid, None)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was ended by {signal.Signals(os.WTERMSIG(status)).name}"

    return f"ended with code {os.waitstatus_to_exitcode(status)}"


def _end_with(parent: int) -> None:
    """End this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_LOOK)

    logger.warning("The supervisor is gone: process %d ends, too.", os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)
