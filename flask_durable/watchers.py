"""How many requests may watch executions, as each of them holds a server's thread."""

from __future__ import annotations

import collections
import collections.abc as cabc
import contextlib
import os
import threading
import typing as t

from .threads import are_greenlets

SAFE = 1
"""Most watchers if the number of the server's threads, two or more, is unknown."""

DEVELOPMENT = 50
"""Most watchers of Flask's development server, which starts a thread per request."""

GREENLETS = 500
"""Most watchers if threads are gevent's greenlets, and their number is unknown."""


class Watchers:
    """The watching requests of this process, of all its apps.

    At most half of the server's threads may watch: a replay that comes over HTTP must
    find a free one. When an attempt ends in this process, they are told at once.
    """

    server_threads: int | None = None
    """How many requests the server serves at a time in this process, if known."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget, in a forked child, the watchers of its parent."""
        self._lock = threading.Lock()
        self._count = 0
        self._bells: dict[str, set[threading.Event]] = collections.defaultdict(set)

    def enter(self, environ: cabc.Mapping[str, t.Any]) -> bool:
        """Take a place for a request, if one is free."""
        limit = self._limit(environ)

        with self._lock:
            if self._count >= limit:
                return False

            self._count += 1
            return True

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self._count -= 1

    @contextlib.contextmanager
    def expect(self, execution_id: str) -> cabc.Iterator[threading.Event]:
        """Yield an event that is set when an attempt of an execution ends here."""
        bell = threading.Event()

        with self._lock:
            self._bells[execution_id].add(bell)

        try:
            yield bell
        finally:
            with self._lock:
                self._bells[execution_id].discard(bell)

                if not self._bells[execution_id]:
                    del self._bells[execution_id]

    def tell(self, execution_id: str) -> None:
        """Tell those who watch an execution that an attempt has ended."""
        if execution_id in self._bells:
            with self._lock:
                for bell in self._bells.get(execution_id, ()):
                    bell.set()

    def _limit(self, environ: cabc.Mapping[str, t.Any]) -> int:
        half = (self.server_threads or 0) // 2

        if are_greenlets():
            # gevent's own server says "wsgi.multithread" is false.
            return (
                GREENLETS if self.server_threads is None else self.server_threads // 2
            )

        if not environ.get("wsgi.multithread"):
            return 0

        if self.server_threads is not None:
            return half

        software = str(environ.get("SERVER_SOFTWARE", ""))
        return DEVELOPMENT if software.startswith("Werkzeug/") else SAFE


watchers = Watchers()
"""The watchers of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watchers.forget)
