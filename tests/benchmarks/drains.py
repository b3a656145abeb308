"""How fast two worker processes drain executions that are due.

``python -m tests.benchmarks.drains [ROUNDS [COUNT]]``: each wakes from a sleep and runs
one step; against RQ's own workers, which do nothing, one job after the other.
"""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import subprocess
import sys
import tempfile
import time

import sqlalchemy as sa
from redis import Redis as RedisClient
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from flask_durable.tables import executions

from .. import servers
from ..integration.sites import Journal
from ..processes import Gunicorn
from ..processes import ROOT
from ..processes import wait_until
from ..processes import Worker
from .asleep import send
from .databases import database
from .figures import Comparison
from .figures import shown

PROCESSES = 2

APP = f"{__package__}.apps.ours:app"

PAUSE = 0.5
"""Seconds between two looks at what has ended."""

AWAKE = (
    "UPDATE durable_steps SET wake_at = 0",
    "UPDATE durable_executions SET ready_at = 0, due_at = 0",
)


def drain(url: str, redis_url: str, folder: pathlib.Path, count: int) -> float:
    """Have workers wake executions, and give how many end in a second."""
    env = {
        "FLASK_DURABLE_DATABASE_URL": url,
        "FLASK_DURABLE_REDIS_URL": redis_url,
        "FLASK_SECRET_KEY": "benchmark",
    }

    with Gunicorn(APP, folder, worker_class="gthread", threads=4, env=env) as server:
        send(server.url, count)

    journal = Journal(url)

    with journal.engine.begin() as connection:
        for statement in AWAKE:
            connection.execute(sa.text(statement))

    with Worker(APP, folder, processes=PROCESSES, env=env):
        # To look often, or at whole rows, would take the workers' time.
        what = "all executions have ended"
        wait_until(lambda: len(ended(journal)) == count, 120, what, PAUSE)
        return rate(ended(journal))


def ended(journal: Journal) -> list[float]:
    """Give when executions ended, of those that have."""
    query = sa.select(executions.c.finished_at).where(
        executions.c.status == "completed"
    )

    with journal.engine.connect() as connection:
        return list(connection.scalars(query))


def no_ops(redis_url: str, count: int) -> float:
    """Have RQ's simple workers do nothing, and give the jobs a second."""
    with RedisClient.from_url(redis_url) as connection:
        connection.flushall()
        queue = Queue("noop", connection=connection, serializer=JSONSerializer)
        ids = [queue.enqueue("time.time", result_ttl=600).id for _ in range(count)]
        command = ["-m", "rq.cli", "worker", "--burst", "--url", redis_url]
        options = [
            "--worker-class",
            "rq.worker.SimpleWorker",
            "--logging_level",
            "WARN",
        ]
        serializer = ["--serializer", "rq.serializers.JSONSerializer"]
        arguments = [sys.executable, *command, *options, *serializer, "noop"]
        workers = [subprocess.Popen(arguments, cwd=ROOT) for _ in range(PROCESSES)]

        for worker in workers:
            assert worker.wait(120) == 0

        jobs = Job.fetch_many(ids, connection, serializer=JSONSerializer)
        moments = [job.ended_at for job in jobs if job and job.ended_at]
        return rate([moment.timestamp() for moment in moments])


def rate(moments: cabc.Sequence[float]) -> float:
    """Give how many ends there were in a second, from the first to the last."""
    return (len(moments) - 1) / (max(moments) - min(moments))


def measure(rounds: int, count: int) -> Comparison:
    """Take turns, and compare."""
    mine: list[float] = []
    theirs: list[float] = []

    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory() as name,
            database("postgresql") as url,
            servers.redis() as redis,
        ):
            mine.append(drain(url, redis.url, pathlib.Path(name), count))
            time.sleep(0.1)
            theirs.append(no_ops(redis.url, count))

    what = f"drained by {PROCESSES} workers"
    return Comparison(what, "PostgreSQL", "RQ's no-ops", mine, theirs, "/s", 0.5)


def main(rounds: int = 3, count: int = 1000) -> list[Comparison]:
    """Print a line."""
    return shown([measure(rounds, count)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
