"""One thread that renews the leases of all attempts of this process.

It also marks slow steps as running, and hands back leases of attempts that ended
abnormally.
"""

from __future__ import annotations

import dataclasses
import logging
import os

from . import clock
from .errors import JournalLostError
from .errors import JournalUnavailable
from .errors import LeaseLostError
from .notices import Notices
from .owner import current_owner
from .records import StepRecord
from .recovery import release
from .store import OUTAGE_PATIENCE
from .store import Store
from .threads import Bell
from .threads import native_lock
from .threads import start_native_thread
from .upkeep import Upkeep

logger = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between looks while attempts run."""

IDLE = 5.0
"""Seconds between looks while no attempt runs."""

STOP_PATIENCE = 5.0
"""Seconds that the end of the process waits for the heartbeat's thread."""

RETRY_PAUSE = 0.5
"""Seconds between two tries to reach a database that is away."""

SLOW_STEP = 0.2
"""Seconds after which a step that still runs is shown as running."""


@dataclasses.dataclass(eq=False)
class Lease:
    """The right to run one attempt, and the tries it has under way."""

    execution_id: str
    attempt: int
    expires_at: float
    """By the boot clock; counted from before the statement was sent."""
    pid: int = dataclasses.field(default_factory=os.getpid)
    lost: bool = False
    held: bool = False
    """Whether the row says so by now: a lease is noted here before it is taken."""
    tries: dict[str, tuple[float, StepRecord]] = dataclasses.field(default_factory=dict)
    """When each step's try began, by the boot clock, and the mark that shows it; gone
    when the try ends or the mark is written."""

    @property
    def key(self) -> tuple[str, int]:
        """The execution's id and the attempt."""
        return self.execution_id, self.attempt


class Heartbeat:
    """Keeps the leases of one app in one process.

    :param store: a store with connections of its own
    :param seconds: length of a lease
    :param threaded: whether a thread renews; else attempts do when a lease has run out
    :param notices: what is told about attempts that are handed back
    """

    def __init__(
        self,
        store: Store,
        seconds: float,
        threaded: bool = True,
        notices: Notices | None = None,
    ) -> None:
        self.seconds = seconds
        self._store = store
        self._upkeep = Upkeep(store, notices)
        self._threaded = threaded
        self._leases: dict[int, Lease] = {}
        self._abandoned: dict[tuple[str, int], bool] = {}
        """What to hand back, and whether that counts as a crash."""
        self._bell = Bell()
        self._ended = Bell()
        self._starting = native_lock()
        self._running = False
        self._resting = True
        """Whether the thread has nothing to look at until the bell rings."""
        self._stopped = False

    def lease(self, execution_id: str, attempt: int, since: float) -> Lease:
        """Note a lease that is about to be taken, and so is not to be handed back.

        :param since: from when the lease counts, by the boot clock
        """
        lease = Lease(execution_id, attempt, since + self.seconds)
        self._leases[id(lease)] = lease
        self._abandoned.pop(lease.key, None)
        return lease

    def hold(self, lease: Lease) -> None:
        """Begin to renew a lease, since the row now says that we have it."""
        lease.held = True

        # While it ticks, it sees the lease soon; woken, it would slow the request down.
        if self._resting:
            self._wake()

    def start(self) -> None:
        """Start the thread, unless it runs.

        :raises RuntimeError: if the process can't have another one now
        """
        with self._starting:
            if self._threaded and not self._running and not self._stopped:
                start_native_thread(self._run, "flask_durable.heartbeat")
                self._running = True

    def _wake(self) -> None:
        if not self._running:
            try:
                self.start()
            except RuntimeError as error:
                # The caller must not fail because of that; the next call tries again.
                logger.error("No leases are renewed: %s.", error)

        self._bell.ring()

    def end(self, lease: Lease) -> None:
        """Stop renewing: the attempt is over."""
        self._leases.pop(id(lease), None)

    def abandon(self, lease: Lease, crashed: bool = True) -> None:
        """Hand a lease back: its row may still say that the attempt runs.

        :param crashed: whether it counts as a crash
        """
        self.end(lease)
        self._abandoned[lease.key] = crashed
        self._wake()

    def holds(self, execution_id: str) -> bool:
        """Tell whether an attempt of this execution is alive in this process."""
        leases = list(self._leases.values())
        return any(lease.execution_id == execution_id for lease in leases)

    def ensure(self, lease: Lease) -> None:
        """Make sure that the lease is still held; renew it if it has run out.

        :raises LeaseLostError: if another attempt took over
        :raises JournalLostError: if the database is away for too long to find out
        """
        if lease.lost or lease.pid != os.getpid():
            raise _lost(lease)

        if clock.boottime() < lease.expires_at:
            return

        self._insist(lease)

        if lease.lost:
            raise _lost(lease)

    def _insist(self, lease: Lease) -> None:
        deadline = clock.boottime() + OUTAGE_PATIENCE

        while True:
            try:
                return self._renew([lease])
            except JournalUnavailable as error:
                if clock.boottime() > deadline:
                    raise JournalLostError(str(error)) from error

            clock.sleep(RETRY_PAUSE)

    def stop(self) -> None:
        """Stop renewing, and hand back what is still held."""
        if self._stopped:
            return

        self._stopped = True
        self._bell.ring()

        if self._running:
            self._ended.wait(STOP_PATIENCE)

        for lease in list(self._leases.values()):
            lease.lost = True
            self.abandon(lease, crashed=False)

        try:
            self._hand_back()
        except Exception as error:
            # The process ends anyway; other processes see that and take the leases.
            logger.warning("Leases were not handed back: %s", error)

    def _run(self) -> None:
        while not self._stopped:
            # True before it looks: an attempt that begins during the look then rings.
            self._resting = True
            self._resting = not (self._leases or self._abandoned)
            self._bell.wait(IDLE if self._resting else TICK)

            try:
                self.tick()
            except JournalUnavailable:
                self._bell.wait(RETRY_PAUSE)
            except Exception:
                logger.exception("The heartbeat failed and goes on.")
                self._bell.wait(RETRY_PAUSE)

        self._ended.ring()

    def tick(self) -> None:
        """Do what is due now."""
        leases = [x for x in list(self._leases.values()) if x.held and not x.lost]
        latest = clock.boottime() + self.seconds * 2 / 3

        if any(lease.expires_at < latest for lease in leases):
            self._renew(leases)

        if self._abandoned:
            self._hand_back()

        for lease in leases:
            self._show_slow_steps(lease)

    def _renew(self, leases: list[Lease]) -> None:
        since = clock.boottime()
        ids = sorted({lease.execution_id for lease in leases})
        alive = self._upkeep.renew(current_owner(), ids, self.seconds)

        for lease in leases:
            if alive.get(lease.execution_id) == lease.attempt:
                lease.expires_at = since + self.seconds
            elif id(lease) in self._leases:
                # If the attempt has ended meanwhile, its lease was not lost.
                lease.lost = True

    def _hand_back(self) -> None:
        left = dict(self._abandoned)

        if not left:
            return

        owner = current_owner()

        for held in self._upkeep.held(owner):
            # Looked up again: by now the attempt may be about to be claimed anew.
            crashed = self._abandoned.get((held.id, held.attempt))

            if crashed is not None:
                release(self._upkeep, held, owner, crashed)

        for key in left:
            self._abandoned.pop(key, None)

    def _show_slow_steps(self, lease: Lease) -> None:
        late = clock.boottime() - SLOW_STEP

        for name, (began, step) in list(lease.tries.items()):
            if began < late and lease.tries.pop(name, None) is not None:
                self._upkeep.mark_running(lease.execution_id, lease.attempt, step)


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(
        f"Attempt {lease.attempt} of execution {lease.execution_id} ends:"
        " another took over, or its process handed it back to stop."
    )
