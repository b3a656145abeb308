"""The end of a sleep is committed with whatever its attempt commits next."""

from __future__ import annotations

import collections.abc as cabc
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable import step_completed
from flask_durable import StepError
from flask_durable.attempt import Attempt
from flask_durable.errors import LeaseLostError
from flask_durable.ids import new_nonce
from flask_durable.records import Execution
from flask_durable.records import StepRecord
from flask_durable.scope import current_scope
from flask_durable.state import opened_state
from flask_durable.store import Store

from .driving import Drive

Work = cabc.Callable[[], t.Any]


class Bench:
    """A view that sleeps a minute and then works."""

    def __init__(self, app: Flask, durable: FlaskDurable, drive: Drive) -> None:
        self.client: FlaskClient = app.test_client()
        self.drive = drive
        self.state = opened_state(app)
        self.store = self.state.store
        self.after: Work = str
        self.seen: list[tuple[str, str]] = []
        """What the journal had when the view went on."""

        @app.post("/work")
        @durable.endpoint
        def work() -> t.Any:
            step.run("before", int)
            step.sleep("nap", 60)
            self.seen = self.lines()
            return self.after()

    def lines(self) -> list[tuple[str, str]]:
        """List what the journal has of each step of the only execution."""
        found = self.store.journal(self.execution().id)
        return [(line.id, line.status) for line in found]

    def execution(self) -> Execution:
        """Read the only execution."""
        (found,) = self.state.control.find(None, None, None, 2)
        return found

    def run(self, after: Work) -> list[tuple[str, str]]:
        """Let the view sleep and work, and list what the journal has then."""
        self.after = after
        self.client.post("/work")
        assert self.lines()[-1] == ("nap", "sleeping")
        self.drive.advance(61)
        assert self.drive.run_due() == 1
        assert self.seen[-1] == ("nap", "sleeping")
        return self.lines()[1:]


@pytest.fixture
def bench(app: Flask, durable: FlaskDurable, drive: Drive) -> Bench:
    """Set up the view."""
    return Bench(app, durable, drive)


def test_with_the_next_step(bench: Bench) -> None:
    """Before that returns."""
    found: list[t.Any] = []

    def after() -> str:
        step.run("next", int)
        found.extend(bench.lines()[1:])
        return "done"

    over = [("nap", "completed"), ("next", "completed")]
    assert bench.run(after) == over
    assert found == over


def test_with_the_end(bench: Bench) -> None:
    """If no step follows."""
    assert bench.run(lambda: "done") == [("nap", "completed")]


def test_with_a_failure(bench: Bench) -> None:
    """The last of a step, and then the end."""
    once = step.options(retry=Retry(1))
    outcomes = bench.run(lambda: once.run("next", lambda: 1 // 0))
    assert outcomes[0] == ("nap", "completed")


def test_with_the_next_suspension(bench: Bench) -> None:
    """One sleep after the other."""
    outcomes = bench.run(lambda: step.sleep("again", 60))
    assert outcomes == [("nap", "completed"), ("again", "sleeping")]


def test_with_the_wait_for_an_event(bench: Bench) -> None:
    """Which is another way to be suspended."""
    outcomes = bench.run(lambda: step.wait_for_event("event", "bell"))
    assert outcomes == [("nap", "completed"), ("event", "waiting")]


def test_before_a_transaction(bench: Bench) -> None:
    """Whose rows may be anybody's."""

    def write(connection: sa.Connection) -> int:
        return 7

    outcomes = bench.run(lambda: str(step.transaction("rows", write)))
    assert outcomes == [("nap", "completed"), ("rows", "completed")]


def test_with_a_function_that_must_not_run_twice(bench: Bench) -> None:
    """With the mark before it."""
    found: list[t.Any] = []

    def pay() -> None:
        found.extend(bench.lines()[1:])

    bench.run(lambda: step.options(at_most_once=True).run("pay", pay) or "done")
    assert found == [("nap", "completed"), ("pay", "running")]


def test_with_a_map(bench: Bench) -> None:
    """Whose outcomes are committed together."""
    outcomes = bench.run(lambda: step.map("each", lambda n: n, [1, 2]))
    assert outcomes[0] == ("nap", "completed")
    assert {status for _, status in outcomes} == {"completed"}


def test_in_branches(bench: Bench) -> None:
    """Each once, whichever commits first."""

    def branch(name: str) -> Work:
        def run() -> str:
            step.sleep(f"{name}-nap", 60)
            together.wait(10)
            return step.run(name, str.upper, name)

        return run

    together = threading.Barrier(2)
    bench.after = lambda: list(step.parallel(branch("a"), branch("b")))
    heard: list[str] = []

    def hear(sender: t.Any, **more: t.Any) -> None:
        heard.append(more["step"].id)

    bench.client.post("/work")

    with step_completed.connected_to(hear):
        for _ in range(2):
            bench.drive.advance(61)
            bench.drive.run_due()

    assert {status for _, status in bench.lines()} == {"completed"}
    assert sorted(heard) == ["a", "a-nap", "b", "b-nap", "nap"]


def test_it_is_told_after_the_commit(bench: Bench) -> None:
    """As of all steps."""
    heard: list[tuple[str, list[tuple[str, str]]]] = []

    def hear(sender: t.Any, **more: t.Any) -> None:
        heard.append((more["step"].id, bench.lines()[1:]))

    with step_completed.connected_to(hear):
        bench.run(lambda: "done")

    assert heard == [("before", []), ("nap", [("nap", "completed")])]


def test_a_crash_repeats_nothing_and_loses_nothing(bench: Bench) -> None:
    """Between the sleep and what follows: it is over for the next attempt, too."""

    def die() -> t.NoReturn:
        raise LeaseLostError("killed")

    bench.run(die)
    row = bench.execution()
    assert (row.status, row.attempt) == ("running", 2)
    held = bench.state.upkeep.held(row.owner or "")
    assert bench.state.upkeep.release(held[0], row.owner or "", 1, 0.0)
    bench.after = lambda: "done"
    assert bench.drive.run_due() == 1
    assert bench.lines() == [("before", "completed"), ("nap", "completed")]


def test_a_sleep_that_could_not_be_committed_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed next takes it along."""
    record_all = Store.record_all
    calls: list[int] = []

    def fail_once(store: Store, *args: t.Any) -> bool:
        calls.append(len(args[2]))

        if len(calls) == 1:
            raise ValueError("can't be sent")

        return record_all(store, *args)

    def after() -> str:
        with pytest.raises((ValueError, StepError)):
            step.run("bad", int)

        return "done"

    monkeypatch.setattr(Store, "record_all", fail_once)
    assert ("nap", "completed") in bench.run(after)
    assert calls[0] == 2


def test_what_the_heartbeat_has_shown_is_committed_all_the_same(
    bench: Bench,
) -> None:
    """With its nonce: nobody takes it for another attempt's."""
    found: list[list[tuple[str, str]]] = []

    def slow() -> None:
        scope = current_scope.get()
        assert scope is not None
        ((_, given),) = scope.attempt.lease.passed.values()
        bench.state.upkeep.mark_passed(scope.attempt.id, 2, given)
        found.append(bench.lines()[1:])

    outcomes = bench.run(lambda: step.run("slow", slow) or "done")
    assert found == [[("nap", "completed")]]
    assert outcomes == [("nap", "completed"), ("slow", "completed")]


def test_passing_gives_all_once(bench: Bench) -> None:
    """And gives back what was not committed."""

    def after() -> str:
        scope = current_scope.get()
        assert scope is not None
        attempt: Attempt = scope.attempt

        with pytest.raises(ZeroDivisionError), attempt.passing() as passed:
            assert [one.id for one, _ in passed] == ["nap"]
            more = StepRecord("more", "sleep", "completed", 1, 9, 2, 5.0)
            attempt.lease.passed["more"] = 0.0, (more, new_nonce())
            raise ZeroDivisionError

        assert list(attempt.lease.passed) == ["nap", "more"]
        del attempt.lease.passed["more"]
        return "done"

    assert bench.run(after) == [("nap", "completed")]
