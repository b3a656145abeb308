"""The RQ dispatcher: what goes to the queue, and what its job does."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import json
import pathlib
import subprocess
import sys
import threading
import time
import typing as t
import zlib

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis as RedisClient
from rq import Worker
from rq.job import Job

from flask_durable import clock
from flask_durable import dispatch_rq
from flask_durable import FlaskDurable
from flask_durable import rq_queue
from flask_durable import step
from flask_durable.database import Database
from flask_durable.dispatch_rq import replay_execution
from flask_durable.dispatch_rq import RqDispatcher
from flask_durable.ids import new_id
from flask_durable.leaders import Leaders
from flask_durable.rq_queue import connect
from flask_durable.rq_queue import durable_queue
from flask_durable.rq_queue import FAILURE_TTL
from flask_durable.rq_queue import RESULT_TTL
from flask_durable.rq_queue import RqHands
from flask_durable.state import opened_state
from flask_durable.store import Store
from flask_durable.sweeper import POLL
from flask_durable.sweeper import Sweeper
from flask_durable.tables import executions

from .driving import Drive
from .integration.orders import enqueue
from .integration.orders import place
from .integration.sites import Journal
from .integration.sites import SECRET_KEY
from .integration.sites import SHOP
from .processes import free_port
from .processes import HOST
from .processes import Process
from .processes import wait_until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def app(app: Flask, redis_url: str) -> Flask:
    """Have an app whose due executions go to a queue."""
    app.config["DURABLE_REDIS_URL"] = redis_url
    return app


@pytest.fixture
def client_of_redis(redis_url: str) -> cabc.Iterator[RedisClient]:
    """Look into Redis."""
    with connect(redis_url) as client:
        yield client


class Line:
    """Executions that sleep, and the queue that carries them."""

    def __init__(self, app: Flask, durable: FlaskDurable, drive: Drive) -> None:
        self.app = app
        self.drive = drive
        self.state = opened_state(app)
        self.hands = RqHands(self.state)
        self.sweeper = Sweeper(self.state, self.hands)
        self.attempts = 0
        self.hold: threading.Event | None = None

        @app.post("/work")
        @durable.endpoint
        def work() -> str:
            self.attempts += 1
            step.sleep("nap", 60)
            assert self.hold is None or self.hold.wait(10)
            return "awake"

    def begin(self) -> str:
        """Begin an execution and give its id."""
        answer = self.app.test_client().post("/work")
        return answer.headers["Durable-Execution"]

    def jobs(self) -> list[Job]:
        """List the jobs that wait."""
        url = self.state.config.redis_url
        assert url is not None
        return durable_queue(self.state.config.queue, connect(url)).jobs

    def begin_in_turn(self, count: int) -> list[str]:
        """Begin executions of which no two are due at the same moment."""
        ids = []

        for _ in range(count):
            ids.append(self.begin())
            self.drive.advance(1)

        return ids

    def look(self) -> float:
        """Let the sweeper look, as often as it wants to at once."""
        while (delay := self.sweeper.look()) == 0.0:
            pass

        return delay


@pytest.fixture
def line(app: Flask, durable: FlaskDurable, drive: Drive) -> Line:
    """Set up an app with a view that sleeps."""
    return Line(app, durable, drive)


# Due executions become jobs


def test_the_check_tells_of_workers_that_are_dead(
    line: Line, client_of_redis: RedisClient
) -> None:
    """Redis names them for minutes, while what is due gets late."""
    client_of_redis.sadd("rq:workers:durable", "rq:worker:killed")
    check = ["durable", "check"]
    line.begin()
    line.drive.advance(65)
    line.look()
    assert line.app.test_cli_runner().invoke(args=check).exit_code == 0
    line.drive.advance(10)
    done = line.app.test_cli_runner().invoke(args=check)
    assert done.exit_code == 1
    (text,) = [one for one in done.output.splitlines() if one.startswith("bad")]
    assert "1 jobs wait, and a due execution has waited for 15 s: does" in text


def test_what_is_not_due_is_no_job(line: Line) -> None:
    """Its time is kept by the sweeper, not by RQ."""
    line.begin()
    line.look()
    assert line.jobs() == []


def test_what_is_due_becomes_one_job(line: Line, client_of_redis: RedisClient) -> None:
    """In JSON, with the execution and the attempt that is to begin, and no more."""
    id = line.begin()
    line.drive.advance(61)
    line.look()
    (job,) = line.jobs()
    data = client_of_redis.hget(f"rq:job:{job.id}", "data")
    assert json.loads(zlib.decompress(t.cast(bytes, data))) == [
        "flask_durable.dispatch_rq.replay_execution",
        None,
        [id, 2],
        {},
    ]


def test_a_job_never_times_out_and_leaves_little(line: Line) -> None:
    """A time-out would look like a step's failure."""
    line.begin()
    line.drive.advance(61)
    line.look()
    (job,) = line.jobs()
    assert job.timeout == -1
    assert (job.result_ttl, job.failure_ttl) == (RESULT_TTL, FAILURE_TTL) == (60, 3600)
    assert job.retries_left is None


def test_each_dispatch_has_a_job_of_its_own(line: Line) -> None:
    """What nobody claims is sent again after a while, though the old job is there."""
    id = line.begin()
    line.drive.advance(61)

    for _ in range(3):
        line.look()
        line.look()
        line.drive.advance(RqHands.patience)

    assert [job.id for job in line.jobs()] == [f"{id}-2-{n}" for n in (1, 2, 3)]


def fill(
    line: Line, monkeypatch: pytest.MonkeyPatch, most: int, count: int
) -> list[str]:
    """Have more executions due than may wait, one a job, and look once."""
    monkeypatch.setattr(rq_queue, "MAX_JOBS", most)
    monkeypatch.setattr(rq_queue, "PER_JOB", 1)
    ids = line.begin_in_turn(count)
    line.drive.advance(61)
    assert line.look() == RqHands.pause
    return ids


def test_no_more_is_queued_than_may_wait(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest waits in the journal, where nothing is lost."""
    ids = fill(line, monkeypatch, 3, 5)
    assert [job.args[0] for job in line.jobs()] == ids[:3]
    assert line.hands.free() == 0
    line.jobs()[0].delete()
    line.look()
    assert [job.args[0] for job in line.jobs()] == ids[1:4]


def test_a_full_queue_is_filled_again_when_half_of_it_is_done(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, each would cost a commit."""
    ids = fill(line, monkeypatch, 4, 6)
    line.jobs()[0].delete()
    assert line.look() == RqHands.pause
    assert [job.args[0] for job in line.jobs()] == ids[1:4]
    line.jobs()[0].delete()
    line.look()
    assert [job.args[0] for job in line.jobs()] == ids[2:]


@pytest.mark.parametrize(
    ("count", "sizes"), [(4, [1, 1, 1, 1]), (5, [2, 2, 1]), (20, [3, 3, 3, 3])]
)
def test_where_many_are_due_a_job_has_several(
    line: Line, monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]
) -> None:
    """But not while there are no more than jobs that may wait."""
    monkeypatch.setattr(rq_queue, "MAX_JOBS", 4)
    monkeypatch.setattr(rq_queue, "PER_JOB", 3)
    ids = line.begin_in_turn(count)
    line.drive.advance(61)
    line.look()
    jobs = line.jobs()
    sent = [[job.args[:2], *(job.args[2:] or [[]])[0]] for job in jobs]
    assert [len(executions) for executions in sent] == sizes
    assert sum(sent, []) == [[id, 2] for id in ids[: sum(sizes)]]
    more = f" and {sizes[0] - 1} more" if sizes[0] > 1 else ""
    assert jobs[0].description == f"attempt 2 of execution {ids[0]}{more}"
    assert line.hands.free() == 0


def test_the_queue_has_the_name_that_is_set(app: Flask) -> None:
    """So that apps don't take each other's jobs."""
    app.config["DURABLE_QUEUE"] = "trips"
    durable = FlaskDurable(app)
    line = Line(app, durable, Drive(app))
    line.begin()
    line.drive.advance(61)
    line.look()
    (job,) = line.jobs()
    assert job.origin == "trips"
    line.state.close()


def test_a_dispatcher_sends_what_becomes_due(
    app: Flask, durable: FlaskDurable, client: FlaskClient, line: Line
) -> None:
    """It hears of it, and need not look again and again."""

    @app.post("/soon")
    @durable.endpoint
    def soon() -> str:
        step.sleep("nap", 0.2)
        return "awake"

    durable.start_dispatcher(app)
    assert isinstance(line.state.dispatcher, RqDispatcher)
    began = time.monotonic()
    assert client.post("/soon").status_code == 202
    wait_until(line.jobs)
    assert 0.1 < time.monotonic() - began < 5


# No worker is there


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> cabc.Callable[[float], None]:
    """Turn the clock of this process."""
    now = clock.boottime()

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds
        monkeypatch.setattr(clock, "boottime", lambda: now)

    return later


def test_a_queue_that_nobody_takes_from_is_told_once(
    line: Line, later: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And again, if it was taken from in between."""
    for _ in range(2):
        line.begin()

    line.drive.advance(61)
    line.look()

    for count in (1, 2):
        for _ in range(20):
            line.hands.free()
            later(2)

        text = 'jobs have waited in the queue "durable" for over 10 seconds. Does'
        assert caplog.text.count(text) == count
        line.jobs()[0].delete()


def test_a_worker_with_a_long_view_is_waited_for(
    line: Line,
    later: t.Any,
    client_of_redis: RedisClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It takes the next one after that."""
    worker: t.Any = Worker([durable_queue("durable", client_of_redis)])
    worker.register_birth()
    worker.set_state("busy")
    line.begin()
    line.drive.advance(61)
    line.look()

    for _ in range(20):
        line.hands.free()
        later(2)

    assert "No worker takes" not in caplog.text
    worker.register_death()


# Redis is away


@pytest.fixture
def away(app: Flask) -> None:
    """Have no Redis where it should be."""
    app.config["DURABLE_REDIS_URL"] = nowhere_url()


def test_without_redis_nothing_is_taken(
    away: None, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so once, and it is asked seldom."""
    line.begin()
    line.drive.advance(61)
    assert [line.hands.free() for _ in range(3)] == [0, 0, 0]
    assert line.look() == line.hands.pause == 1.0
    assert caplog.text.count("Redis can't be used") == 1
    assert "Due executions wait in the journal" in caplog.text
    assert (line.state.upkeep.next_due() or 0.0) < 0


def test_what_redis_did_not_take_is_sent_again(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes down between the question and the job."""
    id = line.begin()
    line.drive.advance(61)

    with monkeypatch.context() as patch:
        patch.setattr(line.hands, "free", lambda: 5)
        patch.setattr(line.hands, "_queue", durable_queue("durable", nowhere()))
        line.look()

    assert caplog.text.count("Redis can't be used") == 1
    assert line.look() == 1.0, "not before the patience is over"
    line.drive.advance(RqHands.patience)
    soon = clock.boottime() + POLL
    monkeypatch.setattr(clock, "boottime", lambda: soon)
    line.look()
    assert [job.args for job in line.jobs()] == [[id, 2]]
    assert "Redis is back" in caplog.text
    assert line.hands.pause == RqHands.pause


def nowhere_url() -> str:
    """Name a port where nobody listens."""
    return f"redis://{HOST}:{free_port()}/0"


def nowhere() -> RedisClient:
    """Connect to it."""
    return connect(nowhere_url())


def test_without_redis_the_client_is_served(
    away: None, app: Flask, durable: FlaskDurable, line: Line
) -> None:
    """It hears where its execution is to be seen."""
    durable.start_dispatcher(app)
    began = time.monotonic()
    answer = app.test_client().post("/work")
    assert answer.status_code == 202
    assert line.drive.status(answer)["status"] == "suspended"
    assert time.monotonic() - began < 5


def test_a_flushed_redis_loses_nothing(
    line: Line, client_of_redis: RedisClient
) -> None:
    """The journal knows what was sent and not claimed."""
    id = line.begin()
    line.drive.advance(61)
    line.look()
    client_of_redis.flushall()
    line.drive.advance(RqHands.patience)
    line.look()
    assert [job.args for job in line.jobs()] == [[id, 2]]


# The job


@pytest.mark.parametrize(
    "arguments",
    [(1, 2), ("x", "2"), ("x", True), ("x", 2.0), (None, 1), (["x"], 1), ("x", None)],
)
def test_a_job_with_odd_arguments_is_refused(
    app: Flask, durable: FlaskDurable, arguments: t.Any
) -> None:
    """Before the journal is asked."""
    with app.app_context(), pytest.raises(TypeError, match="No execution: "):
        replay_execution(*arguments)

    with app.app_context(), pytest.raises(TypeError, match="No execution: "):
        replay_execution("x", 2, [("y", 2), arguments])


def test_a_job_replays_its_execution(line: Line) -> None:
    """And its result says what became of it."""
    id = line.begin()
    line.drive.advance(61)

    with line.app.app_context():
        assert replay_execution(id, 2) == "is completed"

    assert line.attempts == 2


def test_the_result_of_a_job_has_no_message(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept in Redis, where nothing is encrypted; the log has all of it."""
    ids = [line.begin(), line.begin()]
    line.drive.advance(61)
    spoil = executions.update().where(executions.c.id == ids[1])
    database = line.state.store.database
    database.run(lambda c: c.execute(spoil.values(request=b'{"card 4111": ')))

    def broken(*args: t.Any) -> t.NoReturn:
        raise LookupError("card 4111")

    t.cast(t.Any, line.app).wsgi_app = broken

    with line.app.app_context():
        said = [replay_execution(id, 2) for id in ids]

    assert said[0] == "is put off for 1 s: answered by an exception (LookupError)"
    assert said[1].endswith("since it can't be sent (json.decoder.JSONDecodeError)")
    assert "card 4111" in caplog.text


def several(line: Line, count: int) -> list[tuple[str, int]]:
    """Have executions due, and give them with their next attempts' numbers."""
    ids = line.begin_in_turn(count)
    line.drive.advance(61)
    return [(id, 2) for id in ids]


def test_a_job_replays_several_executions(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not due any more, or never was there, is passed over."""
    monkeypatch.setattr(dispatch_rq, "PATIENCE_WITH_OTHERS", 60.0)
    first, second, third = several(line, 3)
    rest = [(new_id(), 2), second, second, third]

    with line.app.app_context():
        said = replay_execution(*first, rest).split("; ")

    assert line.attempts == 6
    assert [words.partition(":")[0] for words in said] == [
        "is completed",
        "is passed over",
        "is completed",
        "is passed over",
        "is completed",
    ]
    assert line.jobs() == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Tell when others have what did not begin; they don't wait for it."""
    handed_on = threading.Event()
    hand_on = RqHands.hand_on

    def tell(self: RqHands, executions: t.Any) -> None:
        hand_on(self, executions)
        handed_on.set()

    monkeypatch.setattr(dispatch_rq, "PATIENCE_WITH_OTHERS", 0.0)
    monkeypatch.setattr(RqHands, "hand_on", tell)
    return handed_on


def test_none_waits_for_a_slow_one_of_its_job(
    line: Line, impatient: threading.Event
) -> None:
    """It goes to other workers while the slow one runs, before what waits behind."""
    first, second, third, other = several(line, 4)
    line.sweeper.sweep(1)
    (waiting,) = line.jobs()

    line.hold = impatient

    with line.app.app_context():
        said = replay_execution(*other, [second, third])

    assert said == "is completed"
    assert [tuple(job.args) for job in line.jobs()] == [second, third, first]
    assert line.jobs()[-1].id == waiting.id


def test_without_threads_the_rest_goes_to_others_at_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is replayed all the same."""
    first, second, third = several(line, 3)

    def fail(thread: threading.Thread) -> t.NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, line.app.app_context():
        patch.setattr(threading.Timer, "start", fail)
        assert replay_execution(*first, [second, third]) == "is completed"

    assert [tuple(job.args) for job in line.jobs()] == [second, third]


def test_a_job_ends_when_its_rest_is_queued(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may end with it, and the thread that hands on, too."""
    first, second = several(line, 2)
    line.hold, queued = threading.Event(), threading.Event()
    hand_on = RqHands.hand_on

    def late(hands: RqHands, executions: t.Any) -> None:
        assert line.hold is not None
        line.hold.set()
        queued.wait(0.1)
        hand_on(hands, executions)
        queued.set()

    monkeypatch.setattr(dispatch_rq, "PATIENCE_WITH_OTHERS", 0.0)
    monkeypatch.setattr(RqHands, "hand_on", late)

    with line.app.app_context():
        assert replay_execution(*first, [second]) == "is completed"

    assert queued.is_set()


def test_a_job_that_fails_leaves_the_rest_to_others(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was."""
    first, second, third = several(line, 3)

    def fail(*args: t.Any) -> t.NoReturn:
        raise SystemExit

    monkeypatch.setattr(dispatch_rq, "replay", fail)

    with line.app.app_context(), pytest.raises(SystemExit):
        replay_execution(*first, [second, third])

    assert [tuple(job.args) for job in line.jobs()] == [second, third]


def test_what_cant_be_handed_on_is_sent_again(
    line: Line,
    impatient: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the sweeper, as all that nobody claims."""
    first, second = several(line, 2)
    assert line.sweeper.sweep(5) == 2
    config = dataclasses.replace(line.state.config, redis_url=nowhere_url())
    line.hold = impatient

    with monkeypatch.context() as patch, line.app.app_context():
        patch.setattr(line.state, "config", config)
        assert replay_execution(*first, [second]) == "is completed"

    assert "Due executions wait in the journal" in caplog.text
    line.drive.advance(RqHands.patience)
    line.look()
    assert tuple(line.jobs()[-1].args) == second


@pytest.mark.parametrize("attempt", [-1, 0, 1, 3])
def test_a_job_of_another_attempt_is_passed_over(line: Line, attempt: int) -> None:
    """One may come late, or twice."""
    id = line.begin()
    line.drive.advance(61)

    with line.app.app_context():
        said = replay_execution(id, attempt)

    assert said == "is passed over: it is suspended in attempt 1"
    assert line.attempts == 1


def test_a_job_that_comes_too_early_runs_nothing(line: Line) -> None:
    """Whoever wrote it: the journal's clock counts."""
    id = line.begin()

    with line.app.app_context():
        replay_execution(id, 2)

    assert line.attempts == 1
    assert line.state.store.execution(id).rejections == 0


def test_a_job_without_an_execution_is_passed_over(line: Line) -> None:
    """It was deleted, or was never ours."""
    with line.app.app_context():
        said = replay_execution(new_id(), 2)

    assert said == "is passed over: the journal has no such execution"


def test_a_job_of_another_app_is_passed_over(line: Line, database_url: str) -> None:
    """Two apps with one journal share a queue by mistake; the result says so."""
    id = place(database_url, "/work", "a", app="other")

    with line.app.app_context():
        said = replay_execution(id, 2)

    assert 'is passed over: it is of the app "other"' in said
    assert "DURABLE_QUEUE" in said
    assert line.attempts == 0


def test_due_executions_of_others_are_no_jobs(line: Line, database_url: str) -> None:
    """Each app sweeps for itself."""
    place(database_url, "/work", "a", app="other")
    line.look()
    assert line.jobs() == []


def test_a_job_names_its_function() -> None:
    """Its path is a wire format: jobs on their way have it."""
    name = replay_execution.__qualname__
    assert rq_queue.JOB == f"{replay_execution.__module__}.{name}"


# RQ's own programs


def rq(folder: pathlib.Path, env: dict[str, str], *arguments: str) -> Process:
    """Make a run of RQ's command line."""
    program = pathlib.Path(sys.executable).parent / "rq"
    return Process([program, *arguments], folder, env)


@pytest.mark.slow
def test_a_plain_worker_completes_an_execution(
    tmp_path: pathlib.Path, sqlite_url: str, redis_url: str
) -> None:
    """It finds the app by FLASK_APP, and leaves the sweeping to others."""
    id = place(sqlite_url, "/four", "a")
    enqueue(redis_url, id)
    env = {
        "FLASK_APP": SHOP,
        "FLASK_DURABLE_DATABASE_URL": sqlite_url,
        "FLASK_DURABLE_REDIS_URL": redis_url,
        "FLASK_SECRET_KEY": SECRET_KEY,
    }
    options = ["--burst", f"--url={redis_url}"]
    options += ["--serializer=rq.serializers.JSONSerializer", "durable"]

    with rq(tmp_path, env, "worker", *options) as worker:
        row = Journal(sqlite_url).wait_for(id, timeout=30)
        wait_until(worker.ended, 15)
        assert row.attempt == 2, worker.log()

    database = Database.open(sqlite_url)
    assert Leaders(Store(database, "shop")).find() is None
    database.close()


@pytest.mark.slow
def test_rqs_own_tools_see_the_queue(
    line: Line, redis_url: str, tmp_path: pathlib.Path
) -> None:
    """As whoever operates other queues expects it."""
    for _ in range(3):
        line.begin()

    line.drive.advance(61)
    line.look()
    program = pathlib.Path(sys.executable).parent / "rq"
    command: list[t.Any] = [program, "info", f"--url={redis_url}", "--raw"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "queue durable 3" in done.stdout
