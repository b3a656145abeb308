"""The RQ worker, which replays executions and does nothing else."""

from __future__ import annotations

import logging
import math
import time
import typing as t

from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.timeouts import BaseDeathPenalty
from rq.worker import WorkerStatus

from .dispatch_rq import replay_execution
from .rq_queue import DurableQueue
from .rq_queue import JOB
from .sending import let_go
from .supervisor import Stop

WORKER_TTL = 60
"""Seconds after which Redis forgets a worker that sends no more heartbeats."""

BEAT_PAUSE = 5.0
"""Least seconds between two heartbeats; RQ by itself sends four with each job."""

DONE = (WorkerStatus.BUSY, WorkerStatus.IDLE)
"""A worker's state before and after the end of a job."""

QUIET = 10.0
"""Seconds without an error of Redis after which RQ may log the next one."""


class ForeignJobError(Exception):
    """A job in the queue asks for something other than a replay."""


class ReplayJob(Job):
    """A job that can do nothing but replay an execution.

    Otherwise whoever can write to Redis could have any function, callback or webhook
    called.
    """

    @property
    def success_callback(self) -> None:
        """Nothing to call."""

    @property
    def failure_callback(self) -> None:
        """Nothing to call."""

    @property
    def stopped_callback(self) -> None:
        """Nothing to call."""

    def perform(self) -> t.Any:
        """Replay the execution.

        :raises ForeignJobError: if the job asks for something else
        """
        if self.func_name != JOB or self.instance is not None or self.kwargs:
            raise ForeignJobError(
                f"Job {self.id} asks for {self.func_name}, and this worker replays"
                " executions only: give other jobs a queue of their own."
            )

        return replay_execution(*self.args)

    def heartbeat(
        self, timestamp: t.Any, ttl: int, pipeline: t.Any = None, xx: bool = False
    ) -> None:
        """Send a heartbeat only where it goes along with another command."""
        if pipeline is not None:
            super().heartbeat(timestamp, ttl, pipeline, xx)

    def send_webhooks(self, *args: t.Any, **kwargs: t.Any) -> None:
        """Send nothing."""


class NoTimeLimit(BaseDeathPenalty):
    """Lets jobs take as long as they need, whatever limit they have in Redis.

    RQ's exception would be raised in a user's step, which would then be called again.
    """

    def setup_death_penalty(self) -> None:
        """Set no alarm."""

    def cancel_death_penalty(self) -> None:
        """There is none."""


class ReplayWorker(SimpleWorker):
    """An RQ worker that replays executions without a fork for each.

    RQ's signal handlers are left out: they talk to Redis, and a Redis error would be
    raised in the middle of a user's step. So are RQ's commands through Redis.
    """

    job_class = ReplayJob
    queue_class = DurableQueue
    death_penalty_class = NoTimeLimit
    log_result_lifespan = False
    max_connection_wait_time = 2.0

    def __init__(self, stop: Stop, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop = stop
        self._waits = False
        self._beat_at = -math.inf
        self._rests = False

    def stop(self) -> None:
        """End after the current job; signal handlers call this.

        If a server runs the job's view, its answer is not waited for.
        """
        # RQ's own flag: it ends the wait for ``rq resume``.
        self._stop_requested = True

        if self._waits:
            raise StopRequested

        let_go()

    def check_for_suspension(self, burst: bool) -> None:
        """Wait while ``rq suspend`` holds the workers, before each job.

        :raises StopRequested: if the process was asked to end
        """
        if not self._stop.asked:
            t.cast(t.Any, super()).check_for_suspension(burst)

        if self._stop.asked:
            raise StopRequested

    def heartbeat(self, timeout: int | None = None, pipeline: t.Any = None) -> None:
        """Send a heartbeat, unless the last one was sent only just now.

        Where it goes along with other commands, it costs nothing and is always sent.
        """
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)

            if self._rests:
                self.set_state(WorkerStatus.IDLE, pipeline)
        elif time.monotonic() - self._beat_at >= BEAT_PAUSE:
            with self.connection.pipeline(transaction=False) as several:
                super().heartbeat(timeout, several)
                several.execute()

            self._beat_at = time.monotonic()

    def set_state(self, state: str, pipeline: t.Any = None) -> None:
        """Report the worker's state, if it has changed.

        The end of a job is reported with the check for ``rq suspend`` before the next.
        """
        if pipeline is None and state == self.get_state():
            return

        self._rests = pipeline is None and (self.get_state(), state) == DONE

        if self._rests:
            self._state = state
        else:
            super().set_state(state, pipeline)

    def dequeue_job_and_maintain_ttl(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        """Wait for a job; only this wait may be broken off by a signal."""
        self._waits = True

        try:
            if self._stop.asked:
                raise StopRequested

            return super().dequeue_job_and_maintain_ttl(*args, **kwargs)
        finally:
            self._waits = False

    def _install_signal_handlers(self) -> None:
        """Install none: the process has its own."""

    def subscribe(self) -> None:
        """Take no commands."""

    def unsubscribe(self) -> None:
        """There is nothing to end."""


class Quiet(logging.Filter):
    """Lets RQ log once that Redis is away, not at each try."""

    _last = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to log a record."""
        if "could not connect to Redis" not in str(record.msg):
            return True

        before, self._last = self._last, time.monotonic()
        return self._last - before > QUIET
