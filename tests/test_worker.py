"""Workers: what they refuse, what they survive, and how they end."""

from __future__ import annotations

import collections.abc as cabc
import gc
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import typing as t
import zlib

import pytest
import rq
import sqlalchemy as sa
from flask import Flask
from redis import ConnectionError
from redis import Redis as RedisClient
from redis.connection import AbstractConnection
from rq import Queue
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.suspension import suspend

from flask_durable import FlaskDurable
from flask_durable import rq_worker
from flask_durable import step
from flask_durable import worker
from flask_durable.ids import new_id
from flask_durable.replay import replay
from flask_durable.rq_queue import connect
from flask_durable.rq_queue import durable_queue
from flask_durable.rq_queue import JOB
from flask_durable.rq_worker import ForeignJobError
from flask_durable.rq_worker import ReplayJob
from flask_durable.rq_worker import ReplayWorker
from flask_durable.state import opened_state
from flask_durable.supervisor import Stop
from flask_durable.tables import executions
from flask_durable.tables import leaders
from flask_durable.tables import steps
from flask_durable.worker import run_child

from . import servers
from .driving import Drive
from .fakes import FakeTime
from .integration.orders import DAY
from .integration.orders import enqueue
from .integration.orders import place
from .integration.sites import Journal
from .integration.sites import Ledger
from .integration.sites import SECRET_KEY
from .integration.sites import SHOP
from .integration.sites import shop
from .listening import Listener
from .processes import running
from .processes import wait_until
from .processes import Worker


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def client_of_redis(redis_url: str) -> cabc.Iterator[RedisClient]:
    """Look into Redis."""
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def queue(client_of_redis: RedisClient) -> Queue:
    """Give the queue that workers listen to."""
    return durable_queue("durable", client_of_redis)


@pytest.fixture
def mark(tmp_path: pathlib.Path) -> pathlib.Path:
    """Name a file that must never be there."""
    return tmp_path / "executed"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[t.Any, ...]:
        return pathlib.Path.touch, (self.path,)


def explode(job: t.Any, *args: t.Any) -> None:
    """Make a file, as a callback of a job; its description says where."""
    pathlib.Path(job.description).touch()


def test_a_bomb_explodes(mark: pathlib.Path) -> None:
    """Else the tests below would show nothing."""
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


# Jobs of others


class Workplace:
    """A worker of this process, with an app and an execution that is due."""

    def __init__(self, app: Flask, durable: FlaskDurable, queue: Queue) -> None:
        self.app = app
        self.queue = queue
        self.drive = Drive(app)

        @app.post("/work")
        @durable.endpoint
        def work() -> str:
            step.sleep("nap", 60)
            return "awake"

        self.answer = app.test_client().post("/work")
        self.id = self.answer.headers["Durable-Execution"]
        self.drive.advance(61)

    @property
    def status(self) -> str:
        """The status of the execution."""
        return str(self.drive.status(self.answer)["status"])

    def push(self, job_id: str, **fields: t.Any) -> None:
        """Write a job as somebody does who may write to Redis."""
        client = self.queue.connection
        now = "2030-01-01T00:00:00.000000Z"
        hash: dict[t.Any, t.Any] = {
            "created_at": now,
            "status": "queued",
            "timeout": "-1",
            **fields,
        }
        client.hset(f"rq:job:{job_id}", mapping=hash)
        client.rpush(self.queue.key, job_id)

    def push_good(self, **fields: t.Any) -> None:
        """Write the job that replays the execution."""
        self.push("good", data=data(args=[self.id, 2]), **fields)

    def work(self) -> None:
        """Work until the queue is empty; what ends a worker is survived."""
        while len(self.queue):
            connection = self.queue.connection
            worker = ReplayWorker(
                Stop(),
                [durable_queue("durable", connection, ReplayJob)],
                connection=connection,
                serializer=JSONSerializer,
            )

            with self.app.app_context():
                worker.work(burst=True, logging_level="CRITICAL")


def data(
    name: str = JOB,
    instance: t.Any = None,
    args: t.Any = (),
    kwargs: t.Any = None,
) -> bytes:
    """Encode what a job is to do."""
    text = json.dumps([name, instance, args, kwargs or {}])
    return zlib.compress(text.encode())


@pytest.fixture
def workplace(
    app: Flask, durable: FlaskDurable, queue: Queue
) -> cabc.Iterator[Workplace]:
    """Set up a worker; the process's signal handlers are put back."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield Workplace(app, durable, queue)

    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("name", "instance", "kwargs"),
    [
        ("os.system", None, None),
        ("flask_durable.dispatch_rq.connect", None, None),
        (JOB + "_", None, None),
        (JOB, {"a": 1}, None),
        (JOB, None, {"attempt": 2}),
    ],
)
def test_a_job_that_is_no_replay_is_refused(
    queue: Queue, name: str, instance: t.Any, kwargs: t.Any
) -> None:
    """With what to do about it; nothing is imported for it."""
    job = ReplayJob(connection=queue.connection, serializer=JSONSerializer)
    job.data = json.dumps([name, instance, ["touch x"], kwargs or {}]).encode()

    with pytest.raises(ForeignJobError, match="give other jobs a queue of their own"):
        job.perform()


def test_a_job_replays_its_execution(workplace: Workplace) -> None:
    """Else the tests below would show nothing."""
    workplace.push_good()
    workplace.work()
    assert workplace.status == "completed"


Poison = cabc.Callable[[bytes, pathlib.Path], dict[t.Any, t.Any]]

POISONS: dict[str, Poison] = {
    "pickle": lambda bomb, path: {"data": bomb},
    "packed-pickle": lambda bomb, path: {"data": zlib.compress(bomb)},
    "os-system": lambda bomb, path: {"data": data("os.system", args=[f"touch {path}"])},
    "touch": lambda bomb, path: {"data": data("pathlib.Path.touch", args=[str(path)])},
    "result": lambda bomb, path: {"data": b"x", "result": bomb},
    "meta": lambda bomb, path: {"data": b"x", "meta": bomb},
    "error": lambda bomb, path: {"data": b"x", "exc_info": zlib.compress(bomb)},
    "no-data": lambda bomb, path: {"data_": b"x"},
    "garbage": lambda bomb, path: {"data": b"\xff\x00", "created_at": b"\xff"},
    "bad-status": lambda bomb, path: {"data": data(), "status": "boom"},
    "bad-time-out": lambda bomb, path: {"data": data(), "timeout": "soon"},
    "no-list": lambda bomb, path: {"data": b'{"a": 1}'},
    "long-list": lambda bomb, path: {"data": b"[1,2,3,4,5]"},
    "odd-arguments": lambda bomb, path: {"data": data(args=[{"a": 1}, [2]])},
    "no-arguments": lambda bomb, path: {"data": data()},
    "bad-callback": lambda bomb, path: {
        "data": data(),
        "success_callback_name": b"\xff",
    },
}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_job_is_not_executed(
    workplace: Workplace, mark: pathlib.Path, poison: str
) -> None:
    """Nothing of it is unpickled, and the next job is done."""
    bomb = pickle.dumps(Bomb(mark))
    workplace.push("poison", **POISONS[poison](bomb, mark))
    workplace.push_good()
    workplace.work()
    assert workplace.status == "completed"
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_callbacks_of_a_job_are_not_called(
    workplace: Workplace, mark: pathlib.Path, kind: str
) -> None:
    """A job names any function for them."""
    callback = {f"{kind}_callback_name": f"{__name__}.explode"}
    fields = {**callback, "description": str(mark)}
    workplace.push("fails", data=data("os.system"), **fields)
    workplace.push_good(**fields)
    workplace.work()
    assert workplace.status == "completed"
    assert not mark.exists()


def test_a_job_has_no_time_limit(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says: an alarm would go off in the middle of a user's step."""
    seen: list[t.Any] = []

    def look(*args: t.Any) -> str:
        seen.append(signal.getsignal(signal.SIGALRM))
        return "seen"

    monkeypatch.setattr(rq_worker, "replay_execution", look)
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)

    try:
        workplace.push_good(timeout="100")
        workplace.work()
        assert seen == [signal.SIG_IGN]
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGALRM, before)


def test_webhooks_of_a_job_are_not_sent(workplace: Workplace) -> None:
    """A job names any address for them."""
    with Listener() as listener:
        hooks = [
            {"url": listener.url, "job_status": status}
            for status in ("finished", "failed")
        ]
        workplace.push("fails", data=data("os.system"), webhooks=json.dumps(hooks))
        workplace.push_good(webhooks=json.dumps(hooks))
        workplace.work()
        assert workplace.status == "completed"
        assert listener.connections == 0


@pytest.mark.parametrize("write", ["no-hash", "string", "odd-id"])
def test_an_id_without_a_job_is_passed_over(workplace: Workplace, write: str) -> None:
    """Redis may hold anything."""
    client = workplace.queue.connection

    if write == "string":
        client.set("rq:job:poison", "text")

    name = b"\xff\xfe" if write == "odd-id" else b"poison"
    client.rpush(workplace.queue.key, name)
    workplace.push_good()
    workplace.work()
    assert workplace.status == "completed"


def test_a_worker_takes_no_commands(workplace: Workplace) -> None:
    """Whoever can write to Redis could end it; nor does it keep a thread for them."""
    connection = workplace.queue.connection
    made = ReplayWorker(
        Stop(), [workplace.queue], connection=connection, serializer=JSONSerializer
    )
    made.work(burst=True, logging_level="CRITICAL")
    assert made.pubsub is None and made.pubsub_thread is None


TRIPS = 6
"""To Redis and back for a job: to look for ``rq suspend``, to take it, to read it, to
note that it began, and twice that it ended. RQ by itself goes about twenty times."""


def test_a_job_costs_few_trips_to_redis(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign of life is due now and then, not four times with each job."""
    trips = 0
    send = AbstractConnection.send_packed_command

    def count(*args: t.Any, **options: t.Any) -> None:
        nonlocal trips
        trips += 1
        t.cast(t.Any, send)(*args, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", count)

    def work(jobs: int) -> int:
        for number in range(jobs):
            workplace.push(f"job-{number}", data=data(args=[new_id(), 2]))

        before = trips
        workplace.work()
        return trips - before

    assert (work(30) - work(10)) / 20 <= TRIPS


def test_a_worker_gives_signs_of_life(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is nothing to do; what it does is said when it changes."""
    monkeypatch.setattr(rq_worker, "BEAT_PAUSE", 0.0)
    connection = workplace.queue.connection
    made = ReplayWorker(
        Stop(), [workplace.queue], connection=connection, serializer=JSONSerializer
    )
    t.cast(t.Any, made).register_birth()
    connection.hdel(made.key, "last_heartbeat")
    connection.persist(made.key)
    made.heartbeat()
    assert connection.hexists(made.key, "last_heartbeat")
    assert 0 < connection.ttl(made.key) <= made.worker_ttl + 60
    made.set_state("busy")
    assert connection.hget(made.key, "state") == b"busy"
    connection.hset(made.key, "state", "read")
    made.set_state("busy")
    assert connection.hget(made.key, "state") == b"read"
    made.set_state("suspended")
    made.set_state("idle")
    assert connection.hget(made.key, "state") == b"idle"


def test_the_end_of_a_job_is_said_before_the_next_one(workplace: Workplace) -> None:
    """With the look for ``rq suspend``, so that it costs no trip."""
    connection = workplace.queue.connection
    made = ReplayWorker(
        Stop(), [workplace.queue], connection=connection, serializer=JSONSerializer
    )
    made.set_state("busy")
    made.set_state("idle")
    assert made.get_state() == "idle"
    assert connection.hget(made.key, "state") == b"busy"
    made.check_for_suspension(burst=False)
    assert connection.hget(made.key, "state") == b"idle"
    connection.hset(made.key, "state", "read")
    made.check_for_suspension(burst=False)
    assert connection.hget(made.key, "state") == b"read"


def test_a_held_worker_takes_no_job_and_may_end(workplace: Workplace) -> None:
    """Whatever it looked at a moment ago."""
    connection = workplace.queue.connection
    stop = Stop()
    made = ReplayWorker(
        stop, [workplace.queue], connection=connection, serializer=JSONSerializer
    )
    made.check_for_suspension(burst=False)
    suspend(connection)
    workplace.push_good()

    def end() -> None:
        wait_until(lambda: connection.hget(made.key, "state") == b"suspended")
        stop.asked = True
        made.stop()

    ends = threading.Thread(target=end)
    ends.start()

    with workplace.app.app_context(), pytest.raises(StopRequested):
        made.check_for_suspension(burst=False)

    ends.join()
    assert len(workplace.queue) == 1


def test_what_is_loaded_is_no_garbage(app: Flask, durable: FlaskDurable) -> None:
    """To look for some there would hold up the first replay of a process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in numbers]
    frozen = gc.get_freeze_count()

    try:
        run_child(app, burst=True)
        assert gc.get_freeze_count() > frozen + 10_000
    finally:
        gc.unfreeze()

        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Outage(FakeTime):
    """A Redis that is away, and a clock that turns while a worker waits for it."""

    def __init__(self, stop: Stop, until: float, back: range) -> None:
        super().__init__()
        self._stop = stop
        self._until = until
        self._back = back

    def work(self) -> None:
        """Work while Redis is there, and raise when it isn't."""
        if self.now > self._until:
            self._stop.asked = True

        if int(self.now) in self._back:
            self.now = float(self._back.stop)

        raise ConnectionError("Refused.")


@pytest.mark.parametrize(
    ("back", "count"),
    [(range(0), 2), (range(20, 40), 3)],
)
def test_an_outage_of_redis_is_told_seldom(
    app: Flask,
    durable: FlaskDurable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    back: range,
    count: int,
) -> None:
    """At its begin, and once a minute; the worker tries again each second."""
    child = worker._Rq(app, opened_state(app), burst=False)
    outage = Outage(child.stop, 110, back)
    monkeypatch.setattr(worker, "time", outage)
    monkeypatch.setattr(child, "_work", outage.work)
    child._work_on()
    told = "Redis can't be used: Refused. It is tried again."
    assert caplog.messages == [told] * count


# A poisoned database


COLUMNS = [
    column
    for table in (executions, steps)
    for column in table.columns
    if isinstance(column.type, sa.LargeBinary)
]


@pytest.mark.parametrize("column", COLUMNS, ids=str)
def test_a_poisoned_column_is_not_unpickled(
    app: Flask,
    durable: FlaskDurable,
    mark: pathlib.Path,
    column: sa.Column[t.Any],
) -> None:
    """Whatever reads it: replays, watchers, the app."""
    bomb = pickle.dumps(Bomb(mark))
    durable.identity(lambda: "ada")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("seat", lambda: "14A")
        step.sleep("nap", 60)
        return "awake"

    client, drive = app.test_client(), Drive(app)
    answer = client.post("/work", headers={"Cookie": "a=1"})
    id = answer.headers["Durable-Execution"]
    poison = column.table.update().values({column.name: bomb})
    drive.state.store.database.run(lambda c: c.execute(poison))
    drive.advance(61)

    assert replay(app, id, 2).startswith("is ")
    document = drive.status(answer)
    assert client.get(document["response_url"]).status_code in (200, 202, 500)
    assert not mark.exists()


# Real workers


class Works(Ledger):
    """A worker of the shop, its journal, and what its steps really did."""

    def __init__(self, folder: pathlib.Path, url: str, redis: str | None) -> None:
        super().__init__(folder)
        self.url = url
        self.redis = redis
        self.journal = Journal(url)

    def worker(self, *options: str, processes: int = 1, **env: str) -> Worker:
        """Make a worker; settings come without their prefix."""
        settings = {f"FLASK_DURABLE_{key}": value for key, value in env.items()}
        settings["FLASK_DURABLE_DATABASE_URL"] = self.url
        settings["FLASK_SECRET_KEY"] = SECRET_KEY

        if self.redis is not None:
            settings["FLASK_DURABLE_REDIS_URL"] = self.redis

        return Worker(
            SHOP, self.folder, processes=processes, env=settings, options=options
        )

    def place(self, path: str, order: str, **options: t.Any) -> str:
        """Store an execution that is due."""
        return place(self.url, path, order, **options)


@pytest.fixture(params=["redis", "embedded"])
def works(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, sqlite_url: str
) -> Works:
    """Set up a worker's surroundings, with Redis and without."""
    with_redis = request.param == "redis"
    redis = request.getfixturevalue("redis_url") if with_redis else None
    return Works(tmp_path, sqlite_url, redis)


with_redis = pytest.mark.parametrize("works", ["redis"], indirect=True)

SOON = 12.0
"""Seconds for what is promised within two or three; the machine may be busy."""


def check_end(worker: Worker, within: float) -> None:
    """Make sure that a worker ends by itself, in time and without a word of trouble."""
    wait_until(worker.ended, within, "the worker has ended")
    assert worker.kill() == 0, worker.log()
    assert "Traceback" not in worker.log()
    assert "was ended by" not in worker.log()


@pytest.mark.slow
def test_an_idle_worker_ends_at_once(works: Works) -> None:
    """All of its processes."""
    with works.worker(processes=2) as worker:
        os.kill(worker.pid, signal.SIGTERM)
        check_end(worker, SOON)


@pytest.mark.slow
def test_a_worker_ends_by_the_keyboard(works: Works) -> None:
    """The terminal sends its signal to all processes at once."""
    with works.worker(processes=2) as worker:
        works.place("/four", "a")
        works.wait_for_call("a", "four")
        os.killpg(worker.pid, signal.SIGINT)
        check_end(worker, SOON)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("works", "number"),
    [
        ("redis", signal.SIGTERM),
        ("embedded", signal.SIGTERM),
        ("redis", signal.SIGINT),
    ],
    indirect=["works"],
)
def test_a_worker_finishes_its_own_view(works: Works, number: signal.Signals) -> None:
    """It ends after that, and nothing runs twice."""
    with works.worker() as worker:
        id = works.place("/slow", "a", seconds=1.5)
        works.wait_for_call("a", "slow")
        os.killpg(worker.pid, number)
        check_end(worker, 20)

    row = works.journal.row(id)
    assert (row.status, row.attempt) == ("completed", 2)
    assert works.names("a") == ["first", "slow", "last"]


@pytest.mark.slow
def test_a_worker_finishes_its_own_view_without_redis(
    tmp_path: pathlib.Path, sqlite_url: str
) -> None:
    """Which is no reason for a step to fail."""
    with servers.redis() as server:
        works = Works(tmp_path, sqlite_url, server.url)

        with works.worker() as worker:
            id = works.place("/slow", "a", seconds=1.5)
            works.wait_for_call("a", "slow")
            server.kill()
            os.kill(worker.pid, signal.SIGTERM)
            wait_until(worker.ended, 20, "the worker has ended")
            row = works.journal.row(id)
            assert (row.status, row.attempt, row.errors) == ("completed", 2, 0)
            assert works.names("a") == ["first", "slow", "last"]

        server.start()


@pytest.mark.slow
@with_redis
def test_a_worker_lets_go_of_a_view_that_a_server_runs(
    works: Works, tmp_path: pathlib.Path
) -> None:
    """The server goes on with it."""
    folder = tmp_path / "server"
    folder.mkdir()

    env = works.worker().env
    one = {"worker_class": "gthread", "threads": 4, "workers": 1}

    with shop(folder, works.url, env, **one) as site:
        with works.worker(REPLAY_URL=site.server.url) as worker:
            id = works.place("/slow", "a", seconds=4)
            made = site.wait_for_call("a", "slow")
            os.kill(worker.pid, signal.SIGTERM)
            check_end(worker, SOON)
            assert f"Attempt 2 of execution {id} took" in worker.log()
            assert "it is running" in worker.log()

        row = works.journal.wait_for(id)
        assert (row.attempt, site.names("a")) == (2, ["first", "slow", "last"])
        assert made.pid in site.gunicorn.worker_pids()


@pytest.mark.slow
@with_redis
def test_a_killed_child_comes_back(works: Works) -> None:
    """And the execution that it had goes on."""
    with works.worker() as worker:
        (before,) = worker.children()
        id = works.place("/slow", "a", seconds=30)
        works.wait_for_call("a", "slow")
        worker.kill_child(before)
        row = works.journal.wait_for(id)
        assert row.attempt == 3
        assert before not in worker.children()
        assert f"Process {before} was ended by SIGKILL; another one" in worker.log()


@pytest.mark.slow
@with_redis
def test_a_killed_child_loses_nothing_of_its_job(works: Works) -> None:
    """Where many are due, a job has several; those behind the first are sent again."""
    orders = [f"order-{number}" for number in range(40)]
    ids = [works.place("/four", order) for order in orders]

    with works.worker() as worker:
        (child,) = worker.children()
        works.wait_for_call(orders[4], "two")
        worker.kill_child(child)
        rows = [works.journal.wait_for(id, timeout=40) for id in ids]

    assert {row.attempt for row in rows} <= {2, 3}
    names = [name for order in orders for name in works.names(order)]
    # What was running may be called once more, and nothing else.
    assert len(names) - 4 * len(orders) in (0, 1)
    assert all(
        {*works.names(order)} == {"one", "two", "three", "four"} for order in orders
    )


def living(pids: list[int]) -> list[int]:
    """List those of some processes that run."""
    return [process.pid for process in running() if process.pid in pids]


@pytest.mark.slow
@with_redis
def test_a_killed_supervisor_takes_its_children_with_it(works: Works) -> None:
    """Nobody would end them else."""
    with works.worker(processes=2) as worker:
        children = worker.children()
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: not living(children), SOON, "the children have ended")
        assert worker.log().count("The supervisor is gone") == 2
        assert "Traceback" not in worker.log()


@pytest.mark.slow
def test_a_worker_outlives_redis(tmp_path: pathlib.Path, sqlite_url: str) -> None:
    """What it lost is sent again; no process had to be started for it."""
    with servers.redis() as server:
        works = Works(tmp_path, sqlite_url, server.url)

        with works.worker() as worker:
            children = worker.children()
            first = works.place("/four", "a")
            works.journal.wait_for(first)
            server.restart()
            second = works.place("/four", "b")
            works.journal.wait_for(second, timeout=30)
            assert worker.children() == children


@pytest.mark.slow
@with_redis
def test_a_worker_outlives_poison(works: Works, mark: pathlib.Path) -> None:
    """Jobs that end RQ's own worker, and those that want something else."""
    bomb = pickle.dumps(Bomb(mark))
    assert works.redis is not None

    with works.worker() as worker, connect(works.redis) as client:
        children = worker.children()

        for name in ("pickle", "os-system", "garbage"):
            client.hset(f"rq:job:{name}", mapping=POISONS[name](bomb, mark))
            client.rpush("rq:queue:durable", name)

        works.journal.wait_for(works.place("/four", "a"), timeout=30)
        wait_until(lambda: "asks for os.system" in worker.log(), 15)
        assert worker.children() == children
        assert not mark.exists()


def run_burst(works: Works, *options: str) -> subprocess.CompletedProcess[str]:
    """Let a worker do what is due and end."""
    made = works.worker("--burst", *options)
    return subprocess.run(
        made.command,
        cwd=made.cwd,
        env=made.env,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_a_burst_ends_when_nothing_is_due(works: Works) -> None:
    """What is due later is left to others."""
    ids = [works.place("/four", order) for order in "abc"]
    later = works.place("/four", "d", ready_in=DAY)
    done = run_burst(works)
    assert "Traceback" not in done.stdout
    assert [works.journal.row(id).status for id in ids] == ["completed"] * 3
    assert works.journal.row(later).status == "suspended"


@pytest.mark.slow
@pytest.mark.parametrize("works", ["embedded"], indirect=True)
def test_a_burst_passes_over_what_cant_be_replayed(works: Works) -> None:
    """It does the rest, and ends."""
    bad, good = works.place("/four", "a"), works.place("/four", "b")
    works.journal.change(bad, request=b"\x80\x04garbage")
    done = run_burst(works)
    assert f"The request of execution {bad} can't be sent." in done.stdout
    assert works.journal.row(good).status == "completed"
    assert works.journal.row(bad).status == "suspended"


@pytest.mark.slow
@with_redis
def test_a_worker_listens_to_the_queue_that_it_is_given(works: Works) -> None:
    """And to no other."""
    mine, other = (works.place("/four", order, ready_in=DAY) for order in "ab")
    assert works.redis is not None

    for id, queue in ((mine, "mine"), (other, "durable")):
        works.journal.change(id, ready_at=0.0)
        enqueue(works.redis, id, queue)

    done = run_burst(works, "--queue=mine")
    assert 'by the queue "mine" of redis://' in done.stdout
    assert works.journal.row(mine).status == "completed"
    assert works.journal.row(other).status == "suspended"


@pytest.mark.slow
@with_redis
def test_one_of_all_processes_sweeps(works: Works) -> None:
    """RQ's tools know them all."""
    query = sa.select(leaders.c.owner)

    with works.worker(processes=2) as worker:
        works.journal.wait_for(works.place("/four", "a"))
        assert works.redis is not None

        with connect(works.redis) as client:
            names = [one.name for one in rq.Worker.all(client)]

        with works.journal.engine.connect() as connection:
            (owner,) = connection.scalars(query)

        assert int(owner.split(":")[-2]) in worker.children()
        pids = {int(name.split("-")[-2]) for name in names}
        assert pids == set(worker.children())
        program = pathlib.Path(sys.executable).parent / "rq"
        command: list[t.Any] = [program, "info", f"--url={works.redis}", "--raw"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert [name for name in names if name not in done.stdout] == []


@pytest.mark.slow
@pytest.mark.parametrize("works", ["embedded"], indirect=True)
def test_without_redis_each_process_looks_for_itself(works: Works) -> None:
    """Nobody is elected, and replays run in threads."""
    query = sa.select(sa.func.count()).select_from(leaders)

    with works.worker() as worker:
        works.journal.wait_for(works.place("/four", "a"))
        assert {call.pid for call in works.called("a")} == set(worker.children())
        assert "Replaying shop from sqlite:///" in worker.log()

        with works.journal.engine.connect() as connection:
            assert connection.scalar(query) == 0
