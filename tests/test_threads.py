"""Threads and the bell that wakes them."""

from __future__ import annotations

import _thread
import threading
import time

import pytest

from flask_durable import threads
from flask_durable.threads import Bell
from flask_durable.threads import start_native_thread
from flask_durable.threads import start_thread


def test_a_bell_that_rang_before_is_heard() -> None:
    """Whoever waits next does not wait."""
    bell = Bell()
    bell.ring()
    began = time.monotonic()
    bell.wait(30)
    assert time.monotonic() - began < 10


def test_a_bell_is_heard_once() -> None:
    """Many rings before are one, and the next wait is a wait."""
    bell = Bell()
    bell.ring()
    bell.ring()
    bell.wait(30)
    began = time.monotonic()
    bell.wait(0.02)
    assert time.monotonic() - began >= 0.02


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_wait_of_nothing_returns(timeout: float) -> None:
    """A negative time-out is over already, not an endless wait."""
    Bell().wait(timeout)


def test_a_ring_wakes_a_waiting_thread() -> None:
    """At once."""
    bell, waits = Bell(), threading.Event()

    def wait() -> None:
        waits.set()
        bell.wait(30)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert waits.wait(10)
    bell.ring()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("start", [start_thread, start_native_thread])
def test_a_thread_has_its_name_and_holds_no_process(start: object) -> None:
    """It is a daemon."""
    found: list[threading.Thread] = []
    done = threading.Event()

    def note() -> None:
        found.append(threading.current_thread())
        done.set()

    assert callable(start)
    start(note, "flask_durable.test")
    assert done.wait(10)
    assert (found[0].name, found[0].daemon) == ("flask_durable.test", True)


def test_under_gevent_the_original_functions_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A native thread must not become a greenlet."""

    class Monkey:
        asked: list[tuple[str, str]] = []

        @classmethod
        def get_original(cls, module: str, name: str) -> object:
            cls.asked.append((module, name))
            return getattr(_thread, name)

    done = threading.Event()
    monkeypatch.setattr(threads, "_patched", lambda: Monkey)
    start_native_thread(done.set, "flask_durable.test")
    Bell().wait(0)
    assert done.wait(10)
    names = ["start_new_thread", "allocate_lock"]
    assert Monkey.asked == [("_thread", name) for name in names]
