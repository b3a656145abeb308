"""Whose turn it is to write to a SQLite file."""

from __future__ import annotations

import collections.abc as cabc
import fcntl
import os
import pathlib
import signal
import stat
import threading
import time

import pytest

from flask_durable import file_lock as module
from flask_durable.file_lock import file_lock
from flask_durable.file_lock import FileLock

from .crash_lab import in_child
from .processes import wait_until


@pytest.fixture
def lock(tmp_path: pathlib.Path) -> FileLock:
    """Have the lock of a database."""
    lock = file_lock(str(tmp_path / "journal.db"))
    assert lock is not None
    return lock


def is_free(path: pathlib.Path) -> bool:
    """Tell whether another process could have the lock at once."""

    def look() -> None:
        file = os.open(f"{path}-lock", os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    return in_child(look) == 0


def test_it_is_held_against_other_processes(
    tmp_path: pathlib.Path, lock: FileLock, capfd: pytest.CaptureFixture[str]
) -> None:
    """As long as the block lasts."""
    path = tmp_path / "journal.db"

    with lock.held(1.0):
        assert not is_free(path)

    assert is_free(path)
    assert "BlockingIOError" in capfd.readouterr().err


def test_there_is_one_a_file(tmp_path: pathlib.Path, lock: FileLock) -> None:
    """A second open file would end the first one's lock when it is closed."""
    assert file_lock(str(tmp_path / "journal.db")) is lock
    assert file_lock(str(tmp_path / "." / "journal.db")) is lock
    assert file_lock(str(tmp_path / "other.db")) is not lock


def test_who_may_use_the_database_may_take_it(tmp_path: pathlib.Path) -> None:
    """A group that shares the file, say, and nobody else."""
    path = tmp_path / "journal.db"
    path.touch()
    path.chmod(0o660)
    before = os.umask(0o077)

    try:
        assert file_lock(str(path)) is not None
        assert file_lock(str(tmp_path / "new.db")) is not None
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "journal.db-lock").stat().st_mode) == 0o660
    assert stat.S_IMODE((tmp_path / "new.db-lock").stat().st_mode) == 0o600


def test_a_link_is_not_followed(tmp_path: pathlib.Path) -> None:
    """Somebody else may have put it there; one goes on without."""
    (tmp_path / "journal.db-lock").symlink_to(tmp_path / "other")
    assert file_lock(str(tmp_path / "journal.db")) is None
    assert not (tmp_path / "other").exists()


def test_one_thread_of_a_process_has_it(lock: FileLock) -> None:
    """POSIX would give it to all of them."""
    order: list[str] = []

    def other() -> None:
        with lock.held(10.0):
            order.append("other")

    with lock.held(1.0):
        thread = threading.Thread(target=other)
        thread.start()
        order.append("first")

    thread.join(10)
    assert order == ["first", "other"]


def test_a_thread_goes_on_without_it_in_the_end(lock: FileLock) -> None:
    """It is a courtesy; SQLite's own lock is what keeps the file whole."""
    with lock.held(1.0), lock.held(0.01):
        pass

    with lock.held(0.0):
        pass


@pytest.fixture
def stopped(tmp_path: pathlib.Path) -> cabc.Iterator[cabc.Callable[[], None]]:
    """Have another process that has the lock and is stopped; end it by a call."""
    if not (child := os.fork()):
        file = os.open(tmp_path / "journal.db-lock", os.O_CREAT | os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGSTOP)

    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    ends = iter([child])

    def end() -> None:
        for each in ends:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)

    yield end
    end()


def test_a_stopped_process_holds_nobody_up(
    stopped: cabc.Callable[[], None], lock: FileLock
) -> None:
    """SQLite's own lock says whether it stands in the way."""
    with lock.held(0.05):
        pass

    with lock.held(0.05):
        pass


def test_who_gave_up_does_not_get_it_later(
    tmp_path: pathlib.Path, stopped: cabc.Callable[[], None], lock: FileLock
) -> None:
    """Or it would keep other processes from it while nobody here writes."""
    with lock.held(0.01):
        pass

    assert lock._waiting
    stopped()
    wait_until(lambda: not lock._waiting, 10)
    assert is_free(tmp_path / "journal.db")


def test_one_thread_at_a_time_waits_for_another_process(
    stopped: cabc.Callable[[], None],
    lock: FileLock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one takes its wait over, and has the lock as soon as it comes."""
    with lock.held(0.01):
        monkeypatch.setattr(module, "start_bare_thread", None)

    timer = threading.Timer(0.05, stopped)
    timer.start()
    began = time.monotonic()

    with lock.held(60.0):
        assert time.monotonic() - began < 30

    timer.join()


def test_who_can_start_no_thread_goes_on_without_it(
    stopped: cabc.Callable[[], None],
    lock: FileLock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the interpreter ends and hands leases back."""

    def refuse(target: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(module, "start_bare_thread", refuse)
    began = time.monotonic()

    with lock.held(60.0):
        assert time.monotonic() - began < 30


def test_it_ends_with_its_process(tmp_path: pathlib.Path, lock: FileLock) -> None:
    """Whatever ends it."""
    path = tmp_path / "journal.db"

    def die() -> None:
        with lock.held(1.0):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(die)) == signal.SIGKILL
    assert is_free(path)


def test_a_fork_leaves_it_to_the_parent(tmp_path: pathlib.Path, lock: FileLock) -> None:
    """The child neither has it nor waits for a thread that it does not have."""
    path = tmp_path / "journal.db"

    def hold() -> None:
        began = time.monotonic()

        with lock.held(60.0):
            assert time.monotonic() - began < 30

    with lock.held(1.0):
        child = os.fork()

        if not child:
            try:
                hold()
            finally:
                os._exit(0)

        assert not is_free(path)

    assert os.waitpid(child, 0)[1] == 0
    assert is_free(path)


def test_where_no_file_can_be_made_there_is_none(tmp_path: pathlib.Path) -> None:
    """The folder is missing, say."""
    assert file_lock(str(tmp_path / "missing" / "journal.db")) is None
