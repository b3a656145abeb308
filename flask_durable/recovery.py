"""Take attempts from owners that can't go on."""

from __future__ import annotations

import logging

from .errors import AttemptCrashed
from .notices import Reason
from .records import Failure
from .records import Held
from .upkeep import Upkeep

logger = logging.getLogger(__name__)

MAX_CRASHES = 10
"""Crashes in a row without a new outcome that end an execution as failed."""

MAX_BACKOFF = 60.0
"""Longest wait before an execution that crashes is tried again, in seconds."""


PUT_OFF = 60.0
"""Seconds until an execution that can't be decrypted is tried again."""


def release_all(upkeep: Upkeep, owner: str) -> int:
    """Make a dead owner's executions ready for their next attempts.

    :return: how many were released
    """
    return sum(release(upkeep, held, owner) for held in upkeep.held(owner))


def release(upkeep: Upkeep, held: Held, owner: str, crashed: bool = True) -> bool:
    """Make an execution ready for its next attempt, if it is still as it was seen.

    After its tenth crash in a row the execution ends as failed instead.
    """
    crashes = 0 if held.progressed else held.crashes + crashed

    if crashes >= MAX_CRASHES:
        return _give_up(upkeep, held, owner, crashes)

    reason: Reason = "crash" if crashed else "stop"
    released = upkeep.release(held, owner, crashes, backoff(crashes), reason)

    if released and crashed:
        logger.warning(
            "Attempt %d of execution %s lost its process; the next one goes on.",
            held.attempt,
            held.id,
        )

    return released


def _give_up(upkeep: Upkeep, held: Held, owner: str, crashes: int) -> bool:
    error = AttemptCrashed(
        f"Its process died {crashes} times in a row without a new outcome, or its view"
        f" was left as by an exit, last in attempt {held.attempt}."
    )
    logger.error("Execution %s failed: %s", held.id, error)
    return upkeep.give_up(held, owner, crashes, Failure.of(error).encode())


def backoff(times: int) -> float:
    """Return the seconds to wait after so many failures: 0, 1, 2, 4 … up to 60."""
    return 0.0 if times < 2 else min(MAX_BACKOFF, 2.0 ** (times - 2))
