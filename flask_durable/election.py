"""Elect the process of an app that sends what is due to the queue that all share.

Nothing depends on there being only one leader: two would do the same work twice,
but the database lets each execution be taken only once.
"""

from __future__ import annotations

import functools

from . import clock
from .leaders import Leaders
from .owner import fate
from .state import State

TERM = 4.0
"""Seconds after which a leader that does not renew is replaced; less if leases are
shorter, so that the election does not delay the recovery from a lost machine."""

LOOK = 1.0
"""Seconds between two looks, and between two renewals."""


class Election:
    """One process's part in the election."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._term = min(TERM, max(2 * LOOK, state.config.lease))
        self._leads = False
        self._look_at = 0.0

    @functools.cached_property
    def _leaders(self) -> Leaders:
        return Leaders(self._state.store)

    def won(self) -> bool:
        """Tell whether this process leads; try to become leader if nobody is."""
        now = clock.boottime()

        if now >= self._look_at:
            self._look_at = now + LOOK
            self._leads = False
            self._leads = self._stand()

        return self._leads

    def _stand(self) -> bool:
        owner = self._state.owner
        leader = self._leaders.find()
        seen = owner if leader is None else leader.owner

        if leader is not None and seen != owner and leader.left > 0:
            if fate(seen) != "dead":
                return False

        return self._leaders.set(owner, seen, self._term)

    def resign(self) -> None:
        """Leave the work to any other process."""
        if self._leads:
            self._leads = False
            self._leaders.end(self._state.owner)
