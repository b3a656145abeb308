"""The embedded dispatcher's threads."""

from __future__ import annotations

import collections.abc as cabc
import threading
import time

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import dispatch_thread as module
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.dispatch_thread import ThreadDispatcher
from flask_durable.records import Due
from flask_durable.state import opened_state

from .driving import Drive
from .processes import wait_until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


class Replays:
    """Replays that wait until they are let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.errors: list[BaseException] = []
        self.go_on = threading.Semaphore(0)

    def __call__(self, app: Flask, execution_id: str, attempt: int) -> None:
        self.begun.append(execution_id)
        assert self.go_on.acquire(timeout=20)
        self.ended.append(execution_id)

        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> cabc.Iterator[Replays]:
    """Replace the replays; all are let go at the end."""
    replays = Replays()
    monkeypatch.setattr(module, "replay", replays)
    yield replays
    replays.go_on.release(100)


@pytest.fixture
def dispatcher(app: Flask) -> cabc.Iterator[ThreadDispatcher]:
    """Run a dispatcher with two threads, whose sweeper finds nothing."""
    app.config["DURABLE_REPLAY_THREADS"] = 2
    FlaskDurable(app)
    state = opened_state(app)
    dispatcher = ThreadDispatcher(app)
    dispatcher.start()
    yield dispatcher
    dispatcher.stop(0)
    state.close()


def due(name: str) -> Due:
    """Make an execution that is due."""
    return Due(name, "suspended", 1, None, 0.0, 1, 0)


def test_an_execution_is_replayed(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """When it is due, by a thread of this process."""
    names: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        names.append(threading.current_thread().name)
        step.sleep("nap", 0.05)
        return "rested"

    durable.start_dispatcher(app)
    answer = client.post("/work")
    assert answer.status_code == 202
    wait_until(lambda: drive.status(answer)["status"] == "completed")
    assert client.get(drive.status(answer)["response_url"]).text == "rested"
    assert names[0] == threading.current_thread().name
    assert names[1].startswith("flask_durable.replay-")


def test_a_thread_takes_one_at_a_time(
    dispatcher: ThreadDispatcher, replays: Replays
) -> None:
    """There are as many free hands as threads with nothing to do."""
    assert dispatcher.free() == 2
    dispatcher.send([due("a")])
    assert dispatcher.free() == 1
    dispatcher.send([due("b")])
    assert dispatcher.free() == 0
    wait_until(lambda: sorted(replays.begun) == ["a", "b"])
    replays.go_on.release(2)
    wait_until(lambda: dispatcher.free() == 2)


def test_a_free_thread_has_the_sweeper_look(
    dispatcher: ThreadDispatcher, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left for want of hands is taken now."""
    woken = threading.Event()
    monkeypatch.setattr(dispatcher._sweeper, "wake", lambda delay: woken.set())
    dispatcher.send([due("a")])
    assert not woken.is_set()
    replays.go_on.release()
    assert woken.wait(10)


@pytest.mark.parametrize("error", [ValueError("bug"), SystemExit(3)])
def test_an_error_in_a_replay_costs_no_thread(
    dispatcher: ThreadDispatcher,
    replays: Replays,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """It is logged, and the thread goes on."""
    replays.errors += [error] * 4
    replays.go_on.release(6)

    dispatcher.send(list(map(due, "abcdef")))

    wait_until(lambda: sorted(replays.ended) == list("abcdef"))
    wait_until(lambda: dispatcher.free() == 2)
    assert caplog.text.count("failed.") == 4
    assert "The replay of execution a failed." in caplog.text


def test_a_stop_waits_for_what_is_in_hand(
    dispatcher: ThreadDispatcher, replays: Replays
) -> None:
    """A replay that ends within the grace is not cut off."""
    dispatcher.send([due("a")])
    wait_until(lambda: replays.begun)
    threading.Timer(0.1, replays.go_on.release).start()
    dispatcher.stop(10)
    assert replays.ended == ["a"]
    assert dispatcher.free() == 2


def test_a_stop_waits_no_longer_than_its_grace(
    dispatcher: ThreadDispatcher, replays: Replays
) -> None:
    """A view that hangs does not hold up the end of the process."""
    dispatcher.send([due("a")])
    wait_until(lambda: replays.begun)
    began = time.monotonic()
    dispatcher.stop(0.1)
    assert 0.1 <= time.monotonic() - began < 5
    assert replays.ended == []


def test_a_stop_without_work_ends_at_once(dispatcher: ThreadDispatcher) -> None:
    """And its threads have gone."""
    began = time.monotonic()
    dispatcher.stop(30)
    assert time.monotonic() - began < 5
    wait_until(lambda: not [one for one in names() if "replay" in one])
    assert "flask_durable.sweeper" not in names()


@pytest.mark.parametrize("budget", [0, 1, 2])
def test_a_start_for_which_threads_are_missing_leaves_none(
    app: Flask,
    durable: FlaskDurable,
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
) -> None:
    """Else each request that tries again would leave some more."""
    started: list[threading.Thread] = []

    def start(target: cabc.Callable[[], None], name: str) -> None:
        if len(started) == budget:
            raise RuntimeError("can't start new thread")

        started.append(threading.Thread(target=target, name=name, daemon=True))
        started[-1].start()

    app.config["DURABLE_REPLAY_THREADS"] = 2
    opened_state(app)
    monkeypatch.setattr(module, "start_thread", start)

    with pytest.raises(RuntimeError, match="start new thread"):
        ThreadDispatcher(app).start()

    for thread in started:
        thread.join(10)

    assert not any(thread.is_alive() for thread in started)


def names() -> list[str]:
    """Name the threads that run."""
    return [one.name for one in threading.enumerate()]


def test_what_nobody_claims_is_sent_again_after_the_patience(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replay that came to nothing is not lost."""
    sent = threading.Semaphore(0)
    monkeypatch.setattr(ThreadDispatcher, "patience", 0.1)
    monkeypatch.setattr(module, "replay", lambda *arguments: sent.release())

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 0.01)
        return "rested"

    durable.start_dispatcher(app)
    client.post("/work")

    for _ in range(3):
        assert sent.acquire(timeout=10)
