"""One sequence of step calls in an attempt: the ids it used, and its suspension."""

from __future__ import annotations

import collections.abc as cabc
import contextvars
import dataclasses
import os

from .attempt import Attempt
from .checks import caller
from .errors import MisplacedStepError
from .errors import NestedStepError
from .errors import NonDeterminismError
from .errors import Suspended
from .ids import idempotency_key
from .lines import follows_a_step
from .lines import Line
from .lines import ranges
from .lines import stop_of
from .names import Names
from .records import Failure
from .records import OUTCOMES
from .records import StepRecord

Commit = cabc.Callable[[StepRecord], None]


class Scope:
    """One sequence of step calls: the view's own, or those of a parallel branch."""

    def __init__(
        self,
        attempt: Attempt,
        parent: Scope | None = None,
        commit: Commit | None = None,
    ) -> None:
        self.attempt = attempt
        self.parent = parent
        self.commit = commit or attempt.record
        self.suspended: Suspended | None = None
        self.mark: StepRecord | None = None
        """A mark that is committed with the suspension."""
        self.names: Names = Names(parent.names if parent else None)
        self._last_position = -1
        self._calls: list[tuple[Line, ...]] = []
        """The steps for which the branches of its parallel calls asked."""

    @property
    def is_branch(self) -> bool:
        """Tell whether this is a parallel branch."""
        return self.parent is not None

    def enter(self, step_id: str, kind: str) -> tuple[str, StepRecord | None]:
        """Begin a step's call.

        :return: the step's unique name, and what the journal has of it
        """
        name = self.name(step_id)
        return name, self.find(name, kind)

    def find(self, name: str, kind: str) -> StepRecord | None:
        """Return what the journal has of the step that is being called."""
        step = self.attempt.find(name)

        if step is not None:
            self._check_replay(step, kind)

            if step.status in OUTCOMES:
                return step

        if self.attempt.deadline_at is not None:
            self.attempt.check_deadline(name)

        return step

    def name(self, step_id: str) -> str:
        """Return the unique name of the step that is being called."""
        self.check(step_id)
        return self.names.make(step_id)

    def check(self, step_id: str) -> None:
        """Make sure that a step can be called here and now."""
        if (outer := running_step.get()) is not None:
            raise NestedStepError(
                f'Step "{step_id}" was called inside the function of step'
                f' "{outer.id}": call both in the view, one after the other. To call'
                " steps for several items at once, use step.parallel."
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

        self.attempt.check_cancelled()

        if self.suspended is not None:
            raise Suspended(self.suspended.wake_at)

    def suspend(self, wake_at: float, mark: StepRecord | None = None) -> Suspended:
        """Note that this sequence goes on later, and return the exception to raise.

        A branch's mark is committed at once, because other branches may go on for long;
        that of the view itself is committed together with the attempt's end.
        """
        if mark is not None and self.is_branch:
            self.attempt.record(mark)
        elif mark is not None:
            self.attempt.steps[mark.id] = self.mark = mark

        self.suspended = Suspended(wake_at)
        return self.suspended

    def fork(self, commit: Commit | None = None) -> Scope:
        """Begin a branch.

        :param commit: commits the outcomes of its steps, else the attempt does, at once
        """
        return Scope(self.attempt, self, commit)

    def join(self, branches: cabc.Iterable[Scope]) -> None:
        """Take over the ids that ended branches used."""
        joined = list(branches)
        self.names.join(branch.names for branch in joined)
        self._calls.append(tuple(Line(b.names.used, b._calls) for b in joined))

    def failure(self, error: BaseException) -> Failure:
        """Describe the error that ends the view, and its place in the journal."""
        steps = self.attempt.steps
        again, later = stop_of(Line(steps, self._calls), steps)
        failed = [step for step in steps.values() if step.status == "failed"]
        return dataclasses.replace(
            Failure.of(error),
            again=ranges(failed, again),
            later=ranges(steps.values(), later),
            apart=not follows_a_step(error),
        )

    def _check_replay(self, step: StepRecord, kind: str) -> None:
        if step.kind != kind:
            raise NonDeterminismError(
                f'Step "{step.id}" of execution {self.attempt.id} is in the journal as'
                f' "{step.kind}", but {caller()} asks for "{kind}":'
                " give the new step another id."
            )

        if step.id in self.attempt.found and step.position < self._last_position:
            self.attempt.complain(
                f'Step "{step.id}" was asked for in another order than at first,'
                f" by {caller()}"
            )

        self._last_position = max(self._last_position, step.position)


class RunningStep:
    """The running step, as its function sees it."""

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
