"""What a process leaves to its children when it forks."""

from __future__ import annotations

import collections.abc as cabc
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from flask import Flask

from flask_durable import FlaskDurable
from flask_durable import forks
from flask_durable import parallel
from flask_durable import step
from flask_durable.database import Database
from flask_durable.file_lock import FileLock
from flask_durable.state import opened_state

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

COUNT = """
import sqlite3, sys
journal = sqlite3.connect(sys.argv[1])
print(*journal.execute("SELECT count(*) FROM durable_executions").fetchone())
journal.close()
"""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def post(app: Flask, durable: FlaskDurable) -> cabc.Callable[[], int]:
    """Give what begins and ends an execution, and its answer's status."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("a", str, "done")

    return lambda: app.test_client().post("/work").status_code


class Child:
    """A forked child that does something each time that it is told to."""

    def __init__(self, work: cabc.Callable[[], int]) -> None:
        told, self._tell = os.pipe()
        self._hear, tells = os.pipe()
        self.pid = os.fork()

        if self.pid == 0:
            try:
                while os.read(told, 1) == b"x":
                    os.write(tells, bytes([work() // 100]))
            finally:
                os._exit(0)

    def work(self) -> int:
        """Have it work once, and give the class of the answer."""
        os.write(self._tell, b"x")
        return os.read(self._hear, 1)[0]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def count(path: pathlib.Path) -> int:
    """Have another process count executions, the last one to close the file."""
    command = [sys.executable, "-c", COUNT, str(path)]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def test_what_a_child_stores_stays(
    app: Flask, post: cabc.Callable[[], int], tmp_path: pathlib.Path
) -> None:
    """Though its parent used the journal before, and closes it."""
    journal = tmp_path / "journal.db"
    assert post() == 200

    with Child(post) as child:
        opened_state(app).close()
        assert child.work() == 2
        assert count(journal) == 2
        assert child.work() == 2
        assert count(journal) == 3


def test_a_parent_goes_on(app: Flask, post: cabc.Callable[[], int]) -> None:
    """Beside its child."""
    assert post() == 200

    with Child(post) as child:
        assert (post(), child.work(), post()) == (200, 2, 200)


def test_a_fork_waits_for_a_write(
    app: Flask, post: cabc.Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the child would take the file for locked for good."""
    assert post() == 200
    database = opened_state(app).store.database
    writes, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with database.connect() as connection, database.transaction(connection):
            writes.set()
            assert may_end.wait(10)

    real = FileLock.acquire

    def acquire(lock: FileLock, timeout: float, has_it: list[bool]) -> None:
        may_end.set()
        real(lock, timeout, has_it)

    thread = threading.Thread(target=write)
    thread.start()
    assert writes.wait(10)
    monkeypatch.setattr(FileLock, "acquire", acquire)

    with Child(post) as child:
        thread.join()
        assert child.work() == 2


def test_threads_may_fork_at_once(app: Flask, post: cabc.Callable[[], int]) -> None:
    """Each gives back what it took itself."""
    assert post() == 200
    database = opened_state(app).store.database

    def fork() -> None:
        for _ in range(10):
            if (pid := os.fork()) == 0:
                os._exit(0)

            os.waitpid(pid, 0)

    threads = [threading.Thread(target=fork) for _ in range(3)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert can_be_had(database)
    assert post() == 200


def test_a_connection_in_use_is_warned_of(
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The child has it, too, and must leave the journal alone."""
    monkeypatch.setattr(forks, "PATIENCE", 0.0)
    database = Database.open(sqlite_url)

    with database.connect():
        forks.rest([database])

    forks.go_on()
    assert "the child must not use it" in caplog.text
    caplog.clear()
    forks.rest([database, Database.open("postgresql+psycopg://127.0.0.1/nobody")])
    assert not can_be_had(database)
    forks.go_on()
    assert caplog.text == ""
    assert can_be_had(database)
    database.close()


def can_be_had(database: Database) -> bool:
    """Tell whether a file's turn is free."""
    assert database.lock is not None
    has_it: list[bool] = []
    database.lock.acquire(0.0, has_it)
    database.lock.release(has_it.copy())
    return has_it == [True]


def test_a_child_has_all_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its parent's branches are not its own."""
    monkeypatch.setattr(parallel, "_free_threads", threading.Semaphore(0))

    def has_some() -> int:
        return 200 if parallel._free_threads.acquire(blocking=False) else 500

    with Child(has_some) as child:
        assert child.work() == 2
