"""A lock between processes that write to the same SQLite file.

SQLite's own waiting is a sleep of up to 0.1 s, after which another process may be
faster again; here the kernel wakes who waits. It is a courtesy: whoever does without
still has to wait for SQLite's lock.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import fcntl
import os
import threading
import weakref

from .threads import native_lock


class FileLock:
    """Held by one thread of one process at a time.

    A lock of POSIX belongs to the process: it ends with it, whatever ends it, and a
    fork does not take it along.

    :param file: an open file's descriptor; there must be no other of this file, since
        its end would end the lock
    """

    def __init__(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)
        self._mine = native_lock()

    @contextlib.contextmanager
    def held(self, timeout: float) -> cabc.Iterator[None]:
        """Hold it, once those have let go of it who were first.

        :param timeout: seconds after which it goes on without, if it is another
            thread of this process that has it
        """
        if not self._mine.acquire(True, timeout):
            yield
            return

        try:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_EX)

            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)

            self._mine.release()

    def forget(self) -> None:
        """Take it from threads that a fork left behind."""
        self._mine = native_lock()


_locks: weakref.WeakValueDictionary[str, FileLock] = weakref.WeakValueDictionary()
_making = threading.Lock()


def file_lock(path: str) -> FileLock | None:
    """Give the lock of a database's file, unless it can't be made.

    :param path: the database; the lock's file is beside it
    """
    name = os.path.abspath(path) + "-lock"

    with _making:
        if (lock := _locks.get(name)) is not None:
            return lock

        try:
            file = os.open(name, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError:
            return None

        return _locks.setdefault(name, FileLock(file))


def _after_fork() -> None:
    for lock in list(_locks.values()):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
