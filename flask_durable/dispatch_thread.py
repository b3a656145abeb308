"""The embedded dispatcher: a sweeper and a few threads in the app's process."""

from __future__ import annotations

import collections.abc as cabc
import logging
import queue
import threading

from flask import Flask

from . import clock
from .records import Due
from .replay import replay
from .state import get_state
from .sweeper import Sweeper
from .threads import start_thread

logger = logging.getLogger(__name__)


class ThreadDispatcher:
    """Replays due executions in threads of this process, through WSGI."""

    patience = 2.0
    pause = 1.0
    shared = False
    usable = True

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._threads = get_state(app).config.replay_threads
        self._sweeper = Sweeper(get_state(app), self)
        self._queue: queue.SimpleQueue[Due | None] = queue.SimpleQueue()
        self._in_hand: set[str] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    def start(self) -> None:
        """Start the threads.

        :raises RuntimeError: if the process can't have so many now; then it has none
        """
        try:
            for number in range(self._threads):
                start_thread(self._work, f"flask_durable.replay-{number}")

            start_thread(self._sweeper.run, "flask_durable.sweeper")
        except RuntimeError:
            self._dismiss()
            raise

    def free(self) -> int:
        """Tell how many threads have nothing to do."""
        return self._threads - len(self._in_hand)

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Have threads replay executions."""
        for due in found:
            with self._lock:
                if due.id in self._in_hand:
                    continue

                self._in_hand.add(due.id)

            self._queue.put(due)

    def wake(self, delay: float) -> None:
        """Hear that an execution becomes due."""
        self._sweeper.wake(delay)

    def stop(self, grace: float) -> None:
        """Take no more, and wait for the replays in hand."""
        self._sweeper.stop()
        deadline = clock.boottime() + grace

        with self._idle:
            while self._in_hand and (left := deadline - clock.boottime()) > 0:
                self._idle.wait(left)

        self._dismiss()

    def _dismiss(self) -> None:
        """Have the threads for replays end, once the queue is empty."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _work(self) -> None:
        while (due := self._queue.get()) is not None:
            try:
                replay(self._app, due.id, due.attempt + 1)
            except BaseException:
                # A view's SystemExit, say, must not cost the process a thread.
                logger.exception("The replay of execution %s failed.", due.id)
            finally:
                with self._idle:
                    self._in_hand.discard(due.id)
                    self._idle.notify_all()

                self._sweeper.wake(0.0)
