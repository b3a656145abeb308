"""The RQ dispatcher: due executions go to a queue that workers listen to.

The database holds the truth. Redis carries only what is due now, as ids, and may
lose everything at any time: what nobody claims is sent again. ``replay_execution``
is named in jobs on their way, so its import path is a wire format.
"""

from __future__ import annotations

import collections.abc as cabc
import functools
import logging
import os
import time
import typing as t

import redis
from flask import current_app
from flask import Flask
from flask.cli import ScriptInfo
from rq import Queue
from rq.job import Job
from rq.queue import EnqueueData
from rq.serializers import JSONSerializer

from . import clock
from .records import Due
from .replay import AWAY
from .replay import replay
from .state import get_state
from .state import opened_state
from .state import State
from .state import this_app
from .sweeper import Sweeper
from .threads import start_thread

logger = logging.getLogger(__name__)

JOB = "flask_durable.dispatch_rq.replay_execution"
"""The function that a job names."""

MAX_QUEUED = 100
"""Jobs that may wait in Redis; what else is due waits in the database."""

RESULT_TTL = 60
"""Seconds for which what came of a job is kept in Redis."""

FAILURE_TTL = 3_600
"""The same of a job that raised."""

SOCKET_TIMEOUT = 1.0
"""Seconds that the sweeper waits for Redis; it has other things to look after."""


def connect(url: str, timeout: float = SOCKET_TIMEOUT) -> redis.Redis:
    """Make a client of the Redis server that carries the queue.

    :param timeout: seconds to wait for a connection, and for an answer
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=30,
    )


class DurableQueue(Queue):
    """A queue on whose jobs no other ones depend, so that none are looked for."""

    def move_dependents_to_ready(
        self, *args: t.Any, **kwargs: t.Any
    ) -> dict[str, t.Any]:
        """Find none, from RQ 3 on."""
        return {}

    def enqueue_dependents(self, *args: t.Any, **kwargs: t.Any) -> dict[str, t.Any]:
        """Find none, before RQ 3."""
        return {}


def durable_queue(
    name: str, connection: redis.Redis, job_class: type[Job] = Job
) -> DurableQueue:
    """Make the queue that carries executions; its jobs are JSON, never pickles."""
    return DurableQueue(
        name, connection=connection, serializer=JSONSerializer, job_class=job_class
    )


AWAY_PAUSE = 1.0
"""Seconds until a job whose journal is away looks again."""


class RqHands:
    """Takes due executions for the workers of the queue."""

    patience = 5.0
    pause = 0.05
    shared = True

    def __init__(self, state: State) -> None:
        config = state.config
        assert config.redis_url is not None
        connection = connect(config.redis_url)
        self._queue = durable_queue(config.queue, connection)
        self._away = False

    def free(self) -> int:
        """Tell how many more jobs may wait; none while Redis is away.

        Until half of them are done there are none either: to take executions one by
        one costs a commit each.
        """
        try:
            free = MAX_QUEUED - len(self._queue)
        except redis.RedisError as error:
            self._note_outage(error)
            return 0

        if self._away:
            logger.warning("Redis is back: what is due is sent to the workers.")

        self._away = False
        self.pause = RqHands.pause
        return free if free >= MAX_QUEUED // 2 else 0

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Queue executions; what can't be queued is sent again in a while."""
        if not found or self._away:
            return

        try:
            self._queue.enqueue_many(map(_job, found))
        except redis.RedisError as error:
            self._note_outage(error)

    def _note_outage(self, error: redis.RedisError) -> None:
        """Log an outage once, and ask seldom while it lasts."""
        if not self._away:
            logger.warning(
                "Redis can't be used: %s. Due executions wait in the journal.", error
            )

        self._away = True
        self.pause = 1.0


def _job(due: Due) -> EnqueueData:
    attempt = due.attempt + 1
    return Queue.prepare_data(
        JOB,
        args=(due.id, attempt),
        # Each dispatch has another: the hash of an old one may still live.
        job_id=f"{due.id}-{attempt}-{due.looks}",
        description=f"attempt {attempt} of execution {due.id}",
        # A time-out's exception would look like an error of a step.
        timeout=-1,
        result_ttl=RESULT_TTL,
        failure_ttl=FAILURE_TTL,
    )


class RqDispatcher:
    """Sends what is due to the queue."""

    def __init__(self, app: Flask) -> None:
        state = get_state(app)
        self._sweeper = Sweeper(state, RqHands(state))

    def start(self) -> None:
        """Start the sweeper."""
        start_thread(self._sweeper.run, "flask_durable.sweeper")

    def wake(self, delay: float) -> None:
        """Hear that an execution becomes due."""
        self._sweeper.wake(delay)

    def stop(self, grace: float) -> None:
        """Send no more."""
        self._sweeper.stop()


class NoDispatcher:
    """Looks for nothing, in processes that only run one job."""

    def start(self) -> None:
        """Do nothing."""

    def wake(self, delay: float) -> None:
        """Leave it to the processes that sweep."""

    def stop(self, grace: float) -> None:
        """Do nothing."""


def replay_execution(execution_id: str, attempt: int) -> str:
    """Replay an execution: the job that workers run.

    The app is the current one, or, in a plain ``rq worker``, the one that
    ``FLASK_APP`` names.

    :param attempt: the number of the attempt that is to begin
    :return: what became of it
    :raises TypeError: if the arguments are no execution and attempt
    """
    if not isinstance(execution_id, str) or type(attempt) is not int:
        raise TypeError(f"No execution: {execution_id!r}, attempt {attempt!r}.")

    app = this_app() if current_app else _load_app()
    opened_state(app).start(NoDispatcher)
    began = time.monotonic()
    outcome = _replay(app, execution_id, attempt)
    logger.info(
        "Attempt %d of execution %s took %.2f s: it %s.",
        attempt,
        execution_id,
        time.monotonic() - began,
        outcome,
    )
    return outcome


def _replay(app: Flask, execution_id: str, attempt: int) -> str:
    """Replay; while the journal is away, wait with the job in hand.

    Else the jobs in the queue would all be taken within a second and lead nowhere,
    and their executions would have to wait for another turn, behind all others.
    """
    # After that the sweeper sends it again.
    deadline = clock.boottime() + RqHands.patience

    while (outcome := replay(app, execution_id, attempt)) == AWAY:
        if clock.boottime() >= deadline:
            break

        clock.sleep(AWAY_PAUSE)

    return outcome


@functools.cache
def _load_app() -> Flask:
    # The variable is read by the ``flask`` command, not by what it hands on.
    return ScriptInfo(os.environ.get("FLASK_APP")).load_app()
