"""Cancels, deadlines and failures beside branches; every verb within them."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import clock
from flask_durable import current_execution
from flask_durable import ExecutionInfo
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable.errors import DeadlineExceeded

from .driving import Drive

Branch = cabc.Callable[[], t.Any]

HURRY = 0.3
"""Seconds of a deadline that really passes: no attempt's clock can be turned."""


class Office:
    """A durable view whose work a test gives, with a deadline and what follows."""

    def __init__(self, app: Flask, durable: FlaskDurable, drive: Drive) -> None:
        self.app = app
        self.durable = durable
        self.drive = drive
        self.calls: list[str] = []
        self.work: Branch = list

        @app.post("/work")
        @durable.endpoint(deadline=600, on_failure=self.after, retry=Retry(1))
        def work() -> t.Any:
            return self.work()

        @app.post("/child")
        @durable.endpoint
        def child() -> t.Any:
            step.sleep("nap", 60)
            return {"child": step.run("work", self.call, "child")}

    def after(self, failed: ExecutionInfo) -> None:
        """Follow a failure, with a step."""
        step.run("tell", self.call, f"after {failed.status}")

    def call(self, name: str) -> str:
        """Note a call."""
        self.calls.append(name)
        return name

    def do(self, name: str) -> str:
        """Run a step."""
        return step.run(name, self.call, name)

    def cancel(self, name: str = "cancel") -> str:
        """Cancel the execution, in a step."""
        with self.app.app_context():
            self.durable.cancel(current_execution.id)

        return self.call(name)

    def begin(self, work: Branch) -> t.Any:
        """Make the first attempt."""
        self.work = work
        return self.app.test_client().post("/work")

    def status(self, answer: t.Any) -> tuple[str, dict[str, str]]:
        """Read how the execution is, and its steps."""
        document = self.drive.status(answer)
        steps = {line["id"]: line["status"] for line in document["steps"]}
        return document["status"], steps


@pytest.fixture
def office(app: Flask, durable: FlaskDurable, drive: Drive) -> Office:
    """Set up the view."""
    return Office(app, durable, drive)


def both(*branches: Branch) -> Branch:
    """Make a branch of branches."""
    return lambda: list(step.parallel(*branches))


# Cancel


def test_a_cancel_stops_every_branch(office: Office) -> None:
    """Each outcome in flight is recorded, and none begins another step."""
    running = threading.Barrier(3, timeout=20)
    cancelled = threading.Event()

    def hold(name: str) -> str:
        running.wait()
        cancelled.wait(20)
        return office.call(name)

    def cancel(name: str) -> str:
        running.wait()
        office.cancel(name)
        cancelled.set()
        return name

    def branch(name: str, function: cabc.Callable[[str], str]) -> Branch:
        return lambda: [step.run(name, function, name), office.do(f"{name} next")]

    answer = office.begin(
        both(branch("a", hold), branch("b", cancel), both(branch("c", hold)))
    )
    assert answer.status_code == 410
    wanted = ("cancelled", dict.fromkeys("abc", "completed"))
    assert office.status(answer) == wanted
    office.drive.run_due()
    assert sorted(office.calls) == ["a", "after cancelled", "b", "c"]


WAITS: dict[str, Branch] = {
    "sleeping": lambda: step.sleep("wait", 3600),
    "event": lambda: step.wait_for_event("wait", "never"),
    "callback": lambda: step.callback("wait").wait(),
    "poll": lambda: step.poll("wait", bool, every=3600),
    "invoke": lambda: step.invoke("wait", "child"),
    "nested": both(both(lambda: step.sleep("wait", 3600), lambda: 1)),
}


@pytest.mark.parametrize("kind", WAITS)
def test_a_cancel_ends_branches_that_wait(office: Office, kind: str) -> None:
    """Beside one that is done. A child is cancelled, too."""
    answer = office.begin(both(WAITS[kind], lambda: office.do("done")))
    assert office.status(answer)[1]["wait"] in ("sleeping", "waiting")

    with office.app.app_context():
        office.durable.cancel(answer.headers["Durable-Execution"])
        assert office.durable.executions(status="suspended") == []

    office.drive.run_due()
    assert office.status(answer)[0] == "cancelled"
    assert office.calls == ["done", "after cancelled"]


@pytest.mark.parametrize("kind", WAITS)
def test_a_cancel_beside_branches_that_wait(office: Office, kind: str) -> None:
    """It comes from a branch that runs while another one waits already."""

    def cancel() -> t.Any:
        return [step.run("cancel", office.cancel), office.do("never")]

    answer = office.begin(lambda: list(step.parallel(WAITS[kind], cancel)))
    assert answer.status_code == 410
    status, steps = office.status(answer)
    assert (status, steps["cancel"], "never" in steps) == (
        "cancelled",
        "completed",
        False,
    )
    office.drive.run_due()
    assert office.calls == ["cancel", "after cancelled"]


def test_a_cancel_within_a_map(office: Office) -> None:
    """Items that have not begun are left out."""

    def item(number: int) -> str:
        return office.cancel() if number == 2 else office.call(str(number))

    answer = office.begin(lambda: step.map("each", item, range(6), max_workers=1))
    assert answer.status_code == 410
    assert list(office.status(answer)[1]) == ["each[0]", "each[1]", "each[2]"]
    assert office.calls == ["0", "1", "cancel"]


def test_a_cancel_goes_before_exceptions_in_their_places(office: Office) -> None:
    """It is none that a view is given."""

    def work() -> t.Any:
        branches = [lambda: office.do("a"), lambda: step.run("b", office.cancel)]
        step.parallel(*branches, max_workers=1)
        step.parallel(lambda: office.do("c"), return_exceptions=True)
        return office.call("survived")

    assert office.begin(work).status_code == 410
    assert office.calls == ["a", "cancel"]


def test_a_cancel_is_heard_at_the_end_of_a_transaction(office: Office) -> None:
    """Its outcome is recorded, and the next step is not begun."""

    def work() -> t.Any:
        office.cancel()
        step.transaction("first", lambda connection: office.call("first"))
        return office.do("second")

    answer = office.begin(work)
    assert answer.status_code == 410
    assert office.status(answer) == ("cancelled", {"first": "completed"})
    assert office.calls == ["cancel", "first"]


def test_a_cancel_comes_before_the_next_try(office: Office) -> None:
    """Also where that would be made at once, in place."""

    def fail() -> None:
        office.cancel("try")
        raise ConnectionError("the line is dead")

    retry = Retry(3, initial=0.01)
    answer = office.begin(lambda: step.options(retry=retry).run("pay", fail))
    assert answer.status_code == 410
    assert office.status(answer) == ("cancelled", {"pay": "retrying"})
    assert office.calls == ["try"]


# Deadlines


@pytest.mark.parametrize("kind", WAITS)
def test_a_deadline_ends_branches_that_wait(office: Office, kind: str) -> None:
    """The execution is woken for it, and fails; what is done stays done."""
    answer = office.begin(both(WAITS[kind], lambda: office.do("done")))
    office.drive.advance(601)
    office.drive.run_due()
    document = office.drive.status(answer)
    assert document["error_type"] == "flask_durable.errors.DeadlineExceeded"
    # A child has none of its own, and goes on.
    office.calls = [call for call in office.calls if call != "child"]
    assert office.calls == ["done", "after failed"]


def test_a_deadline_passes_while_branches_run(office: Office) -> None:
    """Functions that run end as ever; then no branch begins another step."""
    running = threading.Barrier(2, timeout=20)

    def hold(name: str) -> str:
        running.wait()
        # Longer than the view has in all.
        clock.sleep(HURRY)
        return office.call(name)

    def branch(name: str) -> t.Any:
        return [step.run(name, hold, name), office.do(f"{name} next")]

    @office.app.post("/hurried")
    @office.durable.endpoint(deadline=HURRY, on_failure=office.after)
    def hurried() -> t.Any:
        return list(step.parallel(lambda: branch("a"), both(lambda: branch("b"))))

    answer = office.app.test_client().post("/hurried")
    assert answer.status_code == 500
    assert office.status(answer) == ("failed", {"a": "completed", "b": "completed"})
    office.drive.run_due()
    assert sorted(office.calls) == ["a", "after failed", "b"]


def test_a_deadline_passes_between_tries_in_place(office: Office) -> None:
    """None is made after it, as if the attempt had ended meanwhile."""

    def fail() -> None:
        office.call("try")
        raise ConnectionError("the line is dead")

    @office.app.post("/hurried")
    @office.durable.endpoint(deadline=HURRY)
    def hurried() -> t.Any:
        retry = Retry(5, initial=HURRY * 0.7, factor=1, jitter=0)
        step.options(retry=retry).run("pay", fail)

    answer = office.app.test_client().post("/hurried")
    assert office.drive.status(answer)["error_type"].endswith("DeadlineExceeded")
    assert office.status(answer) == ("failed", {"pay": "retrying"})
    assert office.calls == ["try", "try"]


def test_a_deadline_passes_before_a_try_that_is_waited_for(office: Office) -> None:
    """In place, by an attempt that something else woke a little before the try."""

    def fail() -> None:
        office.call("try")
        raise ConnectionError("the line is dead")

    retry = Retry(3, initial=1.2, jitter=0)

    @office.app.post("/hurried")
    @office.durable.endpoint(deadline=1.1)
    def hurried() -> t.Any:
        pay = step.options(retry=retry)
        wait = step.wait_for_event
        both(lambda: pay.run("pay", fail), lambda: wait("wait", "paid"))()

    answer = office.app.test_client().post("/hurried")

    with office.app.app_context():
        office.durable.send_event("paid")

    office.drive.advance(0.6)
    office.drive.run_due()
    assert office.drive.status(answer)["error_type"].endswith("DeadlineExceeded")
    assert office.calls == ["try"]


def test_a_deadline_in_a_branch_may_be_caught(office: Office) -> None:
    """The view ends in its own way, without further steps."""

    def work() -> t.Any:
        try:
            step.parallel(lambda: step.sleep("nap", 3600), lambda: office.do("a"))
        except DeadlineExceeded:
            return ["too late"]

    answer = office.begin(work)
    office.drive.advance(601)
    office.drive.run_due()
    assert office.drive.finish(answer).json == ["too late"]
    assert office.calls == ["a"]


# Failures


@pytest.mark.parametrize("kind", WAITS)
def test_a_failure_waits_for_its_neighbours(office: Office, kind: str) -> None:
    """What follows it begins once, when the execution has failed at last."""

    def fail() -> None:
        step.run("fail", lambda: 1 / 0)

    answer = office.begin(lambda: list(step.parallel(WAITS[kind], fail)))
    assert answer.status_code == 202
    office.drive.run_due()
    assert office.calls == []
    office.drive.advance(601)
    office.drive.run_due()
    office.drive.run_due()
    assert office.status(answer)[0] == "failed"
    assert office.calls.count("after failed") == 1


def test_what_follows_a_failure_may_be_async(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It may sleep and have branches as any view."""
    told: list[t.Any] = []

    async def tell(name: str) -> None:
        await asyncio.sleep(0)
        told.append(name)

    async def after(failed: ExecutionInfo) -> None:
        await asyncio.sleep(0)
        step.run("first", tell, failed.status)
        step.sleep("nap", 60)
        step.parallel(lambda: step.run("last", tell, str(failed.error_type)))

    @app.post("/work")
    @durable.endpoint(on_failure=after, retry=Retry(1))
    async def work() -> str:
        return step.run("fail", lambda: str(1 / 0))

    assert client.post("/work").status_code == 500
    drive.run_due()
    drive.advance(61)
    drive.run_due()
    assert told == ["failed", "flask_durable.errors.StepError"]


@pytest.mark.parametrize("name", ["child", "!"])
def test_a_child_of_any_step_does_not_replace_the_function_after_a_failure(
    office: Office, name: str
) -> None:
    """Whatever the id of the step that invoked it."""

    def work() -> t.Any:
        step.invoke(name, "child")
        return step.run("fail", lambda: str(1 / 0))

    office.begin(work)
    office.drive.run_due()
    office.drive.advance(61)
    office.drive.run_due()
    assert office.calls == ["child", "after failed"]


# Every verb


def check(times: list[int]) -> int:
    """Find something at the second look."""
    times.append(1)
    return len(times) if len(times) > 1 else 0


def verbs(office: Office, looks: list[int]) -> dict[str, Branch]:
    """List calls of all verbs, with ids of their own."""

    def transaction(connection: sa.Connection) -> t.Any:
        office.call("transaction")
        return connection.scalar(sa.text("SELECT 7"))

    return {
        "run": lambda: office.do("run"),
        "options": lambda: step.options(at_most_once=True).run("once", str, 1),
        "map": lambda: step.map("map", str, [1, 2]),
        "parallel": lambda: list(step.parallel(lambda: office.do("inner"))),
        "sleep": lambda: step.sleep("sleep", 30),
        "event": lambda: step.wait_for_event("event", "event"),
        "callback": lambda: called_back(office),
        "poll": lambda: step.poll("poll", check, looks, every=30),
        "invoke": lambda: step.invoke("invoke", "child"),
        "transaction": lambda: step.transaction("transaction", transaction),
        "progress": lambda: step.progress("on it"),
    }


RESULTS: dict[str, t.Any] = {
    "run": "run",
    "options": "1",
    "map": ["1", "2"],
    "parallel": ["inner"],
    "sleep": None,
    "event": "E",
    "callback": "C",
    "poll": 2,
    "invoke": {"child": "child"},
    "transaction": 7,
    "progress": None,
}


def called_back(office: Office) -> t.Any:
    """Make a callback, have it completed, and wait for it."""
    made = step.callback("callback")

    if current_execution.attempt == 1:
        office.durable.complete_callback(made.token, "C")

    return made.wait()


def drive_through(office: Office, answer: t.Any) -> t.Any:
    """Send what is waited for, and let time pass."""
    with office.app.app_context():
        office.durable.send_event("event", data="E")

    for _ in range(4):
        office.drive.run_due()
        office.drive.advance(61)

    return office.drive.finish(answer).json


def test_all_verbs_side_by_side_in_branches_of_branches(office: Office) -> None:
    """Each call has its outcome once, however often the others suspend."""
    looks: list[int] = []

    def work() -> t.Any:
        each = verbs(office, looks)
        left = [each[name] for name in list(each)[::2]]
        right = [each[name] for name in list(each)[1::2]]
        return [*step.parallel(both(*left), lambda: both(both(*right))()[0])]

    left, right = drive_through(office, office.begin(work))
    names = list(RESULTS)
    assert left == [RESULTS[name] for name in names[::2]]
    assert right == [RESULTS[name] for name in names[1::2]]
    assert sorted(office.calls) == ["child", "inner", "run", "transaction"]


@pytest.mark.parametrize("name", RESULTS)
def test_an_async_view_may_call_every_verb(office: Office, name: str) -> None:
    """As plain functions, between what it awaits."""
    looks: list[int] = []

    @office.app.post("/async")
    @office.durable.endpoint
    async def later() -> list[t.Any]:
        await asyncio.sleep(0)
        found = verbs(office, looks)[name]()
        await asyncio.sleep(0)
        return [found, office.do("last")]

    answer = office.app.test_client().post("/async")
    done = answer.status_code == 200
    found = answer.json if done else drive_through(office, answer)
    assert found == [RESULTS[name], "last"]
    assert len(set(office.calls)) == len(office.calls)
