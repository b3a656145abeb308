"""The loop that looks for due executions and for owners that died."""

from __future__ import annotations

import logging
import threading

from . import clock
from .dispatch import Hands
from .election import Election
from .errors import JournalUnavailable
from .errors import SchemaError
from .owner import fate
from .records import Due
from .recovery import release
from .recovery import release_all
from .state import State

logger = logging.getLogger(__name__)

STOP_PATIENCE = 5.0
"""Seconds that the end of the process waits for the sweeper's current look."""

SCHEMA_PAUSE = 30.0
"""Seconds until the tables are checked again, if they are of another version."""

OUTAGE_QUIET = 10.0
"""Seconds without an error after which the next one is logged again."""

POLL = 1.0
"""Longest time between two looks, in seconds."""

PURGE_PAUSE = 600.0
"""Seconds between two looks for executions that are too old to keep."""

BATCH_PAUSE = 0.05
"""Longest time between two batches of these, in seconds."""

TOLD = 0.5
"""Seconds for which a process keeps looking for an execution that it was told of."""


class Sweeper:
    """Finds due executions and hands them on.

    Each process watches the owners of its own machine. Where all processes share
    the same hands, one of them sweeps for all. Another one sweeps only when it was
    told of an execution, which need not wait then until the elected one looks again.

    :param hands: takes the executions: threads of this process, or a queue
    """

    def __init__(self, state: State, hands: Hands) -> None:
        self._state = state
        self._hands = hands
        self._election = Election(state)
        self._told_until = 0.0
        self._try_at = 0.0
        self._bell = threading.Event()
        self._ended = threading.Event()
        self._stopped = False
        self._began = clock.boottime()
        self._watched_at = 0.0
        self._purge_at = clock.boottime() + PURGE_PAUSE
        self._purged = 0
        self._away_at = 0.0

    def run(self) -> None:
        """Look, again and again, until stopped."""
        while not self._stopped:
            try:
                delay = self.look()
            except JournalUnavailable as error:
                self._log_outage(error)
                delay = POLL
            except SchemaError as error:
                logger.error("%s", error)
                delay = SCHEMA_PAUSE
            except Exception:
                logger.exception("The sweeper failed and goes on.")
                delay = POLL

            if delay > 0 and not self._stopped:
                self._bell.wait(delay)

            self._bell.clear()

        self._resign()
        self._ended.set()

    def _resign(self) -> None:
        try:
            self._election.resign()
        except JournalUnavailable:
            # Another process takes over when the term has ended.
            pass

    def _log_outage(self, error: JournalUnavailable) -> None:
        """Log an outage once, not at each look."""
        now = clock.boottime()

        if now - self._away_at > OUTAGE_QUIET:
            logger.warning("%s", error)

        self._away_at = now

    def look(self) -> float:
        """Do what is due, and return the seconds until the next look."""
        if clock.boottime() - self._watched_at >= POLL:
            self._watched_at = clock.boottime()
            self._watch_owners()

        if not self._may_sweep():
            return POLL

        if clock.boottime() >= self._purge_at and self._purge():
            return min(self._sweep(), BATCH_PAUSE)

        return self._sweep()

    def _sweep(self) -> float:
        """Send what is due, and return the seconds until the next look."""
        left = self._state.upkeep.next_due()

        if left is None or left > 0:
            return POLL if left is None else min(POLL, max(left, 0.001))

        free = self._hands.free()

        if free < 1:
            return self._hands.pause

        return 0.0 if self.sweep(free) else POLL / 20

    def _purge(self) -> bool:
        """Delete a batch of what is old, and tell whether there may be more."""
        # After an error, don't try again at once: nothing would be sent meanwhile.
        self._purge_at = clock.boottime() + PURGE_PAUSE
        deleted, more = self._state.control.purge_some(self._state.config.retention)
        self._purged += deleted

        if more:
            self._purge_at = 0.0
        elif self._purged:
            logger.info("Deleted %d executions that ended long ago.", self._purged)
            self._purged = 0

        return more

    def _may_sweep(self) -> bool:
        if not self._hands.shared:
            return True

        if not self._can_send():
            return False

        return self._election.won() or clock.boottime() < self._told_until

    def _can_send(self) -> bool:
        """Tell whether the hands can be used; else another process sweeps."""
        hands = self._hands

        if not hands.usable and clock.boottime() >= self._try_at:
            self._try_at = clock.boottime() + POLL
            hands.free()

        if not hands.usable:
            self._election.resign()

        return hands.usable

    def sweep(self, limit: int) -> int:
        """Hand on up to ``limit`` due executions, and return how many there were."""
        found = self._state.upkeep.sweep(limit, self._hands.patience, self._second_look)

        self._hands.send([due for due in found if due.status != "running"])

        for due in found:
            if due.status == "running":
                self._look_at_lapsed(due)

        return len(found)

    def wake(self, delay: float) -> None:
        """Look sooner, if an execution becomes due before the next look."""
        if delay < POLL:
            until = clock.boottime() + max(0.0, delay) + TOLD
            self._told_until = max(self._told_until, until)
            self._bell.set()

    def stop(self) -> None:
        """End the loop, and wait for its last look."""
        self._stopped = True
        self._bell.set()
        self._ended.wait(STOP_PATIENCE)

    @property
    def _second_look(self) -> float:
        return self._state.config.lease / 3 + 1.0

    def _watch_owners(self) -> None:
        """Release at once the executions of this machine's processes that died."""
        for owner in self._state.upkeep.owners():
            if fate(owner) == "dead" and release_all(self._state.upkeep, owner):
                self.wake(0.0)

    def _look_at_lapsed(self, due: Due) -> None:
        """Take over an attempt whose lease ran out, at the second look.

        Nothing is taken from a live process of this machine, however late its
        heartbeat is; nor from anybody right after this process could not reach
        the database, because then others could not renew their leases, either.
        """
        owner = due.owner or ""
        state = self._state

        if owner == state.owner:
            if state.heartbeat.holds(due.id):
                return
        elif fate(owner) == "alive":
            return

        steady = state.store.database.steady_for(self._second_look, self._began)

        if due.looks < 2 or not steady:
            return

        for held in state.upkeep.held(owner):
            if (held.id, held.attempt, held.ready_at) == due.seen:
                release(state.upkeep, held, owner)
