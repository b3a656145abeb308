"""Outcomes of a map that one thread commits for the others."""

from __future__ import annotations

import collections.abc as cabc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import outbox as module
from flask_durable import step
from flask_durable.errors import LeaseLostError
from flask_durable.ids import new_id
from flask_durable.outbox import MOST
from flask_durable.outbox import MOST_BYTES
from flask_durable.outbox import Outbox
from flask_durable.records import Marked
from flask_durable.records import RequestRecord
from flask_durable.records import StepRecord
from flask_durable.store import Store

from .crash_lab import in_child
from .driving import Drive

REQUEST = RequestRecord(b"{}", None, b"", "digest")


def marked(*steps: StepRecord) -> list[Marked]:
    """Give each a nonce."""
    return [(step, f"nonce of {step.id}") for step in steps]


def outcome(name: str, output: bytes = b"1") -> StepRecord:
    """Make a step's outcome."""
    return StepRecord(name, "run", "completed", 1, 0, 1, 1.0, 2.0, output=output)


class Recorder:
    """Stands in for an attempt, and notes what it is to commit, and how."""

    def __init__(self) -> None:
        self.alone: list[str] = []
        self.together: list[list[str]] = []
        self.errors: list[BaseException] = []

    def record(self, step: StepRecord) -> None:
        """Note an outcome by itself."""
        self.alone.append(step.id)

    def record_all(self, given: cabc.Sequence[Marked]) -> None:
        """Note several, and raise what is due."""
        self.together.append([step.id for step, _ in given])

        if self.errors:
            raise self.errors.pop()


@pytest.fixture
def recorder() -> Recorder:
    """Have an attempt."""
    return Recorder()


@pytest.fixture
def outbox(recorder: Recorder) -> Outbox:
    """Have an outbox."""
    return Outbox(t.cast(t.Any, recorder))


def serve(outbox: Outbox, work: cabc.Callable[[], None]) -> None:
    """Serve a thread that works."""

    def run() -> None:
        work()
        outbox.leave()

    thread = threading.Thread(target=run)
    thread.start()
    outbox.serve([thread])
    thread.join(10)


def test_what_its_own_thread_brings_is_committed_at_once(
    outbox: Outbox, recorder: Recorder
) -> None:
    """As in a map that got no other."""
    outbox.put(outcome("a"))
    assert recorder.alone == ["a"]


def test_what_comes_is_committed_by_who_serves(
    outbox: Outbox, recorder: Recorder
) -> None:
    """All of it, before it returns."""

    def work() -> None:
        for number in range(9):
            outbox.put(outcome(str(number)))

    serve(outbox, work)
    assert [name for batch in recorder.together for name in batch] == [*"012345678"]
    outbox.put(outcome("later"))
    assert recorder.alone == ["later"]


def test_too_many_and_too_big_ones_do_not_wait(
    outbox: Outbox, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a crash repeats few calls, and memory has a bound."""
    held, go = threading.Event(), threading.Event()
    commit = recorder.record_all

    def hold(given: cabc.Sequence[Marked]) -> None:
        held.set()
        assert go.wait(10)
        commit(given)

    monkeypatch.setattr(recorder, "record_all", hold)

    def work() -> None:
        outbox.put(outcome("first"))
        assert held.wait(10)

        for number in range(MOST):
            outbox.put(outcome(str(number)))

        go.set()

    serve(outbox, work)
    assert recorder.alone == [str(MOST - 1)]
    assert sum(map(len, recorder.together)) == MOST
    serve(outbox, lambda: outbox.put(outcome("big", b"1" * (MOST_BYTES + 1))))
    assert recorder.alone == [str(MOST - 1), "big"]


@pytest.mark.parametrize("error", [ValueError("refused"), LeaseLostError("refused")])
def test_an_error_comes_when_all_have_left(
    outbox: Outbox, recorder: Recorder, error: BaseException
) -> None:
    """What others bring is still committed, if it can be."""
    recorder.errors.append(error)
    sent = threading.Event()
    commit = recorder.record_all

    def tell(given: cabc.Sequence[Marked]) -> None:
        try:
            commit(given)
        finally:
            sent.set()

    t.cast(t.Any, recorder).record_all = tell

    def work() -> None:
        outbox.put(outcome("a"))
        assert sent.wait(10)
        outbox.put(outcome("b"))

    serve(outbox, work)
    assert recorder.together == [["a"], ["b"]]

    with pytest.raises(type(error), match="refused"):
        outbox.check()


def test_one_that_can_not_be_written_leaves_the_others(
    outbox: Outbox, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is tried by itself then, with the nonce that it had."""
    seen: list[list[Marked]] = []

    def refuse(given: cabc.Sequence[Marked]) -> None:
        seen.append(list(given))

        if any(step.id == "b" for step, _ in given):
            raise ValueError("refused")

    monkeypatch.setattr(recorder, "record_all", refuse)
    outbox._commit(marked(outcome("a"), outcome("b"), outcome("c")))
    together, *alone = seen
    assert [[each] for each in together] == alone

    with pytest.raises(ValueError, match="refused"):
        outbox.check()


def test_an_interruption_waits_for_the_others(
    outbox: Outbox, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a signal's handler: the threads use what the view has."""
    serve_once, interruptions = outbox._serve, [KeyboardInterrupt()]

    def interrupt(threads: cabc.Sequence[threading.Thread]) -> bool:
        if interruptions:
            raise interruptions.pop()

        return serve_once(threads)

    monkeypatch.setattr(outbox, "_serve", interrupt)
    serve(outbox, lambda: outbox.put(outcome("a")))
    assert recorder.together == [["a"]]

    with pytest.raises(KeyboardInterrupt):
        outbox.check()


def test_a_thread_that_leaves_without_a_word_is_missed(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a greenlet that is killed before it begins."""
    monkeypatch.setattr(module, "LOOK", 0.01)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    outbox.serve([thread])
    outbox.check()


@pytest.fixture
def running(store: Store) -> str:
    """Store an execution whose first attempt is running."""
    execution_id = new_id()
    store.begin(execution_id, "view", "ada:1:1", 60.0, REQUEST, None)
    return execution_id


def ids(store: Store, execution_id: str) -> list[str]:
    """List the steps that the journal has."""
    return sorted(step.id for step in store.journal(execution_id))


def test_several_outcomes_are_read_as_they_were_written(
    store: Store, running: str
) -> None:
    """Each in its place."""
    steps = [
        outcome(f"s{n}", b"\x00\xff%d" % n)._replace(position=n) for n in range(70)
    ]
    assert store.record_all(running, 1, marked(*steps)) is False
    assert store.journal(running) == steps


def test_several_outcomes_are_fenced(store: Store, running: str) -> None:
    """None of them is written after another attempt took over."""
    store.suspend(running, 1, 0.0)
    store.claim(running, 2, "ada:1:1", 60.0)

    with pytest.raises(LeaseLostError):
        store.record_all(running, 1, marked(outcome("a"), outcome("b")))

    assert ids(store, running) == []


def test_several_outcomes_tell_of_a_wish_to_end(
    store: Store, running: str, app: Flask, durable: FlaskDurable
) -> None:
    """They ran, so they are recorded."""
    cancel = "UPDATE durable_executions SET cancel_requested = 1"
    store.database.run(lambda c: c.exec_driver_sql(cancel))
    assert store.record_all(running, 1, marked(outcome("a"), outcome("b"))) is True
    assert ids(store, running) == ["a", "b"]


def test_of_several_outcomes_that_are_refused_the_others_stay(
    store: Store, running: str
) -> None:
    """An outcome is never changed."""
    store.record(running, 1, outcome("b", b"first"))

    with pytest.raises(LeaseLostError):
        store.record_all(running, 1, marked(outcome("a"), outcome("b", b"second")))

    found = {step.id: step.output for step in store.journal(running)}
    assert found == {"a": b"1", "b": b"first"}


def test_several_outcomes_whose_answer_was_lost_are_found(
    store: Store, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know themselves again."""
    write = store.commits.write

    def lose(*arguments: t.Any) -> None:
        write(*arguments)

    monkeypatch.setattr(store.commits, "write", lose)
    both = marked(outcome("a"), outcome("b"))
    assert store.record_all(running, 1, both) is False
    assert store.record_all(running, 1, both) is False
    assert ids(store, running) == ["a", "b"]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have how many outcomes were committed at once, each time."""
    sizes: list[int] = []
    record_all = Store.record_all

    def count(store: Store, key: str, attempt: int, steps: t.Any) -> bool:
        sizes.append(len(steps))
        return record_all(store, key, attempt, steps)

    monkeypatch.setattr(Store, "record_all", count)
    return sizes


def test_a_wide_map_shares_commits(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    together: list[int],
) -> None:
    """And has all in the journal when it returns."""
    found: list[str] = []

    @app.post("/wide")
    @durable.endpoint
    def wide() -> list[int]:
        values = step.map("square", lambda n: n * n, range(300))
        found.extend(ids(drive.state.store, current_execution.id))
        return t.cast("list[int]", values)

    assert client.post("/wide").json == [n * n for n in range(300)]
    assert found == sorted(f"square[{n}]" for n in range(300))
    assert sum(together) > len(together)


@pytest.mark.parametrize("steps", [step.options(at_most_once=True), step])
def test_what_must_not_run_again_is_committed_at_once(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    together: list[int],
    steps: t.Any,
) -> None:
    """And so is all of a map with one worker."""
    workers = 1 if steps is step else 16

    @app.post("/wide")
    @durable.endpoint
    def wide() -> list[int]:
        values = steps.map("square", lambda n: n * n, range(30), max_workers=workers)
        return t.cast("list[int]", values)

    assert client.post("/wide").json == [n * n for n in range(30)]
    assert together == []


def test_a_map_whose_lease_is_lost_ends_the_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It calls no more functions than are under way, and the next attempt goes on."""
    calls: list[int] = []
    taken = threading.Lock()

    def take_over(number: int) -> int:
        with taken:
            calls.append(number)

            if len(calls) == 1:
                store = drive.state.store
                steal = "UPDATE durable_executions SET attempt = attempt + 1"
                store.database.run(lambda c: c.exec_driver_sql(steal))

        return number

    @app.post("/wide")
    @durable.endpoint
    def wide() -> list[int]:
        return t.cast("list[int]", step.map("square", take_over, range(2000)))

    assert client.post("/wide").status_code >= 202
    assert len(calls) < 2000
    names = [thread.name for thread in threading.enumerate()]
    assert "flask_durable.branch" not in names


GREENLETS = """
from gevent import monkey

monkey.patch_all(queue=False)

from flask import Flask
from flask_durable import FlaskDurable, step
import time

app = Flask("greenlets")
app.config.update(SECRET_KEY="test", DURABLE_DATABASE_URL="sqlite:///journal.db")
app.testing = True
durable = FlaskDurable(app)


@app.post("/wide")
@durable.endpoint
def wide():
    return step.map("item", lambda n: time.sleep(0.01) or n, range(40))


assert app.test_client().post("/wide").json == list(range(40))
"""


def test_a_map_of_greenlets_does_not_hold_their_hub(tmp_path: pathlib.Path) -> None:
    """Whatever else of the standard library is patched."""
    command = [sys.executable, "-c", GREENLETS]
    subprocess.run(command, cwd=tmp_path, timeout=60, check=True)


def test_a_kill_repeats_few_calls(
    database_url: str, tmp_path: pathlib.Path, store: Store
) -> None:
    """What is not in the journal was under way, or waited for its commit."""
    calls, workers = tmp_path / "calls", 16

    def call(number: int) -> int:
        with calls.open("a") as file:
            file.write(f"{number}\n")

        if number == 400:
            os.kill(os.getpid(), signal.SIGKILL)

        return number

    def serve_until_killed() -> None:
        app = Flask("killed")
        app.config.update(SECRET_KEY="test", DURABLE_DATABASE_URL=database_url)
        app.testing = True

        @app.post("/wide")
        @FlaskDurable(app).endpoint
        def wide() -> list[int]:
            return step.map("item", call, range(1000), max_workers=workers)

        app.test_client().post("/wide")

    assert in_child(serve_until_killed) == signal.SIGKILL
    called = {f"item[{number}]" for number in calls.read_text().split()}
    query = "SELECT id FROM durable_steps"
    found = store.database.run(lambda c: c.exec_driver_sql(query).scalars().all())
    assert found and called.issuperset(found)
    assert len(called) - len(found) <= MOST + workers
