"""Outcomes of steps that one thread commits for those that ran the functions.

The functions of a wide ``step.map`` are short. If each thread waited for its own
commit, the threads would hand the GIL to each other at each wait. So the view's thread
commits their outcomes, and meanwhile they go on with the next function.
"""

from __future__ import annotations

import collections.abc as cabc
import threading

from .attempt import Attempt
from .errors import LeaseLostError
from .ids import new_nonce
from .records import Marked
from .records import StepRecord

MOST = 64
"""Most outcomes that wait for their commit, those being committed included. A crash
repeats at most this many calls in addition to those that were running."""

MOST_BYTES = 65_536
"""Most bytes of these in all: the limit of a journal counts only what is committed."""

LOOK = 1.0
"""Seconds between two checks for threads that ended without saying so."""


class Outbox:
    """Takes outcomes from several threads; the thread that made it commits them.

    :param attempt: the attempt that the outcomes belong to
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._owner = threading.get_ident()
        self._lock = threading.Lock()
        self._waiting: list[Marked] = []
        self._count = self._bytes = self._gone = 0
        # gevent patches this kind of lock, so waiting for it does not block the hub.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._error: BaseException | None = None

    def put(self, step: StepRecord) -> None:
        """Hand over an outcome, or commit it here if too much waits already.

        :raises LeaseLostError: if the attempt may not go on
        """
        if self._takes(step):
            self._ring()
        else:
            self._attempt.record(step)

    def _takes(self, step: StepRecord) -> bool:
        if threading.get_ident() == self._owner:
            return False

        size = len(step.output or b"")

        with self._lock:
            if self._count >= MOST or self._bytes + size > MOST_BYTES:
                return False

            self._count += 1
            self._bytes += size
            self._waiting.append((step, new_nonce()))

        return True

    def leave(self) -> None:
        """Tell that a thread has no more outcomes."""
        with self._lock:
            self._gone += 1

        self._ring()

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            # It has been rung already.
            pass

    def serve(self, threads: cabc.Sequence[threading.Thread]) -> None:
        """Commit outcomes until all of these threads have left.

        An exception, also one from a signal handler, is kept for :meth:`check`.
        """
        goes_on = True

        while goes_on:
            try:
                goes_on = self._serve(threads)
            except BaseException as error:
                self._error = self._error or error

    def _serve(self, threads: cabc.Sequence[threading.Thread]) -> bool:
        """Commit what waits, or wait for more; tell whether more may come."""
        with self._lock:
            given, self._waiting = self._waiting, []
            over = self._gone >= len(threads)

        if given:
            self._commit(given)
            return True

        if over or self._bell.acquire(True, LOOK):
            return not over

        return any(thread.is_alive() for thread in threads)

    def _commit(self, given: list[Marked]) -> None:
        try:
            self._commit_all(given)
        finally:
            with self._lock:
                self._count -= len(given)
                self._bytes -= sum(len(step.output or b"") for step, _ in given)

    def _commit_all(self, given: list[Marked]) -> None:
        try:
            self._attempt.record_all(given)
        except BaseException as error:
            self._error = self._error or error

            # One of them may be at fault. Nonces tell which are committed already.
            if len(given) > 1 and not isinstance(error, LeaseLostError):
                for each in given:
                    self._commit_all([each])

    def check(self) -> None:
        """Make sure that all were committed.

        :raises LeaseLostError: if the attempt may not go on
        """
        if self._error is not None:
            raise self._error
