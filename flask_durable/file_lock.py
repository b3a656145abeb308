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

from .threads import Bell
from .threads import native_lock
from .threads import start_bare_thread


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
        self.forget()

    @contextlib.contextmanager
    def held(self, timeout: float) -> cabc.Iterator[None]:
        """Hold it for the length of a block, as :meth:`acquire` does."""
        has_it: list[bool] = []

        try:
            self.acquire(timeout, has_it)
            yield
        finally:
            try:
                self.release(has_it)
            except BaseException:
                self.release(has_it)
                raise

    def acquire(self, timeout: float, has_it: list[bool]) -> None:
        """Take it, once those have let go of it who were first.

        :param timeout: seconds after which one goes on without: the process that has
            it may be stopped
        :param has_it: an empty list, by which :meth:`release` knows; it is to be called
            in any case
        """
        # A signal's handler may raise after any call: this one has noted it by then.
        has_it.extend(map(self._mine.acquire, (True,), (timeout,)))

        # Nobody else of this process has to do with it then.
        if has_it[0] and (self._waiting or not self._lock(fcntl.LOCK_NB)):
            self._wait_for_it(timeout)

    def release(self, has_it: list[bool]) -> None:
        """Let go of it, if one has it; once more if that was interrupted.

        :param has_it: what :meth:`acquire` was given
        """
        if True not in has_it:
            return

        if self._waiting:
            with self._guard:
                self._wanted = False

        self._let_go()
        # No handler comes between these two.
        del has_it[:]
        self._mine.release()

    def _wait_for_it(self, timeout: float) -> None:
        with self._guard:
            self._wanted = True
            # What rang for one that had given up by then.
            self._came.wait(0.0)

            if not self._waiting:
                self._start_to_wait()

            waits = self._waiting

        if waits:
            self._came.wait(timeout)

    def _start_to_wait(self) -> None:
        # The kernel's wait can't be given up, so that it is not this thread's. None
        # can be started while the interpreter ends.
        with contextlib.suppress(RuntimeError):
            start_bare_thread(self._wait)
            self._waiting = True

    def _wait(self) -> None:
        """Wait for the lock, and let go of it if nobody wants it any more."""
        self._lock()

        with self._guard:
            if self._wanted:
                self._came.ring()
            else:
                self._let_go()

            # Last: who finds nobody waiting does without the guard.
            self._waiting = False

    def _lock(self, how: int = 0) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | how)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            # Some file systems have no locks.
            pass

        return True

    def _let_go(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        except OSError:
            pass

    def forget(self) -> None:
        """Take it from threads that a fork left behind."""
        self._mine = native_lock()
        self._guard = native_lock()
        self._came = Bell()
        self._wanted = self._waiting = False


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
            file = _open(name, path)
        except OSError:
            return None

        return _locks.setdefault(name, FileLock(file))


def _open(name: str, path: str) -> int:
    """Open a lock's file, for whoever may open the database."""
    # In a folder for all, somebody else may have put a link there.
    how = os.O_RDWR | os.O_NOFOLLOW

    with contextlib.suppress(FileNotFoundError):
        return os.open(name, how)

    try:
        mode = os.stat(path).st_mode & 0o666
    except OSError:
        # As SQLite is going to make it.
        return os.open(name, how | os.O_CREAT, 0o644)

    file = os.open(name, how | os.O_CREAT, mode)

    # The umask may have taken some of it; somebody else may have made it meanwhile.
    with contextlib.suppress(OSError):
        os.fchmod(file, mode)

    return file


def _after_fork() -> None:
    global _making
    _making = threading.Lock()

    for lock in list(_locks.values()):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
