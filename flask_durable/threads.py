"""Threads of the operating system, also where gevent has patched ``threading``.

A heartbeat that ran as a greenlet would stop whenever a view blocks the hub.
"""

from __future__ import annotations

import _thread
import collections.abc as cabc
import sys
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor


def start_thread(target: cabc.Callable[[], None], name: str) -> None:
    """Start a daemon thread: a greenlet where gevent has patched threads."""
    threading.Thread(target=target, name=name, daemon=True).start()


def start_native_thread(target: cabc.Callable[[], None], name: str) -> None:
    """Start a daemon thread that the operating system schedules."""
    if _patched() is None:
        start_thread(target, name)
    else:
        start_bare_thread(target)


def start_bare_thread(target: cabc.Callable[[], None]) -> None:
    """Start a native thread without a name, and without waiting until it runs."""
    _original("start_new_thread")(target, ())


def run_in_native_thread(target: cabc.Callable[[], None]) -> None:
    """Run something in a thread of the operating system and wait for it."""
    if _patched() is None:
        thread = threading.Thread(target=target, name="flask_durable.async")
        thread.daemon = True
        thread.start()
        thread.join()
    else:
        sys.modules["gevent"].get_hub().threadpool.apply(target)


def are_refused() -> bool:
    """Tell whether there are no threads to be had.

    An interpreter that ends gives none any more, while its daemon threads go on: not to
    pools, and from Python 3.12 on to nobody.
    """
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int)
    except RuntimeError:
        return True

    return False


def are_greenlets() -> bool:
    """Tell whether gevent has made greenlets of threads, which cost little."""
    return _patched() is not None


def native_lock() -> t.Any:
    """Make a lock for native threads, too; a greenlet that waits blocks the hub."""
    return _original("allocate_lock")()


class Bell:
    """Wakes one native thread; ringing never blocks."""

    def __init__(self) -> None:
        self._lock = native_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the waiting thread, or the next that waits."""
        try:
            self._lock.release()
        except RuntimeError:
            pass

    def wait(self, timeout: float) -> None:
        """Wait for a ring, at most so many seconds."""
        self._lock.acquire(True, max(0.0, timeout))


def _patched() -> t.Any:
    monkey = sys.modules.get("gevent.monkey")
    return monkey if monkey and monkey.is_module_patched("threading") else None


def _original(name: str) -> t.Any:
    monkey = _patched()
    return monkey.get_original("_thread", name) if monkey else getattr(_thread, name)
