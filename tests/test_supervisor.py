"""Child processes that are kept alive, and ended in order."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import signal
import subprocess
import sys
import typing as t

import pytest

from flask_durable import clock
from flask_durable.supervisor import MIN_LIFE
from flask_durable.supervisor import Supervisor

from .processes import Process
from .processes import running
from .processes import wait_until

pytestmark = pytest.mark.slow

SOON = 30.0
"""Seconds for what takes one or two, on a busy machine."""


class Supervised(Process):
    """A supervisor with children that do something simple."""

    def __init__(self, folder: pathlib.Path, count: int, work: str, *options: str):
        self.count = count
        words = ["-m", "tests.supervised", str(count), work, *options]
        super().__init__([sys.executable, *words], folder)

    def ready(self) -> bool:
        """Tell whether all children are there."""
        return len(self.said("waits")) >= self.count

    def said(self, word: str) -> list[int]:
        """List the processes that said so."""
        return [int(pid) for pid in re.findall(rf"^{word} (\d+)\n", self.log(), re.M)]

    def code(self) -> int:
        """Wait until it has ended by itself, and give its exit code."""
        wait_until(self.ended, SOON, "the supervisor has ended")
        return self.kill()


def test_children_are_as_many_as_asked_for(tmp_path: pathlib.Path) -> None:
    """Each a process of its own."""
    with Supervised(tmp_path, 3, "wait") as made:
        assert sorted(made.said("waits")) == sorted(made.children())
        assert len(set(made.children())) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_are_asked_to_end(
    tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    """And waited for; a terminal's signal reaches them a second time."""
    with Supervised(tmp_path, 2, "wait") as made:
        children = made.children()
        send = os.killpg if number == signal.SIGINT else os.kill
        send(made.pid, number)
        assert made.code() == 0
        assert sorted(made.said("ends")) == sorted(children)
        assert "Stopping: what is in hand is finished or handed over." in made.log()
        assert "Traceback" not in made.log()


def test_a_child_that_was_killed_is_replaced(tmp_path: pathlib.Path) -> None:
    """The others are left alone, and the log tells of it."""
    with Supervised(tmp_path, 2, "wait") as made:
        first, second = made.children()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(made.said("waits")) == 3, SOON)
        assert second in made.children() and len(made.children()) == 2
        assert f"Process {first} was ended by SIGKILL; another one" in made.log()


def test_a_child_that_fails_is_replaced(tmp_path: pathlib.Path) -> None:
    """And the log tells how it ended."""
    with Supervised(tmp_path, 1, "finish_at_last") as made:
        assert "ended with code 3; another one is started." in made.log()


def test_a_child_that_fails_once_is_not_replaced(tmp_path: pathlib.Path) -> None:
    """Where it is to do its work only once, the exit code tells."""
    made = Process.start(Once(tmp_path, 2, "fail", "--once"))
    wait_until(made.ended, SOON)
    assert made.kill() == 1


def test_a_child_that_is_done_is_not_replaced(tmp_path: pathlib.Path) -> None:
    """Where it is to do its work only once; when all are, it ends."""
    made = Process.start(Once(tmp_path, 2, "finish", "--once"))
    wait_until(made.ended, SOON)
    assert made.kill() == 0
    assert made.log().count("done") == 2


def test_a_child_that_cant_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The machine has no memory for it at the moment, say; the others go on."""
    now, answers = 1000.0, [None, OSError(errno.ENOMEM, "Cannot allocate memory"), None]

    def start(*args: t.Any, **options: t.Any) -> t.Any:
        if error := answers.pop(0):
            raise error

        return object()

    monkeypatch.setattr(clock, "boottime", lambda: now)
    monkeypatch.setattr(subprocess, "Popen", start)
    made = Supervisor(["work"], 2)
    made._start_due()
    made._start_due()
    assert (len(made._children), len(answers)) == (1, 1)
    assert "can't be started: [Errno 12] Cannot allocate memory" in caplog.text
    now += MIN_LIFE
    made._start_due()
    assert (len(made._children), made._starts) == (2, [])


class Once(Supervised):
    """A supervisor that ends by itself, so that it is never ready."""

    def _ready_or_ended(self) -> bool:
        return True


def test_a_child_that_goes_on_is_asked_again(tmp_path: pathlib.Path) -> None:
    """It hands back what it has then."""
    with Supervised(tmp_path, 1, "linger") as made:
        children = made.children()
        os.kill(made.pid, signal.SIGTERM)
        assert made.code() == 0
        assert made.said("ends") == children


def test_a_child_that_does_not_end_is_killed(tmp_path: pathlib.Path) -> None:
    """The exit code says so."""
    with Supervised(tmp_path, 2, "refuse") as made:
        children = made.children()
        os.kill(made.pid, signal.SIGTERM)
        assert made.code() == 1
        assert not [one for one in running() if one.pid in children]


def test_children_end_with_their_supervisor(tmp_path: pathlib.Path) -> None:
    """Whatever killed it."""
    with Supervised(tmp_path, 2, "wait") as made:
        children = made.children()
        os.kill(made.pid, signal.SIGKILL)
        wait_until(lambda: not [p for p in running() if p.pid in children], SOON)
        assert sorted(made.said("ends")) == sorted(children)
