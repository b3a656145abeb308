"""A lock between processes that write to the same SQLite file.

SQLite itself waits by sleeping for up to 0.1 s, after which another process may be
faster again; here the kernel wakes the one that waits. The lock is advisory: a process
that does not take it still has to wait for SQLite's own lock.
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

    A POSIX lock belongs to the process: it ends with the process, whatever ends that,
    and a forked child does not inherit it.

    :param file: an open file's descriptor; there must be no other of this file, since
        closing that would release the lock
    """

    def __init__(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)
        self.forget()

    @contextlib.contextmanager
    def held(self, timeout: float) -> cabc.Iterator[None]:
        """Hold the lock for the length of a block; see :meth:`acquire`."""
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
        """Take the lock, once those who came first have released it.

        :param timeout: seconds after which to go on without it: the process that has
            it may be stopped
        :param has_it: an empty list, to note for :meth:`release` whether it is held;
            call that in any case
        """
        # A signal handler may raise after any call: this one takes it and notes that.
        has_it.extend(map(self._mine.acquire, (True,), (timeout,)))

        # From here on, no other thread of this process competes for it.
        if has_it[0] and (self._waiting or not self._lock(fcntl.LOCK_NB)):
            self._wait_for_it(timeout)

    def release(self, has_it: list[bool]) -> None:
        """Release the lock, if it is held; call this again if it was interrupted.

        :param has_it: the list that :meth:`acquire` was given
        """
        if True not in has_it:
            return

        if self._waiting:
            with self._guard:
                self._wanted = False

        self._let_go()
        # No signal handler is called between these two.
        del has_it[:]
        self._mine.release()

    def _wait_for_it(self, timeout: float) -> None:
        with self._guard:
            self._wanted = True
            # Clear a ring that was for a thread which had given up by then.
            self._came.wait(0.0)

            if not self._waiting:
                self._start_to_wait()

            waits = self._waiting

        if waits:
            self._came.wait(timeout)

    def _start_to_wait(self) -> None:
        # A wait in the kernel has no timeout, so another thread waits there. None can
        # be started while the interpreter ends.
        with contextlib.suppress(RuntimeError):
            start_bare_thread(self._wait)
            self._waiting = True

    def _wait(self) -> None:
        """Wait for the lock, and release it if nobody wants it any more."""
        self._lock()

        with self._guard:
            if self._wanted:
                self._came.ring()
            else:
                self._let_go()

            # Last, since a thread that finds nobody waiting does not take the guard.
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
        """Forget who holds it: after a fork those threads don't exist in the child."""
        self._mine = native_lock()
        self._guard = native_lock()
        self._came = Bell()
        self._wanted = self._waiting = False


_locks: weakref.WeakValueDictionary[str, FileLock] = weakref.WeakValueDictionary()
_making = threading.Lock()


def file_lock(path: str) -> FileLock | None:
    """Return the lock of a database's file, unless it can't be made.

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
    """Open a lock's file; its mode lets in everybody who may open the database."""
    # In a shared folder, somebody else may have put a symbolic link there.
    how = os.O_RDWR | os.O_NOFOLLOW

    with contextlib.suppress(FileNotFoundError):
        return os.open(name, how)

    try:
        mode = os.stat(path).st_mode & 0o666
    except OSError:
        # The mode with which SQLite is going to make the database.
        return os.open(name, how | os.O_CREAT, 0o644)

    file = os.open(name, how | os.O_CREAT, mode)

    # The umask may have reduced the mode. Fails if somebody else has made the file.
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
