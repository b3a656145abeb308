"""Processes that replay what is due: ``flask durable worker``.

With Redis they are RQ workers, each with a sweeper; without, embedded dispatchers.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
import types
import typing as t

import redis
from flask import Flask
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from .dispatch_rq import connect
from .dispatch_rq import durable_queue
from .dispatch_rq import JOB
from .dispatch_rq import NoDispatcher
from .dispatch_rq import replay_execution
from .dispatch_rq import RqDispatcher
from .dispatch_rq import RqHands
from .dispatch_thread import ThreadDispatcher
from .records import Due
from .replay import replay
from .sending import let_go
from .state import opened_state
from .state import State
from .supervisor import STOP_GRACE
from .supervisor import Supervisor
from .supervisor import wait_for_stop
from .sweeper import Sweeper

logger = logging.getLogger(__name__)

WORKER_TTL = 60
"""Seconds after which Redis forgets a worker that is heard of no more."""

STOP_LOOK = 2
"""Whole seconds after which a signal is seen for certain."""

REDIS_PAUSE = 1.0
"""Seconds until a worker that lost Redis begins anew."""


class ForeignJobError(Exception):
    """A job of the queue asks for something else than a replay."""


class ReplayJob(Job):
    """A job that can do nothing but replay an execution.

    Whoever can write to Redis can name any function, callback or webhook.
    """

    @property
    def success_callback(self) -> t.Any:
        """Nothing, whatever the job names."""
        return None

    @property
    def failure_callback(self) -> t.Any:
        """Nothing."""
        return None

    @property
    def stopped_callback(self) -> t.Any:
        """Nothing."""
        return None

    def perform(self) -> t.Any:
        """Replay the execution.

        :raises ForeignJobError: if it is another job
        """
        if self.func_name != JOB or self.instance is not None or self.kwargs:
            raise ForeignJobError(
                f"Job {self.id} asks for {self.func_name}, and this worker replays"
                " executions only: give other jobs a queue of their own."
            )

        return replay_execution(*self.args)

    def send_webhooks(self, *args: t.Any, **kwargs: t.Any) -> None:
        """Send nothing."""


class ReplayWorker(SimpleWorker):
    """An RQ worker that replays executions without a fork for each."""

    job_class = ReplayJob
    log_result_lifespan = False
    max_connection_wait_time = 2.0
    stopping = False

    @property
    def dequeue_timeout(self) -> int:
        """Whole seconds to wait for a job, and then to look again.

        A signal may come after Python looked for one and before it waits.
        """
        return STOP_LOOK

    def _install_signal_handlers(self) -> None:
        t.cast(t.Any, super())._install_signal_handlers()
        # It may have been asked to end while it signed on.
        self._stop_requested = self.stopping

    def request_stop(self, signum: int, frame: types.FrameType | None) -> None:
        """End after the job in hand; a view that another process runs is let go."""
        self.stopping = True
        t.cast(t.Any, super()).request_stop(signum, frame)
        let_go()

    def set_shutdown_requested_date(self) -> None:
        """Tell Redis nothing: a signal interrupts the view in hand.

        An error of Redis would be raised in it, and a Redis that hangs hold it up.
        """

    def teardown(self) -> None:
        """Sign off; if Redis is not there to hear it, at least listen no more."""
        try:
            t.cast(t.Any, super()).teardown()
        except redis.RedisError:
            if self.pubsub_thread is not None:
                self.pubsub_thread.stop()

            raise


def run_worker(app: Flask, processes: int, burst: bool, queue: str | None) -> int:
    """Replay what is due in child processes until asked to end.

    :param burst: end when nothing is due
    :param queue: the queue to listen to, else ``DURABLE_QUEUE``
    :return: the exit code
    """
    config = opened_state(app).config

    if config.redis_url is None:
        work = _Embedded(app, burst).run
    else:
        work = _Rq(app, queue or config.queue, burst).run

    return Supervisor(work, processes, burst).run()


class _Rq:
    """Works on the queue in one process."""

    def __init__(self, app: Flask, queue: str, burst: bool) -> None:
        self._app = app
        self._queue = queue
        self._burst = burst
        self._stopping = False
        self._worker: ReplayWorker | None = None

    def run(self) -> None:
        """Work until asked to end, or until nothing is due."""
        state = opened_state(self._app)

        with self._app.app_context():
            if self._burst:
                state.start(NoDispatcher)
                self._empty(state)
            else:
                state.start(lambda: RqDispatcher(self._app))
                self._work_on(state)

        state.close(STOP_GRACE)

    def _work_on(self, state: State) -> None:
        while not self._stopping:
            self._work(state)

            if not self._stopping:
                time.sleep(REDIS_PAUSE)

    def _empty(self, state: State) -> None:
        sweeper = Sweeper(state, RqHands(state))
        self._work(state)
        sweeper.wake(0.0)

        while not self._stopping and sweeper.look() == 0.0:
            self._work(state)
            sweeper.wake(0.0)

    def _work(self, state: State) -> None:
        """Work until asked to end, or until Redis is lost."""
        self._catch_signals()

        try:
            self._worker = self._make_worker(state)

            if not self._stopping:
                self._worker.work(burst=self._burst, logging_level="WARNING")
        except StopRequested:
            # It was asked between two lines that look out for it.
            pass
        except redis.RedisError as error:
            logger.warning("Redis can't be used: %s. It is tried again.", error)
        finally:
            self._catch_signals()

            if self._worker is not None and self._worker.stopping:
                self._stopping = True

    def _make_worker(self, state: State) -> ReplayWorker:
        assert state.config.redis_url is not None
        connection = connect(state.config.redis_url)
        unique = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        return ReplayWorker(
            [durable_queue(self._queue, connection)],
            name=f"durable-{unique}",
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            log_job_description=False,
        )

    def _catch_signals(self) -> None:
        """Note signals that come while no worker of RQ's looks out for them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        self._stopping = True

        if self._worker is not None:
            self._worker.stopping = True


class _CallerHands:
    """Replays in the calling thread."""

    patience = 2.0
    pause = 0.0
    shared = False

    def __init__(self, app: Flask) -> None:
        self._app = app

    def free(self) -> int:
        """Take one at a time."""
        return 1

    def send(self, due: Due) -> None:
        """Replay now."""
        logger.info(
            "Attempt %d of execution %s %s.",
            due.attempt + 1,
            due.id,
            replay(self._app, due.id, due.attempt + 1),
        )


class _Embedded:
    """Replays in threads of one process, without Redis."""

    def __init__(self, app: Flask, burst: bool) -> None:
        self._app = app
        self._burst = burst

    def run(self) -> None:
        """Replay until asked to end, or until nothing is due."""
        state = opened_state(self._app)

        if self._burst:
            state.start(NoDispatcher)
            sweeper = Sweeper(state, _CallerHands(self._app))

            while sweeper.look() == 0.0:
                pass
        else:
            state.start(lambda: ThreadDispatcher(self._app))
            wait_for_stop()

        state.close(STOP_GRACE)
