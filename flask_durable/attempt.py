"""One attempt: its journal, its ids, its suspension."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import contextvars
import itertools
import logging
import os
import threading

import sqlalchemy as sa

from . import clock
from .checks import caller
from .errors import Cancelled
from .errors import DeadlineExceeded
from .errors import LeaseLostError
from .errors import MisplacedStepError
from .errors import NestedStepError
from .errors import NonDeterminismError
from .errors import Suspended
from .heartbeat import Lease
from .ids import idempotency_key
from .names import Names
from .records import Execution
from .records import OUTCOMES
from .records import StepRecord
from .records import Wait
from .retry import Retry
from .state import State

logger = logging.getLogger(__name__)


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
        self.root = Scope(self)
        self._found = frozenset(self.steps)
        self._to_pass = set(self.steps)
        self.waits: dict[str, Wait] = {}
        """What it waits for by now, by topic."""
        self._receiving = threading.Lock()
        self.cancelled = bool(execution.cancel_requested)
        """Whether it was asked to end at its next step."""
        self.stopped = False
        """Whether a step ended it by that."""
        self._asked: set[str] = set()
        self._inline_left = state.config.inline_retry
        self._lock = threading.Lock()
        self._clock_offset = execution.now - clock.boottime()
        size = sum(len(step.output or b"") for step in self.steps.values())
        self._left = state.config.max_journal_bytes - size
        self.room = min(state.config.max_output_bytes, self._left)
        """Most bytes that the next output may have."""
        last = max((step.position for step in self.steps.values()), default=-1)
        self._positions = itertools.count(last + 1)

    def now(self) -> float:
        """Give the database's time, as far as it passed since the attempt began."""
        return self._clock_offset + clock.boottime()

    def at(self, boottime: float) -> float:
        """Give the database's time at a time of the boot clock."""
        return self._clock_offset + boottime

    def next_position(self) -> int:
        """Give the place of a new step in the order of calls."""
        return next(self._positions)

    def find(self, name: str) -> StepRecord | None:
        """Give what the journal has of a step."""
        self._asked.add(name)
        found = self.steps.get(name)

        if found is None:
            self._to_pass.clear()
        else:
            self._to_pass.discard(name)

        return found

    @property
    def walks_again(self) -> bool:
        """Tell whether the view is on its way to where an earlier attempt came."""
        return bool(self._to_pass)

    def record(self, step: StepRecord) -> None:
        """Commit a step's outcome or mark."""
        try:
            asked = self._store.record(self.id, self.attempt, step)
            self.cancelled = self.cancelled or asked
        except LeaseLostError as error:
            self.lost = error
            raise

        self._note(step)

    def transact(self, work: cabc.Callable[[sa.Connection], StepRecord]) -> StepRecord:
        """Do work in the transaction that commits the outcome that it gives."""
        try:
            step, asked = self._store.transact(self.id, self.attempt, work)
            self.cancelled = self.cancelled or asked
        except LeaseLostError as error:
            self.lost = error
            raise

        self._note(step)
        return step

    def _note(self, step: StepRecord) -> None:
        self.steps[step.id] = step

        if step.output is not None:
            self._left -= len(step.output)

            if self._left < self.room:
                self.room = self._left

        if step.status not in OUTCOMES:
            return

        self.state.notices.step_ended(self.execution, step)

        if self.state.probe is not None:
            self.state.probe.recorded(step)

    @contextlib.contextmanager
    def receiving(self, topic: str) -> cabc.Iterator[Wait]:
        """Take the next event of a topic, one branch after the other."""
        with self._receiving:
            got = [step.event for step in self.steps.values() if step.topic == topic]
            after = max((number for number in got if number is not None), default=0)
            yield Wait(topic, after, self.execution.created_at)

    def take_inline(self, seconds: float) -> bool:
        """Take a pause out of what this attempt may sleep through in place."""
        with self._lock:
            fits = seconds <= self._inline_left
            self._inline_left -= max(0.0, seconds) if fits else 0.0
            return fits

    def ensure_lease(self) -> None:
        """Make sure that this attempt may still run functions."""
        if self.lost is not None:
            raise self.lost

        # Most are neither; a forked child can't call steps.
        if self.lease.lost or clock.boottime() >= self.lease.expires_at:
            self.state.heartbeat.ensure(self.lease)

    def check_deadline(self, name: str) -> None:
        """Begin nothing new when the execution's time is over.

        :raises DeadlineExceeded: if it is
        """
        if self.deadline_at is not None and self.now() >= self.deadline_at:
            raise DeadlineExceeded(
                f"Execution {self.id} took longer than its endpoint's deadline: step"
                f' "{name}" is not begun.'
            )

    def check_unasked(self, now: str = "The view ended") -> None:
        """Complain of journaled steps that the view did not ask for by now."""
        unasked = self._found - self._asked

        if unasked:
            names = ", ".join(f'"{name}"' for name in sorted(unasked))
            self.complain(f"{now} without asking for the journaled {names}")

    def complain(self, message: str) -> None:
        """Warn of a replay that differs, or raise where replays are strict."""
        message = f"{message} (execution {self.id}, attempt {self.attempt})."

        if self.state.strict_replay:
            raise NonDeterminismError(message)

        logger.warning("%s", message)


class Scope:
    """One line of calls: the view itself, or a branch of ``step.parallel``."""

    def __init__(self, attempt: Attempt, parent: Scope | None = None) -> None:
        self.attempt = attempt
        self.parent = parent
        self.suspended: Suspended | None = None
        self.mark: StepRecord | None = None
        """A mark that is committed with the suspension."""
        self.names: Names = Names(parent.names if parent else None)
        self._last_position = -1

    @property
    def is_branch(self) -> bool:
        """Tell whether others run beside this."""
        return self.parent is not None

    def enter(self, step_id: str, kind: str) -> tuple[str, StepRecord | None]:
        """Begin a step's call.

        :return: the step's unique name, and what the journal has of it
        """
        self.check(step_id)
        name = self.names.make(step_id)
        return name, self.find(name, kind)

    def find(self, name: str, kind: str) -> StepRecord | None:
        """Give what the journal has of a step that is called now."""
        step = self.attempt.find(name)

        if step is not None:
            self._check_replay(step, kind)

            if step.status in OUTCOMES:
                return step

        if self.attempt.deadline_at is not None:
            self.attempt.check_deadline(name)

        return step

    def name(self, step_id: str) -> str:
        """Give the unique name of a step that is called now."""
        self.check(step_id)
        return self.names.make(step_id)

    def check(self, step_id: str) -> None:
        """Make sure that a step can be called here and now."""
        if (outer := running_step.get()) is not None:
            raise NestedStepError(
                f'Step "{step_id}" was called inside the function of step'
                f' "{outer.id}": call both in the view, one after the other.'
            )

        if self.attempt.closed:
            raise MisplacedStepError(
                f'Step "{step_id}" was called after the view had returned, as in the'
                " generator of a streamed response: call steps in the view itself."
            )

        if self.attempt.lease.pid != os.getpid():
            raise MisplacedStepError(
                f'Step "{step_id}" was called in a forked child: only the process'
                " that got the request runs its steps."
            )

        if self.attempt.cancelled:
            self.attempt.stopped = True
            raise Cancelled(f"Execution {self.attempt.id} was cancelled.")

        if self.suspended is not None:
            raise Suspended(self.suspended.wake_at)

    def suspend(self, wake_at: float, mark: StepRecord | None = None) -> Suspended:
        """Note that this line goes on later, and give what to raise.

        A branch's mark is committed at once, since others may go on for long;
        that of the view itself together with the attempt's end.
        """
        if mark is not None and self.is_branch:
            self.attempt.record(mark)
        elif mark is not None:
            self.attempt.steps[mark.id] = self.mark = mark

        self.suspended = Suspended(wake_at)
        return self.suspended

    def fork(self) -> Scope:
        """Begin a branch."""
        return Scope(self.attempt, self)

    def join(self, branches: cabc.Iterable[Scope]) -> None:
        """Take over the ids that branches used."""
        self.names.join(branch.names for branch in branches)

    def _check_replay(self, step: StepRecord, kind: str) -> None:
        if step.kind != kind:
            raise NonDeterminismError(
                f'Step "{step.id}" of execution {self.attempt.id} is in the journal as'
                f' "{step.kind}", but {caller()} asks for "{kind}":'
                " give the new step another id."
            )

        if step.id in self.attempt._found and step.position < self._last_position:
            self.attempt.complain(
                f'Step "{step.id}" was asked for in another order than at first,'
                f" by {caller()}"
            )

        self._last_position = max(self._last_position, step.position)


class RunningStep:
    """What a step's function can know of itself."""

    def __init__(self, execution_id: str, step_id: str, attempt: int) -> None:
        self._execution_id = execution_id
        self.id = step_id
        """The step's id."""
        self.attempt = attempt
        """The number of this try, from 1."""

    @property
    def idempotency_key(self) -> str:
        """The same for every try of this step of this execution."""
        return idempotency_key(self._execution_id, self.id)


current_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar(
    "flask_durable.scope", default=None
)
running_step: contextvars.ContextVar[RunningStep | None] = contextvars.ContextVar(
    "flask_durable.running_step", default=None
)
