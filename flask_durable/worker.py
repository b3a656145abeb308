"""One process that replays what is due: a child of ``flask durable worker``.

With Redis it is an RQ worker with a sweeper; without, an embedded dispatcher.
"""

from __future__ import annotations

import collections.abc as cabc
import logging
import math
import os
import secrets
import signal
import socket
import time
import types

import redis
from flask import Flask
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer

from .dispatch_rq import NoDispatcher
from .dispatch_rq import RqDispatcher
from .dispatch_thread import ThreadDispatcher
from .records import Due
from .replay import replay
from .rq_queue import connect
from .rq_queue import durable_queue
from .rq_queue import reason
from .rq_queue import RqHands
from .rq_worker import Quiet
from .rq_worker import ReplayJob
from .rq_worker import ReplayWorker
from .rq_worker import WORKER_TTL
from .sending import warm_up
from .state import opened_state
from .state import spare_loaded
from .state import State
from .supervisor import Stop
from .supervisor import STOP_GRACE
from .sweeper import OUTAGE_QUIET
from .sweeper import Sweeper

logger = logging.getLogger(__name__)

REDIS_PAUSE = 1.0
"""Seconds until a worker that lost Redis begins again."""

TELL_PAUSE = 60.0
"""Seconds between two log lines about one outage."""

REDIS_TIMEOUT = 5.0
"""Seconds to wait for a connection to Redis."""


def run_child(app: Flask, burst: bool) -> None:
    """Replay what is due in this process until asked to end.

    :param burst: end when nothing is due
    :raises RedisError: if Redis is away in a burst
    """
    state = opened_state(app)
    rq = state.config.redis_url is not None
    child = _Rq(app, state, burst) if rq else _Embedded(app, state, burst)
    child.listen()

    if state.config.replay_url is not None:
        warm_up()

    spare_loaded()
    logger.info("Process %d is ready.", os.getpid())

    try:
        child.run()
    finally:
        state.close(STOP_GRACE)


class _Child:
    """What both kinds have in common: they end when they are asked to."""

    def __init__(self, app: Flask, state: State, burst: bool) -> None:
        self.app = app
        self.state = state
        self.burst = burst
        self.stop = Stop()

    def listen(self) -> None:
        """Listen to signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_stop)

        signal.signal(signal.SIGQUIT, self._on_force)

    def on_stop(self, number: int, frame: types.FrameType | None) -> None:
        """Finish running replays, then end."""
        self.stop.asked = True

    def _on_force(self, number: int, frame: types.FrameType | None) -> None:
        """End at once; running attempts are handed back."""
        self.stop.asked = True
        self.state.leaves = True
        raise SystemExit(1)

    def run(self) -> None:
        """Work until asked to end."""
        raise NotImplementedError


class _Rq(_Child):
    """Works on the queue in Redis."""

    worker: ReplayWorker | None = None
    _away_at = -math.inf
    """When Redis was away last."""
    _told_at = -math.inf

    def on_stop(self, number: int, frame: types.FrameType | None) -> None:
        """Finish the current job, and take no more."""
        self.stop.asked = True

        if self.worker is not None:
            self.worker.stop()

    def run(self) -> None:
        """Work until asked to end, or until nothing is due."""
        logging.getLogger("rq.worker").addFilter(Quiet())

        with self.app.app_context():
            if self.burst:
                self.state.start(NoDispatcher)
                self._empty()
            else:
                self.state.start(lambda: RqDispatcher(self.app))
                self._work_on()

    def _work_on(self) -> None:
        while not self.stop.asked:
            try:
                self._work()
            except redis.RedisError as error:
                self._log_outage(error)

            until = time.monotonic() + REDIS_PAUSE

            while not self.stop.asked and time.monotonic() < until:
                time.sleep(0.05)

    def _log_outage(self, error: redis.RedisError) -> None:
        """Log an outage when it begins, and seldom while it lasts."""
        now = time.monotonic()

        if now - self._away_at > OUTAGE_QUIET or now - self._told_at >= TELL_PAUSE:
            why = reason(error)
            logger.warning("Redis can't be used: %s. It is tried again.", why)
            self._told_at = now

        self._away_at = now

    def _empty(self) -> None:
        sweeper = Sweeper(self.state, RqHands(self.state))
        due = True

        while due and not self.stop.asked:
            self._work()
            sweeper.wake(0.0)
            due = sweeper.look() == 0.0

    def _work(self) -> None:
        """Work until asked to end, or until Redis is lost."""
        worker = self._make_worker()
        self.worker = worker

        try:
            worker.work(burst=self.burst, logging_level="WARNING")
        except StopRequested:
            pass
        finally:
            self.worker = None

    def _make_worker(self) -> ReplayWorker:
        config = self.state.config
        assert config.redis_url is not None
        connection = connect(config.redis_url, REDIS_TIMEOUT)
        unique = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        return ReplayWorker(
            self.stop,
            [durable_queue(config.queue, connection, ReplayJob)],
            name=f"durable-{unique}",
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            log_job_description=False,
        )


class _CallerHands:
    """Replays in the calling thread."""

    patience = 2.0
    pause = 0.0
    shared = False
    usable = True

    def __init__(self, app: Flask) -> None:
        self._app = app

    def free(self) -> int:
        """Take one at a time."""
        return 1

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Replay now."""
        for due in found:
            attempt = due.attempt + 1
            outcome = replay(self._app, due.id, attempt)
            logger.info("Attempt %d of execution %s: it %s.", attempt, due.id, outcome)


class _Embedded(_Child):
    """Replays in threads of one process, without Redis."""

    def run(self) -> None:
        """Replay until asked to end, or until nothing is due."""
        if not self.burst:
            self.state.start(lambda: ThreadDispatcher(self.app))
            self.stop.wait()
            return

        self.state.start(NoDispatcher)
        sweeper = Sweeper(self.state, _CallerHands(self.app))

        while not self.stop.asked and sweeper.look() == 0.0:
            pass
