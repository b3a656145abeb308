"""Where a view stopped: which failures ended it, and what it recorded after them."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from werkzeug.exceptions import HTTPException

from .errors import DeadlineExceeded
from .errors import StepError
from .errors import StepInterruptedError
from .errors import StepOutputError
from .records import Range
from .records import StepRecord

Steps = cabc.Mapping[str, StepRecord]

BY_STEPS = (StepError, StepOutputError, HTTPException)
"""What a failed step raises."""

APART = (StepInterruptedError, DeadlineExceeded)
"""What ends a view although no step of it can be tried anew for that."""


class Line(t.NamedTuple):
    """The steps for which one line of calls asked: the view, or a branch."""

    names: cabc.Collection[str]
    """The names of all its steps, with those of its own branches."""
    calls: cabc.Sequence[tuple[Line, ...]]
    """Its parallel calls, each with its branches."""


def stop_of(line: Line, steps: Steps) -> tuple[set[str], set[str]]:
    """Tell where a line stopped because of its last failed step.

    In a parallel call, what other branches recorded does not follow from a failure in
    one of them; and the failures that ended those branches stopped the view as well.

    :return: the failed steps that are to be tried anew, and what the line did after
        the failure
    """
    mine = [steps[name] for name in line.names if name in steps]
    failed = [step for step in mine if step.status == "failed"]

    if not failed:
        return set(), set()

    last = max(failed, key=lambda step: step.position)
    again = {last.id}
    later = {step.id for step in mine if step.position > last.position}

    for call in line.calls:
        if any(last.id in branch.names for branch in call):
            later.difference_update(*(branch.names for branch in call))

            for branch in call:
                stopped, went_on = stop_of(branch, steps)

                if last.id in branch.names:
                    later |= went_on

                # Otherwise the branch handled its failure itself.
                if last.id in branch.names or not went_on:
                    again |= stopped

    return again, later


def follows_a_step(error: BaseException) -> bool:
    """Tell whether an error is a failed step's, or was raised while that was handled.

    Else the view had seen to its failed steps, and ended by something else.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()

    while left:
        one = left.pop()

        if one is None or id(one) in seen or isinstance(one, APART):
            continue

        if isinstance(one, BY_STEPS):
            return True

        seen.add(id(one))
        left += [one.__cause__, one.__context__]
        left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()

    return False


def ranges(steps: cabc.Iterable[StepRecord], names: set[str]) -> list[Range]:
    """Return the positions of the named steps, as ranges of neighbouring steps."""
    found: list[Range] = []
    goes_on = False

    for step in sorted(steps, key=lambda step: step.position):
        if step.id in names:
            first = found.pop()[0] if goes_on else step.position
            found.append((first, step.position))

        goes_on = step.id in names

    return found
