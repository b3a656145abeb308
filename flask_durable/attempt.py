"""One attempt: its journal, its lease, its clock."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import itertools
import logging
import threading
import typing as t

import sqlalchemy as sa

from . import clock
from . import threads
from .errors import Cancelled
from .errors import DeadlineExceeded
from .errors import LeaseLostError
from .errors import NonDeterminismError
from .errors import ProcessEnds
from .heartbeat import Lease
from .records import Execution
from .records import Marked
from .records import OUTCOMES
from .records import StepRecord
from .records import Wait
from .retry import Retry
from .state import State

logger = logging.getLogger(__name__)

SAME_STEPS = (
    "Each attempt must ask for the same step ids in the same order: put random numbers,"
    " the time and data that others change into steps. If a deployment has changed the"
    " view since the execution began, this is to be expected."
)
"""Advice for when a replay differs from what the journal has."""

R = t.TypeVar("R")
T = t.TypeVar("T")


class Attempt:
    """One run of the view for an execution.

    :param execution: the execution as this attempt began it
    :param journal: what earlier attempts recorded
    :param lease: the right to run it
    :param retry: the endpoint's policy
    :param debug: whether the app is in debug mode
    :param status_url: where the execution can be watched
    """

    def __init__(
        self,
        state: State,
        execution: Execution,
        journal: cabc.Iterable[StepRecord],
        lease: Lease,
        retry: Retry,
        debug: bool,
        status_url: str,
    ) -> None:
        self.state = state
        self._store = state.store
        self.execution = execution
        self.id = execution.id
        self.attempt = execution.attempt
        self.deadline_at = execution.deadline_at
        self.lease = lease
        self.retry = retry
        self.debug = debug
        self.status_url = status_url
        self.steps = {step.id: step for step in journal}
        self.closed = False
        self.lost: LeaseLostError | None = None
        self.found = frozenset(self.steps)
        """The names of the steps that earlier attempts recorded."""
        self._to_pass = set(self.steps)
        self.waits: dict[str, Wait] = {}
        """What its steps wait for so far, by topic."""
        self._receiving = threading.Lock()
        self.cancelled = bool(execution.cancel_requested)
        """Whether it was asked to end at its next step."""
        self.stopped = False
        """Whether a step has ended it because of that."""
        self._asked: set[str] = set()
        self._inline_left = state.config.inline_retry
        self._lock = threading.Lock()
        self._clock_offset = execution.now - clock.boottime()
        size = sum(len(step.output or b"") for step in self.steps.values())
        self._left = state.config.max_journal_bytes - size
        self.room = min(state.config.max_output_bytes, self._left)
        """How many bytes the next output may have at most."""
        last = max((step.position for step in self.steps.values()), default=-1)
        self._positions = itertools.count(last + 1)

    def now(self) -> float:
        """Return the database's time, extrapolated from when the attempt began."""
        return self._clock_offset + clock.boottime()

    def at(self, boottime: float) -> float:
        """Convert a time of the boot clock to the database's time."""
        return self._clock_offset + boottime

    def next_position(self) -> int:
        """Return the position of a new step in the order of calls."""
        return next(self._positions)

    def find(self, name: str) -> StepRecord | None:
        """Look a step up in the journal, and note that the view asked for it."""
        self._asked.add(name)
        found = self.steps.get(name)

        if found is None:
            self._to_pass.clear()
        else:
            self._to_pass.discard(name)

        return found

    @property
    def walks_again(self) -> bool:
        """Tell whether there are recorded steps that the view has yet to pass."""
        return bool(self._to_pass)

    def record(self, step: StepRecord) -> None:
        """Commit a step's outcome or mark."""
        asked = self._fenced(self._store.record, step)
        self.cancelled = self.cancelled or asked
        self._note(step)

    def record_all(self, given: cabc.Sequence[Marked]) -> None:
        """Commit several outcomes at once; after an error the call may be repeated."""
        asked = self._fenced(self._store.record_all, given)
        self.cancelled = self.cancelled or asked

        for step, _ in given:
            self._note(step)

    def transact(self, work: cabc.Callable[[sa.Connection], StepRecord]) -> StepRecord:
        """Run ``work`` in the transaction that commits the outcome it returns."""
        step, asked = self._fenced(self._store.transact, work)
        self.cancelled = self.cancelled or asked
        self._note(step)
        return step

    def _fenced(self, write: cabc.Callable[[str, int, T], R], what: T) -> R:
        """Write as this attempt, and remember if that shows that its lease is lost."""
        try:
            return write(self.id, self.attempt, what)
        except LeaseLostError as error:
            self.lost = error
            raise

    def _note(self, step: StepRecord) -> None:
        self.steps[step.id] = step

        if step.output is not None:
            with self._lock:
                self._left -= len(step.output)

                if self._left < self.room:
                    self.room = self._left

        if step.status not in OUTCOMES:
            return

        self.state.notices.step_ended(self.execution, step)

        if self.state.probe is not None:
            self.state.probe.recorded(step)

    @contextlib.contextmanager
    def receiving(self, topic: str, shared: bool) -> cabc.Iterator[Wait]:
        """Let one branch at a time take the next event of a topic.

        :param shared: whether others get its events, too, also before this execution
        """
        with self._receiving:
            # A copy, since other branches add steps meanwhile.
            steps = list(self.steps.values())
            got = [step.event for step in steps if step.topic == topic]
            after = max((number for number in got if number is not None), default=0)
            # All of a topic of its own is for it, however the clock was set meanwhile.
            yield Wait(topic, after, self.execution.created_at if shared else 0.0)

    def limit_under(self, size: int) -> str:
        """Name the setting that leaves no room for so many bytes."""
        config = self.state.config

        if size > config.max_output_bytes:
            return f"DURABLE_MAX_OUTPUT_BYTES ({config.max_output_bytes})"

        return f"DURABLE_MAX_JOURNAL_BYTES ({config.max_journal_bytes})"

    def take_inline(self, seconds: float) -> bool:
        """Deduct a pause from the time for sleeping in place; tell whether it fits."""
        with self._lock:
            fits = seconds <= self._inline_left
            self._inline_left -= max(0.0, seconds) if fits else 0.0
            return fits

    def ensure_lease(self) -> None:
        """Make sure that this attempt may still run functions."""
        if self.lost is not None:
            raise self.lost

        # Rarely the case. The pid needs no check: a forked child can't call steps.
        if self.lease.lost or clock.boottime() >= self.lease.expires_at:
            self.state.heartbeat.ensure(self.lease)

    def ensure_process(self, error: BaseException) -> None:
        """Make sure that an error does not come from the end of the process.

        Async functions and pools of threads fail there. Nothing is recorded of that:
        the next attempt, in another process, does not meet it.

        :raises ProcessEnds: if it is
        """
        if isinstance(error, RuntimeError) and threads.are_refused():
            raise ProcessEnds(str(error)) from error

    def check_cancelled(self) -> None:
        """Begin nothing new when the execution was asked to end.

        :raises Cancelled: if it was
        """
        if self.cancelled:
            self.stopped = True
            raise Cancelled(f"Execution {self.id} was cancelled.")

    def check_goes_on(self, name: str) -> None:
        """Make sure that a step may have another try.

        :raises Cancelled: if the execution was asked to end
        :raises DeadlineExceeded: if its time is over
        """
        self.check_cancelled()
        self.check_deadline(name)

    @property
    def is_late(self) -> bool:
        """Tell whether the execution's time is over."""
        return self.deadline_at is not None and self.now() >= self.deadline_at

    def check_deadline(self, name: str) -> None:
        """Refuse to begin a step after the execution's deadline.

        :raises DeadlineExceeded: if that has passed
        """
        if self.is_late:
            raise DeadlineExceeded(
                f"Execution {self.id} took longer than its endpoint's deadline: step"
                f' "{name}" was not done by then.'
            )

    def check_unasked(self, now: str = "The view ended") -> None:
        """Complain about journaled steps that the view has not asked for."""
        unasked = self.found - self._asked

        if unasked:
            names = ", ".join(f'"{name}"' for name in sorted(unasked))
            self.complain(f"{now} without asking for the journaled {names}")

    def complain(self, message: str) -> None:
        """Warn about a replay that differs, or raise if replays are strict."""
        message = (
            f'{message} (endpoint "{self.execution.endpoint}", execution {self.id},'
            f" attempt {self.attempt}). {SAME_STEPS}"
        )

        if self.state.strict_replay:
            raise NonDeterminismError(message)

        logger.warning("%s", message)
