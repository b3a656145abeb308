"""The queue in Redis that carries due executions to RQ workers.

Redis holds only the ids of executions that are due now, and may lose them at any time:
what nobody claims is sent again.
"""

from __future__ import annotations

import collections.abc as cabc
import logging
import math
import typing as t

import redis
from rq import Queue
from rq import Worker
from rq.job import Job
from rq.queue import EnqueueData
from rq.serializers import JSONSerializer

from . import clock
from .records import Due
from .state import State

logger = logging.getLogger(__name__)

JOB = "flask_durable.dispatch_rq.replay_execution"
"""The function that a job names."""

MAX_JOBS = 20
"""Most jobs that wait in Redis; what else is due waits in the database."""

PER_JOB = 5
"""Most executions in a job. RQ's own work for a job costs a worker as much as a replay,
so where many executions are due, several share a job."""

RESULT_TTL = 60
"""Seconds for which the result of a job is kept in Redis."""

FAILURE_TTL = 3_600
"""The same for a job that raised."""

Next = tuple[str, int]
"""An execution, and the number of the attempt that is to begin."""

IDLE = 10
"""Seconds that the first job may wait before a warning: an idle worker takes it at
once."""

WATCH_PAUSE = 1.0
"""Seconds between two checks for that."""

SOCKET_TIMEOUT = 1.0
"""Seconds that the sweeper waits for Redis; it has other work to do."""


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


def reason(error: redis.RedisError) -> str:
    """Say what is wrong with Redis, as a part of a sentence."""
    return str(error).rstrip(".")


class DurableQueue(Queue):
    """A queue whose jobs have no dependents, so that RQ need not look for any."""

    def move_dependents_to_ready(
        self, *args: t.Any, **kwargs: t.Any
    ) -> dict[str, t.Any]:
        """Do nothing (RQ 3 calls this)."""
        return {}

    def enqueue_dependents(self, *args: t.Any, **kwargs: t.Any) -> dict[str, t.Any]:
        """Do nothing (RQ before 3 calls this)."""
        return {}


def durable_queue(
    name: str, connection: redis.Redis, job_class: type[Job] = Job
) -> DurableQueue:
    """Make the queue that carries executions; its jobs are JSON, never pickles."""
    return DurableQueue(
        name, connection=connection, serializer=JSONSerializer, job_class=job_class
    )


class IdleWatch:
    """Warns once if jobs wait and no worker takes them, until one does."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._first: str | None = None
        self._since = self._looked_at = clock.boottime()
        self._told = False

    def look(self, waiting: int) -> None:
        """Check whether the first job is still the same one.

        :param waiting: how many jobs there are
        """
        now = clock.boottime()

        if waiting and now - self._looked_at < WATCH_PAUSE:
            return

        self._looked_at = now
        first = self._queue.get_job_ids(0, 1)[0:1] if waiting else []

        if not first or first[0] != self._first:
            self._first = first[0] if first else None
            self._since, self._told = now, False
        elif not self._told and now - self._since > IDLE:
            self._tell(waiting, now)

    def _tell(self, waiting: int, now: float) -> None:
        workers = Worker.all(queue=self._queue)

        # A worker that is busy with a long view takes no other job meanwhile.
        if any(worker.get_state() == "busy" for worker in workers):
            self._since = now
            return

        self._told = True
        logger.warning(
            'No worker takes what is due: %d jobs have waited in the queue "%s" for'
            " over %d seconds. Does `flask durable worker` run?",
            waiting,
            self._queue.name,
            IDLE,
        )


class RqHands:
    """Queues due executions for the workers."""

    patience = 5.0
    pause = 0.05
    shared = True

    def __init__(self, state: State) -> None:
        config = state.config
        assert config.redis_url is not None
        connection = connect(config.redis_url)
        self._queue = durable_queue(config.queue, connection)
        self._watch = IdleWatch(self._queue)
        self.usable = True

    def free(self) -> int:
        """Return how many more executions the queue takes; none while Redis is away.

        It takes none either until half of the jobs are done: to take executions one by
        one would cost a commit each.
        """
        try:
            waiting = len(self._queue)
            self._watch.look(waiting)
        except redis.RedisError as error:
            self._note_outage(error)
            return 0

        if not self.usable:
            logger.warning("Redis is back: what is due is sent to the workers.")

        self.usable = True
        self.pause = RqHands.pause
        jobs = MAX_JOBS - waiting
        return jobs * PER_JOB if jobs >= MAX_JOBS // 2 else 0

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Queue executions; they share jobs only if there are more of them than jobs.

        What can't be queued is sent again after a while.
        """
        if not found or not self.usable:
            return

        size = math.ceil(len(found) / MAX_JOBS)
        self._enqueue(_job(found[i : i + size]) for i in range(0, len(found), size))

    def hand_on(self, executions: cabc.Sequence[Next]) -> None:
        """Queue what a worker took but did not begin, ahead of what waits already."""
        # Each goes to the very front, so the first one has to be queued last.
        last_first = reversed(executions)
        self._enqueue(_job_of([one], at_front=True) for one in last_first)

    def _enqueue(self, jobs: cabc.Iterable[EnqueueData]) -> None:
        try:
            self._queue.enqueue_many(jobs)
        except redis.RedisError as error:
            self._note_outage(error)

    def _note_outage(self, error: redis.RedisError) -> None:
        """Log an outage once, and ask seldom while it lasts."""
        if self.usable:
            logger.warning(
                "Redis can't be used: %s. Due executions wait in the journal.",
                reason(error),
            )

        self.usable = False
        self.pause = 1.0


def _job(found: cabc.Sequence[Due]) -> EnqueueData:
    """Describe a job. Each dispatch has a new id: Redis may still have the old job."""
    first = found[0]
    executions = [(due.id, due.attempt + 1) for due in found]
    return _job_of(executions, f"{first.id}-{first.attempt + 1}-{first.looks}")


def _job_of(
    executions: cabc.Sequence[Next], job_id: str | None = None, at_front: bool = False
) -> EnqueueData:
    (execution_id, attempt), *rest = executions
    more = f" and {len(rest)} more" if rest else ""
    return Queue.prepare_data(
        JOB,
        args=(execution_id, attempt, rest) if rest else (execution_id, attempt),
        job_id=job_id,
        description=f"attempt {attempt} of execution {execution_id}{more}",
        # RQ's exception for a time-out would look like an error of a step.
        timeout=-1,
        result_ttl=RESULT_TTL,
        failure_ttl=FAILURE_TTL,
        at_front=at_front,
    )
