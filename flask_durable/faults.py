"""Faults that tests ask for: steps that fail, attempts that end as if killed."""

from __future__ import annotations

import dataclasses
import threading
import typing as t

from .attempt import Attempt
from .errors import LeaseLostError
from .records import StepRecord
from .scope import current_scope
from .scope import Scope

Moment = t.Literal["before", "after"]


class InjectedError(Exception):
    """The error of a step that ``fail_step`` makes fail."""


class Killed(LeaseLostError):
    """Ends an attempt as the death of its process would.

    Like an attempt that lost its lease it must not write any more.
    """


class Crash(t.NamedTuple):
    """An attempt that was ended as if its process had been killed."""

    execution_id: str
    attempt: int
    step: str
    moment: Moment


@dataclasses.dataclass(eq=False)
class Fault:
    """Something that goes wrong in a step, so many times."""

    step: str
    moment: Moment
    left: int
    error: BaseException | type[BaseException] | None = None
    """What the step raises; without it the attempt is killed."""

    def __post_init__(self) -> None:
        if not isinstance(self.step, str):
            raise TypeError(f"A fault is of a step's id, not {self.step!r:.80}.")

        if self.error is not None:
            _check_error(self.error)

        if self.left < 1:
            raise ValueError(f"A fault happens at least once, not {self.left} times.")

    def __str__(self) -> str:
        verb = f"crash_{self.moment}" if self.error is None else "fail_step"
        return f'{verb}("{self.step}", times={self.left})'


class Faults:
    """A probe that makes steps go wrong.

    :param always_replay: end each attempt after a new outcome
    """

    def __init__(self, always_replay: bool) -> None:
        self.strict = always_replay
        self.planned: list[Fault] = []
        self._always_replay = always_replay
        self._crashes: list[Crash] = []
        self._lock = threading.Lock()

    def take_crashes(self) -> list[Crash]:
        """Return the crashes since the last call of this."""
        with self._lock:
            crashes, self._crashes = self._crashes, []
            return crashes

    def before(self, step: StepRecord) -> None:
        """Fail or kill a step that is about to be called."""
        self._happen(step, "before")

    def after(self, step: StepRecord) -> None:
        """Kill a step that has returned."""
        self._happen(step, "after")

    def recorded(self, step: StepRecord) -> None:
        """End the attempt, if each new outcome is to end one."""
        scope = _scope()

        if not self._always_replay or scope.suspended is not None:
            return

        if not scope.is_branch:
            # Each earlier attempt ended with its first new outcome, so the view must
            # ask for all that the journal has before it comes to this one.
            scope.attempt.check_unasked(f'The view came to step "{step.id}"')

        raise scope.suspend(scope.attempt.now())

    def pause(self, seconds: float) -> None:
        """Don't wait."""

    def _happen(self, step: StepRecord, moment: Moment) -> None:
        fault = self._take(step.id, moment)

        if fault is None:
            return

        if fault.error is not None:
            raise fault.error

        raise self._kill(_scope().attempt, step.id, moment)

    def _take(self, step: str, moment: Moment) -> Fault | None:
        """Return the first fault that is planned for a step, and count it down."""
        with self._lock:
            for fault in self.planned:
                if (fault.step, fault.moment) == (step, moment):
                    fault.left -= 1

                    if not fault.left:
                        self.planned.remove(fault)

                    return fault

        return None

    def _kill(self, attempt: Attempt, step: str, moment: Moment) -> Killed:
        with self._lock:
            self._crashes.append(Crash(attempt.id, attempt.attempt, step, moment))

        # Even if the view catches the exception, the attempt stays dead.
        attempt.lost = Killed(
            f"Attempt {attempt.attempt} of execution {attempt.id} ends as if its"
            f' process was killed {moment} the call of step "{step}".'
        )
        return attempt.lost


def _check_error(error: t.Any) -> None:
    if isinstance(error, BaseException):
        return

    if not (isinstance(error, type) and issubclass(error, BaseException)):
        raise TypeError(
            f"A step fails with an exception or a class of them, not {error!r:.80}."
        )

    try:
        error()
    except TypeError as problem:
        raise TypeError(
            f"{error.__name__} can't be raised without arguments ({problem}): give an"
            f" exception, as in error={error.__name__}(…)."
        ) from None


def _scope() -> Scope:
    scope = current_scope.get()
    assert scope is not None
    return scope
