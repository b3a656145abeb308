"""Resumes failed executions where they failed, together with their failed children."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from .control_sql import ControlStatements
from .errors import ControlError
from .ids import new_nonce
from .lines import Line
from .lines import ranges
from .lines import stop_of
from .records import AFTER_FAILURE
from .records import Execution
from .records import Failure
from .records import Range
from .records import StepRecord
from .store import Store

CUT = "interrupted"
"""The status of a step that may have run, and runs at most once."""


@dataclasses.dataclass
class Plan:
    """What a resume does to one execution."""

    seen: Execution
    """The execution as it was read; if it has changed since, nothing is done."""
    again: list[Range]
    """The positions between which failed steps are forgotten."""
    later: list[Range]
    """The positions between which all steps are forgotten."""
    freed: list[Execution] = dataclasses.field(default_factory=list)
    """Children that new ones will replace."""


class Resuming:
    """Resumes failed executions."""

    def __init__(self, store: Store, sql: ControlStatements) -> None:
        self._store = store
        self._sql = sql

    def __call__(self, execution_id: str, force: bool) -> None:
        """Resume an execution.

        :param force: also if views recorded steps after their failures; these steps are
            forgotten. Also if an ``on_failure`` has not ended
        :raises ControlError: if it has not failed, or needs force
        """
        execution = self._store.execution(execution_id)

        if execution.status != "failed":
            raise ControlError(
                f"Execution {execution_id} is {execution.status}: only one that failed"
                " can be resumed."
            )

        if execution.role != "view" and execution.parent_step is None:
            raise ControlError(
                f"Execution {execution_id} followed a failure of execution"
                f" {execution.parent_id}, which was resumed since: nothing is left to"
                " follow."
            )

        # Rows are locked in the order of their ids, parents first.
        first, *others = self._plans(execution, force)
        others.sort(key=lambda plan: plan.seen.id)

        if not self._do([first, *others]):
            raise ControlError(
                f"Execution {execution_id} was resumed or deleted by somebody else at"
                " this moment: look at it again."
            )

    def _do(self, plans: list[Plan]) -> bool:
        mine, nonce = plans[0].seen.id, new_nonce()

        def work(connection: sa.Connection) -> bool:
            with self._store.database.transaction(connection):
                done = self._resume(connection, plans[0], nonce)

                for plan in plans[1:] if done else ():
                    # A child that was resumed meanwhile goes on anyway.
                    self._resume(connection, plan, nonce)

            # It may have been committed before, and the answer lost.
            found = self._store.sql.nonce(connection, execution_id=mine)
            return done or [row[0] for row in found] == [nonce]

        return self._store.database.run(work)

    def _resume(self, connection: sa.Connection, plan: Plan, nonce: str) -> bool:
        key = {"execution_id": plan.seen.id}
        attempt = plan.seen.attempt

        if not self._sql.resume(connection, attempt=attempt, nonce=nonce, **key):
            return False

        self._sql.free_handler(connection, **key)

        for child in plan.freed:
            self._sql.free(connection, execution_id=child.id)

        forgotten = [(each, 1) for each in plan.again]
        forgotten += [(each, 0) for each in plan.later]

        for (low, high), failed in forgotten:
            values = {"low": low, "high": high, "failed": failed}
            self._sql.forget_steps(connection, **values, **key)

        return True

    def _plans(self, execution: Execution, force: bool) -> list[Plan]:
        """Plan what to do with an execution and its children, itself first.

        :raises ControlError: if that forgets more than failures, or an ``on_failure``
            runs, and it is not forced
        """
        journal = self._store.journal(execution.id)
        again, later, apart = _stop(execution, journal)
        forgotten = [line for line in journal if _is_in(line, later)]

        if not force:
            self._check_follower(execution, forgotten)

        if apart and later and not force:
            # What the view had handled stays: it ended because of something else.
            again, later, forgotten = [], [], []

        _check_forgotten(execution, forgotten, force)
        plans = [plan := Plan(execution, again, later)]
        failed = {
            line.id: line
            for line in journal
            if line.status == "failed" and _is_in(line, again)
        }
        names = {line.id for line in forgotten}

        for row in self._store.ask(self._sql.ended_children, execution_id=execution.id):
            child = Execution(*row)
            step = failed.get(child.parent_step or "")

            if step is not None and child.status == "failed":
                plans += self._plans(child, force)
            elif step is not None and _came_through(child, step):
                # It was resumed before its parent, which takes its answer.
                continue
            elif step is not None or child.parent_step in names:
                plan.freed.append(child)

        return plans

    def _check_follower(
        self, execution: Execution, forgotten: list[StepRecord]
    ) -> None:
        """Make sure that no ``on_failure`` acts on the failure, which it was told of.

        :param forgotten: what a resume by force would do again
        :raises ControlError: if one does
        """
        if not execution.on_failure:
            return

        values = {"parent_id": execution.id, "parent_step": AFTER_FAILURE}
        names = _names(forgotten)
        also = f", which also does {names} again" if names else ""

        for row in self._store.ask(self._store.sql.child, **values):
            follower = Execution(*row)

            if not follower.ended:
                raise ControlError(
                    f"The on_failure of execution {execution.id} has not ended: wait"
                    f" for execution {follower.id}, or cancel it, before you resume. A"
                    f" resume beside it needs --force{also}."
                )


def _came_through(child: Execution, step: StepRecord) -> bool:
    """Tell whether a child was completed after its parent's step had failed."""
    ended, failed = child.finished_at or 0.0, step.finished_at or 0.0
    return child.status == "completed" and ended > failed


def _names(lines: list[StepRecord]) -> str:
    return ", ".join(f'"{line.id}"' for line in lines[:5])


def _is_in(line: StepRecord, positions: list[Range]) -> bool:
    return any(low <= line.position <= high for low, high in positions)


def _check_forgotten(
    execution: Execution, forgotten: list[StepRecord], force: bool
) -> None:
    """Make sure that steps may be forgotten which came after the failed one.

    :raises ControlError: if one of them is never called again, or nobody forces it
    """
    cut = next((line.id for line in forgotten if line.status == CUT), None)

    if cut is not None:
        raise ControlError(
            f'Step "{cut}" of execution {execution.id}, which came after the failed'
            " one, may have taken effect, and is never called again: it can't be"
            " forgotten. If it did not, rerun the execution."
        )

    if forgotten and not force:
        raise ControlError(
            f"Execution {execution.id} went on after its step failed: it recorded"
            f" {_names(forgotten)}. A resume would do that again, and needs --force."
        )


def _stop(
    execution: Execution, journal: list[StepRecord]
) -> tuple[list[Range], list[Range], bool]:
    """Return the positions of what is to be tried again, and of what came after it.

    The last value tells whether the execution ended because of something else.
    """
    failure = Failure.decode(execution.error) if execution.error else None

    if failure and failure.again is not None and failure.later is not None:
        return failure.again, failure.later, failure.apart

    # It was not ended by its view, so its branches are unknown.
    steps = {line.id: line for line in journal}
    again, later = stop_of(Line(steps, ()), steps)
    return ranges(journal, again), ranges(journal, later), True
