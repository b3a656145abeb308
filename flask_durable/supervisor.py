"""Keeps a number of child processes alive, and stops them in an orderly way.

Children are new processes, not forks, because processes must not share what the app
opened when it was loaded, such as a pool of connections.
"""

from __future__ import annotations

import collections.abc as cabc
import logging
import os
import signal
import subprocess
import threading
import time
import types

from . import clock

logger = logging.getLogger(__name__)

STOP_GRACE = 25.0
"""Seconds that children have to finish running replays."""

FORCE_GRACE = 5.0
"""Seconds that they have after that to hand these back, before they are killed."""

MIN_LIFE = 1.0
"""Seconds between two starts of a child that ends at once or can't be started."""

PAUSE = 0.05
"""Seconds between two looks at the children."""

PARENT = "DURABLE_WORKER_PARENT"
"""The environment variable that tells a child its supervisor's process id."""


class Stop:
    """Notes that this process was asked to end; signal handlers do nothing else."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Note ``SIGTERM`` and ``SIGINT``."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.asked = True

    def wait(self) -> None:
        """Return when the process is asked to end."""
        while not self.asked:
            time.sleep(PAUSE)


class Supervisor:
    """Runs a command in several child processes.

    :param command: the program and its arguments; it ends in an orderly way on
        ``SIGTERM``, and on ``SIGQUIT`` hands back at once what it runs
    :param count: how many children
    :param once: whether children that ended are not started again, as in a burst
    """

    def __init__(
        self, command: cabc.Sequence[str], count: int, once: bool = False
    ) -> None:
        self._command = command
        self._once = once
        self._failed = False
        self._children: dict[subprocess.Popen[bytes], float] = {}
        self._starts = [0.0] * count
        """When children are to be started, by the boot clock."""
        self._stop = Stop()

    def run(self) -> int:
        """Run until asked to end, or until all children are done.

        :return: the exit code: 1 if a child failed for good or had to be killed
        """
        self._stop.listen()

        while (self._children or self._starts) and not self._stop.asked:
            self._start_due()
            self._collect()
            time.sleep(PAUSE)

        if self._children:
            self._end()

        return int(self._failed)

    def _start_due(self) -> None:
        now = clock.boottime()

        for moment in [moment for moment in self._starts if moment <= now]:
            self._starts.remove(moment)

            try:
                self._children[self._start()] = now
            except OSError as error:
                # The machine may be out of memory for a moment, say.
                logger.warning(
                    "A process can't be started: %s. It is tried again.", error
                )
                self._starts.append(now + MIN_LIFE)

    def _start(self) -> subprocess.Popen[bytes]:
        env = {**os.environ, PARENT: str(os.getpid())}
        return subprocess.Popen(self._command, env=env, stdin=subprocess.DEVNULL)

    def _collect(self) -> None:
        for child in [child for child in self._children if child.poll() is not None]:
            began = self._children.pop(child)

            if self._once:
                self._failed = self._failed or child.returncode != 0
                continue

            how = _how(child.returncode)
            logger.warning("Process %d %s; another one is started.", child.pid, how)
            self._starts.append(began + MIN_LIFE)

    def _end(self) -> None:
        logger.info("Stopping: what is in hand is finished or handed over.")

        for number, grace in (
            (signal.SIGTERM, STOP_GRACE),
            (signal.SIGQUIT, FORCE_GRACE),
            (signal.SIGKILL, FORCE_GRACE),
        ):
            self._failed = self._failed or number == signal.SIGKILL

            for child in self._children:
                child.send_signal(number)

            if self._all_end(grace):
                return

    def _all_end(self, grace: float) -> bool:
        deadline = clock.boottime() + grace

        while clock.boottime() < deadline:
            for child in [c for c in self._children if c.poll() is not None]:
                del self._children[child]

            if not self._children:
                return True

            time.sleep(PAUSE)

        return False


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"

    return f"ended with code {code}"


def end_with_parent() -> None:
    """Have this child end when its supervisor is gone."""
    parent = int(os.environ[PARENT])
    watch = threading.Thread(target=_watch, args=(parent,), daemon=True)
    watch.start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)

    logger.warning("The supervisor is gone: process %d ends, too.", os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)
