"""How an attempt ends: lost leases, lost journals, exits, errors in handlers."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import functools
import logging
import pathlib
import sqlite3
import subprocess
import sys
import threading
import typing as t

import pytest
from flask import abort
from flask import Flask
from flask import g
from flask import Response
from flask import session
from flask.testing import FlaskClient
from greenlet import GreenletExit
from sqlalchemy import exc

from flask_durable import current_execution
from flask_durable import DuplicateStepError
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError
from flask_durable import store as store_module
from flask_durable import threads
from flask_durable.errors import ProcessEnds
from flask_durable.records import Execution
from flask_durable.records import Failure
from flask_durable.records import ResponseRecord
from flask_durable.records import StepRecord
from flask_durable.tables import executions

from .driving import Drive
from .driving import status_link
from .fakes import FakeStatement
from .fakes import replace
from .processes import ROOT

BOB = "bob:2:2"


class Timeout(BaseException):
    """An error like ``gevent.Timeout``, which is no Exception."""


class Shop:
    """An app, its journal, and those who take attempts over."""

    def __init__(self, drive: Drive, durable: FlaskDurable) -> None:
        self.drive = drive
        self.durable = durable
        self.client = drive.app.test_client()
        self.calls: list[str] = []

    def note(self, name: str) -> str:
        """Be a step that is counted."""
        self.calls.append(name)
        return name

    def serve(self, view: cabc.Callable[[], t.Any], **options: t.Any) -> None:
        """Make a view durable."""
        decorated = self.durable.endpoint(**options)(view)
        self.drive.app.add_url_rule("/work", "work", decorated, methods=["POST"])

    def steal(self) -> None:
        """Have another process begin the next attempt."""
        row = executions.c.id == current_execution.id
        taken = {"attempt": executions.c.attempt + 1, "owner": BOB}
        update = executions.update().where(row).values(taken)
        self.drive.state.store.database.run(lambda c: c.execute(update))

    def end_elsewhere(self, response: ResponseRecord | None) -> None:
        """Have another process begin the next attempt and end the execution."""
        self.steal()
        attempt = current_execution.attempt + 1
        self.drive.state.store.finish(
            current_execution.id, attempt, "completed", response
        )

    def the(self) -> Execution:
        """Read the only execution."""
        query = executions.select()
        row = self.drive.state.store.database.run(lambda c: c.execute(query).one())
        return self.drive.state.store.execution(row.id)

    def steps(self) -> list[StepRecord]:
        """Read its steps."""
        return self.drive.state.store.journal(self.the().id)

    def failure(self) -> Failure:
        """Read why it failed."""
        return Failure.decode(self.the().error or b"{}")

    def recover(self) -> str:
        """Let the heartbeat hand back, replay, and give the final answer."""
        self.drive.state.heartbeat.tick()
        self.drive.run_due()
        found = self.the()
        assert found.ended, found.status
        record = self.drive.state.store.response(found.id)
        assert record is not None and record.body is not None
        return record.body.decode()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def shop(drive: Drive, durable: FlaskDurable) -> Shop:
    """Set up an app without views."""
    return Shop(drive, durable)


@pytest.fixture
def away(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> cabc.Callable[[str], None]:
    """Give what takes the database away for a statement, until the context ends."""
    monkeypatch.setattr(store_module, "OUTAGE_PATIENCE", 0.05)

    def take(name: str) -> None:
        def fail(*args: t.Any, **values: t.Any) -> t.NoReturn:
            raise exc.OperationalError("", {}, Exception("hunter2 closed"))

        fake = FakeStatement(lambda values: fail)
        replace(monkeypatch, shop.drive.state.store.sql, name, fake)

    return take


# Another attempt took over


def test_a_lease_lost_in_a_step_gives_202(shop: Shop) -> None:
    """The client can watch the attempt that goes on."""

    @shop.serve
    def work() -> str:
        step.run("pay", shop.steal)
        return shop.note("after")

    answer = shop.client.post("/work")
    assert answer.status_code == 202
    assert answer.headers["Durable-Execution"] == shop.the().id
    assert shop.drive.status(answer)["attempt"] == 2
    assert (shop.calls, shop.the().owner) == ([], BOB)


def test_a_lease_lost_before_the_end_gives_202(shop: Shop) -> None:
    """The view's own answer is not sent: another attempt makes it."""

    @shop.serve
    def work() -> str:
        shop.steal()
        return "mine"

    answer = shop.client.post("/work")
    assert (answer.status_code, "mine" in answer.text) == (202, False)
    assert shop.the().status == "running"


def test_a_lease_lost_before_a_suspension_gives_202(shop: Shop) -> None:
    """It is not suspended: another attempt runs."""

    @shop.serve
    def work() -> None:
        shop.steal()
        step.sleep("nap", 60)

    assert shop.client.post("/work").status_code == 202
    assert (shop.the().status, shop.the().attempt) == ("running", 2)


def test_a_lease_lost_before_an_error_gives_202(shop: Shop) -> None:
    """The error is not recorded, nor sent."""

    @shop.serve
    def work() -> None:
        shop.steal()
        raise ValueError("mine")

    answer = shop.client.post("/work")
    assert answer.status_code == 202
    assert status_link(answer)
    assert (shop.the().status, shop.the().error) == ("running", None)


def test_a_lease_lost_before_an_abort_gives_202(shop: Shop) -> None:
    """Just the same."""

    @shop.serve
    def work() -> None:
        shop.steal()
        abort(404)

    assert shop.client.post("/work").status_code == 202
    assert shop.the().status == "running"


def test_a_lease_that_is_known_to_be_lost_runs_no_function(shop: Shop) -> None:
    """The heartbeat heard of it."""

    @shop.serve
    def work() -> str:
        (lease,) = shop.drive.state.heartbeat._leases.values()
        lease.lost = True
        return str(step.run("pay", shop.note, "pay"))

    assert shop.client.post("/work").status_code == 202
    assert shop.calls == []


def test_a_lost_lease_that_a_view_swallows_stays_lost(shop: Shop) -> None:
    """A bare ``except:`` doesn't make it an end."""

    @shop.serve
    def work() -> str:
        for name in ("pay", "fly"):
            try:
                step.run(name, shop.steal if name == "pay" else shop.note, *_none(name))
            except BaseException:
                pass

        return "mine"

    assert shop.client.post("/work").status_code == 202
    assert (shop.calls, shop.the().status) == ([], "running")


def _none(name: str) -> tuple[str, ...]:
    return () if name == "pay" else (name,)


def test_an_attempt_that_lost_is_not_renewed(shop: Shop) -> None:
    """Nor handed back: it is another's."""

    @shop.serve
    def work() -> str:
        step.run("pay", shop.steal)
        return "mine"

    shop.client.post("/work")
    assert not shop.drive.state.heartbeat.holds(shop.the().id)
    shop.drive.state.heartbeat.tick()
    assert (shop.the().status, shop.the().crashes) == ("running", 0)


def test_a_lost_lease_gives_the_response_of_the_other(shop: Shop) -> None:
    """If it has one already."""
    head = b'{"status": "201 CREATED", "headers": [["X-From", "bob"]]}'

    @shop.serve
    def work() -> str:
        step.run("pay", shop.end_elsewhere, ResponseRecord(head, b"theirs"))
        return "mine"

    answer = shop.client.post("/work")
    assert (answer.status_code, answer.text) == (201, "theirs")
    assert answer.headers["X-From"] == "bob"
    assert status_link(answer)


@pytest.mark.parametrize(
    ("response", "status"), [(None, 500), (ResponseRecord(b"{}", None), 507)]
)
def test_a_lost_lease_without_a_response_is_said_to_be_so(
    shop: Shop, response: ResponseRecord | None, status: int
) -> None:
    """It failed elsewhere, or its response was too big."""

    @shop.serve
    def work() -> str:
        step.run("pay", shop.end_elsewhere, response)
        return "mine"

    answer = shop.client.post("/work")
    assert answer.status_code == status
    assert answer.mimetype == "application/problem+json"
    assert answer.json and answer.json["execution"] == shop.the().id


# The journal stays away


@pytest.mark.parametrize("name", ["record", "suspend", "finish"])
def test_a_lost_journal_gives_503_with_the_id(
    shop: Shop, away: cabc.Callable[[str], None], name: str
) -> None:
    """At a step, at a suspension, at the end; then a later attempt goes on."""

    @shop.serve
    def work() -> str:
        if current_execution.attempt == 1:
            away(name)

        if name == "suspend" and current_execution.attempt == 1:
            step.sleep("nap", 60)

        step.run("pay", shop.note, "pay")
        return "done"

    answer = shop.client.post("/work")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.mimetype == "application/problem+json"
    assert answer.json and answer.json["execution"] == shop.the().id
    assert answer.headers["Durable-Execution"] == shop.the().id
    assert "hunter2" not in answer.text
    assert shop.the().status == "running"


def test_after_a_lost_journal_a_later_attempt_goes_on(
    shop: Shop, away: cabc.Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step whose outcome was lost runs again, those before don't."""

    @shop.serve
    def work() -> str:
        step.run("fly", shop.note, "fly")

        if current_execution.attempt == 1:
            away("record")

        return str(step.run("pay", shop.note, "pay"))

    assert shop.client.post("/work").status_code == 503
    monkeypatch.undo()
    assert shop.recover() == "pay"
    assert shop.calls == ["fly", "pay", "pay"]


def test_a_lost_outcome_that_a_view_swallows_is_not_forgotten(
    shop: Shop, away: cabc.Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is back, but it lacks a step that ran: no end is stored."""

    @shop.serve
    def work() -> str:
        away("record")

        try:
            step.run("pay", shop.note, "pay")
        except BaseException:
            monkeypatch.undo()

        return "done"

    assert shop.client.post("/work").status_code == 503
    assert shop.the().status == "running"
    shop.drive.state.heartbeat.tick()
    assert shop.the().status == "suspended"


@pytest.mark.parametrize("error", [ValueError("mine"), None])
def test_a_journal_lost_at_an_errors_end_gives_503(
    shop: Shop,
    away: cabc.Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
) -> None:
    """The error's answer would promise an end that is not stored."""

    @shop.serve
    def work() -> None:
        away("finish")

        if error is not None:
            raise error

        abort(404)

    answer = shop.client.post("/work")
    assert answer.status_code == 503
    assert answer.headers["Durable-Execution"] == shop.the().id
    assert shop.the().status == "running"
    monkeypatch.undo()
    shop.drive.state.heartbeat.tick()
    assert shop.the().status == "suspended"


# Exits


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Timeout()])
@pytest.mark.parametrize("where", ["view", "step", "branch"])
def test_an_exit_from_a_view_is_a_crash(
    shop: Shop, error: BaseException, where: str
) -> None:
    """It passes through, nothing is recorded, and a later attempt goes on."""

    def leave() -> str:
        if current_execution.attempt == 1:
            raise error

        return "done"

    @shop.serve
    def work() -> str:
        step.run("fly", shop.note, "fly")
        calls: dict[str, t.Any] = {
            "view": leave,
            "step": lambda: step.run("leave", leave),
            "branch": lambda: step.parallel(leave, str)[0],
        }
        return str(calls[where]())

    with pytest.raises(type(error)):
        shop.client.post("/work")

    assert not shop.drive.state.heartbeat.holds(shop.the().id)
    assert shop.the().status == "running"
    shop.drive.state.heartbeat.tick()
    assert shop.the().status == "suspended"
    assert shop.recover() == "done"
    assert shop.calls == ["fly"]


@pytest.mark.parametrize("where", ["view", "step", "branch"])
def test_an_error_for_want_of_threads_is_a_crash(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """An interpreter that ends gives none: that is not the fault of what ran."""

    def begin() -> str:
        if current_execution.attempt == 1:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        return "done"

    @functools.partial(shop.serve, retry=Retry(1))
    def work() -> str:
        calls: dict[str, t.Any] = {
            "view": begin,
            "step": lambda: step.run("begin", begin),
            "branch": lambda: step.parallel(lambda: step.run("begin", begin), str)[0],
        }
        return str(calls[where]())

    with monkeypatch.context() as ending, pytest.raises(ProcessEnds):
        ending.setattr(threads, "are_refused", lambda: True)
        shop.client.post("/work")

    assert shop.recover() == "done"
    assert [each.tries for each in shop.steps()] == ([] if where == "view" else [1])


ENDING = """\
import sys
import threading

from flask import Flask

from flask_durable import FlaskDurable

app = Flask("ending", instance_path=sys.argv[1])
app.secret_key = "tests"
durable = FlaskDurable(app)

@app.post("/work")
@durable.endpoint
async def work():
    return "done"

def ask():
    threading.main_thread().join()
    app.test_client().post("/work")

app.test_client().get("/")
threading.Thread(target=ask).start()
"""


def test_an_async_view_does_not_fail_because_its_process_ends(
    tmp_path: pathlib.Path,
) -> None:
    """Other threads still run then, but it would need a new one."""
    command = [sys.executable, "-c", ENDING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "ProcessEnds(" in done.stderr
    journal = sqlite3.connect(tmp_path / "durable.sqlite3")

    with contextlib.closing(journal):
        found = journal.execute("SELECT status, errors FROM durable_executions")
        assert found.fetchall() == [("suspended", 0)]


def test_what_left_a_view_is_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """It is taken for a crash, and nobody could tell why else."""

    @shop.serve
    def work() -> t.NoReturn:
        raise Timeout("5 seconds")

    with pytest.raises(Timeout):
        shop.client.post("/work")

    which = f"in attempt 1 of execution {shop.the().id}"
    assert f"Timeout('5 seconds') left the view {which}" in caplog.text


@pytest.mark.parametrize(
    "on", [BaseException, Timeout, (Timeout, ValueError)], ids=["all", "it", "several"]
)
def test_what_is_no_exception_is_a_failed_try_where_it_is_named(
    shop: Shop, on: t.Any
) -> None:
    """By the policy's ``on``, as what a step raises for itself."""
    calls = 0

    def wait() -> str:
        nonlocal calls
        calls += 1
        raise Timeout("too long")

    error = error_of(shop, Retry(2, initial=0.01, on=on), wait)
    assert (error.tries, error.error_message) == (2, "too long")
    assert calls == 2


def error_of(shop: Shop, retry: Retry, function: cabc.Callable[[], t.Any]) -> StepError:
    """Run a function as a step of a view, and give how it failed."""
    caught: list[StepError] = []

    @shop.serve
    def work() -> str:
        try:
            step.options(retry=retry).run("wait", function)
        except StepError as error:
            caught.append(error)

        return "done"

    assert shop.client.post("/work").text == "done"
    return caught[0]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GreenletExit()])
def test_an_exit_is_no_failed_try_whatever_the_policy_names(
    shop: Shop, error: BaseException
) -> None:
    """The process, or the greenlet, is to end."""

    def leave() -> t.NoReturn:
        raise error

    @shop.serve
    def work() -> str:
        retry = Retry(2, initial=0.01, on=BaseException)
        return str(step.options(retry=retry).run("leave", leave))

    with pytest.raises(type(error)):
        shop.client.post("/work")


def test_a_function_that_chooses_gets_exceptions_alone(shop: Shop) -> None:
    """As its type says; a cancelled task is not tried again then."""
    asked: list[Exception] = []

    def choose(error: Exception) -> bool:
        asked.append(error)
        return True

    error = error_of(shop, Retry(2, on=choose), cancel_myself)
    assert (error.tries, error.error_type) == (1, "asyncio.exceptions.CancelledError")
    assert asked == []


async def cancel_myself() -> None:
    """Wait for a task that is cancelled."""
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


@pytest.mark.parametrize(("on", "tries"), [(Exception, 1), (BaseException, 2)])
def test_a_cancelled_task_is_a_failed_try(
    shop: Shop, on: type[BaseException], tries: int
) -> None:
    """Though it is no Exception: its loop was the function's own."""

    retry = Retry(2, initial=0.01, on=on)
    assert error_of(shop, retry, cancel_myself).tries == tries


def test_a_cancelled_task_of_a_view_is_its_error(shop: Shop) -> None:
    """Nobody's process died."""

    @shop.serve
    async def work() -> None:
        await cancel_myself()

    with pytest.raises(asyncio.CancelledError):
        shop.client.post("/work")

    assert (shop.the().status, shop.the().crashes) == ("failed", 0)
    failure = Failure.decode(shop.the().error or b"")
    assert failure.type == "asyncio.exceptions.CancelledError"


# Tasks of a view


async def in_tasks(call: cabc.Callable[[int], t.Any]) -> list[t.Any]:
    """Call a function in two tasks at once."""

    async def work(number: int) -> t.Any:
        await asyncio.sleep(0)
        return call(number)

    return list(await asyncio.gather(work(0), work(1)))


async def in_threads(call: cabc.Callable[[int], t.Any]) -> list[t.Any]:
    """Call a function in two threads at once."""
    barrier = threading.Barrier(2, timeout=10)

    def work(number: int) -> t.Any:
        barrier.wait()
        return call(number)

    tasks = [asyncio.to_thread(work, number) for number in range(2)]
    return list(await asyncio.gather(*tasks))


Spread = cabc.Callable[[cabc.Callable[[int], t.Any]], t.Any]


@pytest.mark.parametrize("spread", [in_tasks, in_threads])
@pytest.mark.parametrize("verb", ["run", "sleep"])
def test_tasks_of_a_view_share_no_id(shop: Shop, spread: Spread, verb: str) -> None:
    """Their order would not be stable, and one would get what another did."""

    def call(number: int) -> None:
        if verb == "run":
            step.run("charge", int)
        else:
            step.sleep("charge", 0)

    @shop.serve
    async def work() -> str:
        with pytest.raises(DuplicateStepError, match='step id "charge"'):
            await spread(call)

        return "caught"

    assert shop.client.post("/work").text == "caught"


@pytest.mark.parametrize("spread", [in_tasks, in_threads])
def test_tasks_of_a_view_may_have_steps(shop: Shop, spread: Spread) -> None:
    """Each finds its own outcome again, whoever comes first."""

    @shop.serve
    async def work() -> t.Any:
        found = await spread(lambda n: step.run(f"charge-{n}", shop.note, str(n)))
        step.sleep("nap", 60)
        return found

    answer = shop.client.post("/work")
    assert shop.drive.finish(answer).get_json() == ["0", "1"]
    assert sorted(shop.calls) == ["0", "1"]


def test_a_task_of_a_view_may_use_an_id_again(shop: Shop) -> None:
    """One after the other, their order is stable; of threads nobody can tell."""

    @shop.serve
    async def work() -> list[t.Any]:
        found = [step.run("b", str, number) for number in range(3)]
        await asyncio.to_thread(step.run, "a", str, 0)

        with pytest.raises(DuplicateStepError, match='step id "a"'):
            await asyncio.to_thread(step.run, "a", str, 1)

        return found

    assert shop.client.post("/work").get_json() == ["0", "1", "2"]


async def note_later(shop: Shop, name: str) -> str:
    """Run a step in a task."""
    await asyncio.sleep(0)
    return step.run("a", shop.note, name)


async def by_time_limit(shop: Shop) -> list[str]:
    """Run tasks one after the other, each with a time limit."""
    return [await asyncio.wait_for(note_later(shop, name), 10) for name in "xyz"]


async def by_groups(shop: Shop) -> list[str]:
    """Run tasks one after the other, each in a group."""
    found = []

    for name in "xyz":
        async with asyncio.TaskGroup() as group:
            task = group.create_task(note_later(shop, name))

        found.append(task.result())

    return found


@pytest.mark.parametrize("later", [by_time_limit, by_groups])
def test_tasks_one_after_the_other_may_share_an_id(
    shop: Shop, later: cabc.Callable[[Shop], t.Any]
) -> None:
    """Each is made when the one before is done."""

    @shop.serve
    async def work() -> t.Any:
        found = await later(shop)
        step.sleep("nap", 60)
        return found

    answer = shop.client.post("/work")
    assert shop.drive.finish(answer).get_json() == ["x", "y", "z"]
    assert shop.calls == ["x", "y", "z"]


def test_loops_of_a_view_may_share_an_id(shop: Shop) -> None:
    """A sync view runs one after the other, and may use the id before and after."""

    @shop.serve
    def work() -> t.Any:
        found = [step.run("a", shop.note, "w")]
        found += [asyncio.run(note_later(shop, name)) for name in "xy"]
        return [*found, step.run("a", shop.note, "z")]

    assert shop.client.post("/work").get_json() == ["w", "x", "y", "z"]


def test_a_loop_of_another_thread_is_none_of_a_view(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under gevent, where that of one greenlet is seen by all of its thread."""

    class Others:
        """A loop that another greenlet runs."""

        _thread_id = -1

    @shop.serve
    def work() -> t.Any:
        monkeypatch.setattr(asyncio, "_get_running_loop", Others)
        found = [step.run("a", shop.note, name) for name in "xy"]
        monkeypatch.undo()
        return found

    assert shop.client.post("/work").get_json() == ["x", "y"]


def test_branches_may_use_an_id_again(shop: Shop) -> None:
    """Each in the thread that runs it, also an async one."""

    async def later(name: str) -> list[str]:
        return [step.run(name, str, number) for number in range(2)]

    @shop.serve
    def work() -> list[t.Any]:
        found = step.parallel(
            lambda: [step.run("a", str, number) for number in range(2)],
            lambda: later("b"),
        )
        return [*found, step.run("a", str, 2)]

    assert shop.client.post("/work").get_json() == [["0", "1"], ["0", "1"], "2"]


# Errors outside of steps


@pytest.mark.parametrize("steps", [False, True])
def test_a_group_of_errors_is_an_error(shop: Shop, steps: bool) -> None:
    """As task groups of async views raise."""

    @shop.serve
    async def work() -> str:
        if steps:
            step.run("pay", shop.note, "pay")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

        return "done"

    async def fail() -> None:
        if current_execution.attempt == 1:
            raise ValueError("no")

    answer = shop.client.post("/work")

    if steps:
        assert answer.status_code == 202
        assert shop.drive.finish(answer).text == "done"
        assert shop.calls == ["pay"]
    else:
        assert answer.status_code == 500
        assert shop.the().status == "failed"
        assert Failure.decode(shop.the().error or b"").type == "ExceptionGroup"


FINAL_ERRORS: dict[str, cabc.Callable[[], t.Any]] = {
    "failed step": lambda: step.run("fly", fail_for_good),
    "no more tries": lambda: fail_for_good(),
    "an answer": lambda: abort(404),
    "misuse": lambda: step.run("pay", lambda: step.run("b", str)),
}


def fail_for_good() -> t.NoReturn:
    """Raise what no policy tries again."""
    raise NonRetryableError("no")


@pytest.mark.parametrize("name", FINAL_ERRORS)
def test_what_is_final_is_so_in_a_group(shop: Shop, name: str) -> None:
    """The next attempt would meet it again."""

    @shop.serve
    async def work() -> None:
        step.run("first", shop.note, "first")

        async def leave() -> None:
            FINAL_ERRORS[name]()

        async with asyncio.TaskGroup() as group:
            group.create_task(leave())

    assert shop.client.post("/work").status_code == 500
    assert shop.the().status == "failed"


def test_an_exit_in_a_group_is_an_exit(shop: Shop) -> None:
    """Whatever came with it."""

    @shop.serve
    def work() -> t.NoReturn:
        raise BaseExceptionGroup("two", [ValueError("no"), Timeout()])

    with pytest.raises(BaseExceptionGroup):
        shop.client.post("/work")

    assert shop.the().status == "running"
    shop.drive.state.heartbeat.tick()
    assert shop.the().status == "suspended"


def test_an_error_handler_that_raises_does_not_lose_the_end(shop: Shop) -> None:
    """Flask makes a 500 of it; the reason is the view's own error."""
    app = shop.drive.app

    @app.errorhandler(ValueError)
    def handle(error: ValueError) -> t.NoReturn:
        raise RuntimeError("the handler's own")

    @shop.serve
    def work() -> None:
        raise ValueError("the view's own")

    answer = shop.client.post("/work")
    assert answer.status_code == 500
    assert answer.headers["Durable-Execution"] == shop.the().id
    assert shop.the().status == "failed"
    assert shop.failure().message == "the view's own"
    document = shop.drive.status(answer)
    stored = shop.client.get(document["response_url"])
    assert (stored.status_code, stored.data) == (500, answer.data)


def test_an_after_request_that_raises_does_not_lose_the_end(shop: Shop) -> None:
    """The view's response is stored already."""

    @shop.drive.app.after_request
    def fail(response: Response) -> t.NoReturn:
        raise RuntimeError("after")

    @shop.serve
    def work() -> str:
        return "done"

    assert shop.client.post("/work").status_code == 500
    assert shop.the().status == "completed"
    record = shop.drive.state.store.response(shop.the().id)
    assert record is not None and record.body == b"done"


@pytest.mark.parametrize("key", ["PROPAGATE_EXCEPTIONS", "DEBUG"])
def test_an_error_that_no_response_is_made_of_ends_the_execution(
    shop: Shop, key: str
) -> None:
    """It goes to the debugger or the test; the execution has failed."""
    shop.drive.app.config[key] = True
    shop.drive.app.config["PROPAGATE_EXCEPTIONS"] = True

    @shop.serve
    def work() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        shop.client.post("/work")

    assert (shop.the().status, shop.failure().message) == ("failed", "mine")
    assert shop.drive.state.store.response(shop.the().id) is None
    assert not shop.drive.state.heartbeat.holds(shop.the().id)


def test_a_journal_lost_when_no_response_is_made_hands_back(
    shop: Shop,
    away: cabc.Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The view's error is raised, not that of the journal."""
    shop.drive.app.config["PROPAGATE_EXCEPTIONS"] = True

    @shop.serve
    def work() -> None:
        away("finish")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        shop.client.post("/work")

    assert "A later attempt goes on" in caplog.text
    monkeypatch.undo()
    shop.drive.state.heartbeat.tick()
    assert shop.the().status == "suspended"


def test_a_lease_lost_when_no_response_is_made_is_anothers(shop: Shop) -> None:
    """Nothing is handed back that another runs."""
    shop.drive.app.config["PROPAGATE_EXCEPTIONS"] = True

    @shop.serve
    def work() -> None:
        shop.steal()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        shop.client.post("/work")

    shop.drive.state.heartbeat.tick()
    assert (shop.the().status, shop.the().owner) == ("running", BOB)
    assert not shop.drive.state.heartbeat.holds(shop.the().id)


def test_a_predicate_that_raises_fails_the_execution(shop: Shop) -> None:
    """It would raise in each attempt: ten crashes would not help."""

    def on(error: Exception) -> bool:
        raise RuntimeError("the predicate's own")

    def work() -> None:
        step.run("fly", shop.note, "fly")
        raise ValueError("the view's own")

    shop.serve(work, retry=Retry(on=on))
    assert shop.client.post("/work").status_code == 500
    shop.drive.state.heartbeat.tick()
    assert (shop.the().status, shop.the().crashes) == ("failed", 0)


def test_a_view_that_returns_nothing_is_an_error_of_the_view(shop: Shop) -> None:
    """Not a crash, which would be tried ten times."""

    @shop.serve
    def work() -> None:
        return None

    assert shop.client.post("/work").status_code == 500
    assert shop.the().status == "failed"
    assert "did not return a valid response" in shop.failure().message


def test_a_nested_teardown_leaves_the_attempt_alone(shop: Shop) -> None:
    """A request that the view sends to its own app ends before the view."""

    @shop.drive.app.get("/plain")
    def plain() -> str:
        return "plain"

    @shop.serve
    def work() -> str:
        g.user = "ada"
        text = step.run("ask", lambda: shop.drive.app.test_client().get("/plain").text)
        shop.drive.state.heartbeat.tick()
        return f"{text} {step.run('pay', shop.note, 'pay')} {g.user}"

    assert shop.client.post("/work").text == "plain pay ada"
    assert (shop.the().attempt, shop.the().crashes) == (1, 0)


# The session and the headers


class Answers:
    """Middleware that keeps what the app answers, to replays too."""

    def __init__(self, app: Flask) -> None:
        self.headers: list[dict[str, str]] = []
        self._wrapped = app.wsgi_app
        app.wsgi_app = self  # type: ignore[method-assign]

    def __call__(self, environ: t.Any, start_response: t.Any) -> t.Any:
        def start(status: str, headers: list[tuple[str, str]], *rest: t.Any) -> t.Any:
            self.headers.append(dict(headers))
            return start_response(status, headers, *rest)

        return self._wrapped(environ, start)


@pytest.fixture
def napping(shop: Shop) -> Shop:
    """Serve a view that may change the session in a later attempt."""

    @shop.serve
    def work() -> str:
        step.sleep("nap", 60)

        if shop.calls:
            session["trip"] = 7

        return "done"

    return shop


def replay(shop: Shop) -> None:
    """Have the second attempt run."""
    shop.drive.advance(61)
    assert shop.drive.run_due() == 1
    assert shop.the().status == "completed"


def test_a_session_changed_in_a_later_attempt_warns(
    napping: Shop, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """With attempt and execution, and where to change it instead."""
    napping.calls.append("change")
    client.post("/work")
    assert "session" not in caplog.text
    replay(napping)
    (record,) = [one for one in caplog.records if "session" in one.getMessage()]
    assert record.levelno == logging.WARNING
    assert f"in attempt 2 of execution {napping.the().id}" in record.getMessage()


def test_a_session_that_nobody_touched_adds_no_header(
    napping: Shop, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Our own look, at a replay that nobody receives, makes no cache vary."""
    answers = Answers(napping.drive.app)

    with client.session_transaction() as changed:
        changed["user"] = "ada"

    client.post("/work")
    replay(napping)
    assert len(answers.headers) == 2
    assert answers.headers[0].get("Vary") is None
    assert [one.get("Set-Cookie") for one in answers.headers] == [None, None]
    assert "session" not in caplog.text


def test_every_answer_has_its_links_once(napping: Shop, client: FlaskClient) -> None:
    """The client's and the replay's."""
    answers = Answers(napping.drive.app)
    client.post("/work")
    replay(napping)

    for headers in answers.headers:
        assert headers["Durable-Execution"] == napping.the().id
        assert headers["Link"].count('rel="status"') == 1
