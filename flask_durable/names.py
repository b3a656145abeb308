"""Unique names of steps, the same in each attempt."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import re
import threading
import typing as t

from .errors import DuplicateStepError

_NUMBERS = re.compile(r"(?:\[\d+\]|#\d+)+$")


class Names:
    """The names that one line of calls used: the view's, or a branch's.

    They are unique in the order of its calls, which is the same in each attempt;
    the order across branches is not.
    """

    def __init__(self, parent: Names | None = None) -> None:
        self._parent = parent
        self._counts: dict[str, int] = {}
        self._claims: dict[str, Names] = {}
        """Which branch used which id, in the parallel call under way."""
        self._callers: dict[str, object] = {}
        """Which task or thread used which id first."""
        self.home = threading.get_ident()
        """The thread of the view, or of the branch."""

    @property
    def used(self) -> tuple[str, ...]:
        """The names by now."""
        return tuple(self._counts)

    def join(self, branches: cabc.Iterable[Names]) -> None:
        """Take over the ids that branches used."""
        self._claims.clear()

        for branch in branches:
            for name, count in branch._counts.items():
                self._counts[name] = self._counts.get(name, 0) + count

    def make(self, step_id: str) -> str:
        """Give the name of the step that is called now.

        :raises DuplicateStepError: if a branch beside this one used it, or another
            task or thread of this one
        """
        caller = self._caller()

        if self._callers.setdefault(step_id, caller) is not caller:
            raise DuplicateStepError(
                f'Two tasks or threads of the view used the step id "{step_id}", so its'
                " order would not be stable: give each ids of its own."
            )

        if self._parent is None and step_id not in self._counts:
            self._counts[step_id] = 1
            return step_id

        name = step_id
        self._claim(name)
        number = used = self._count(name)

        while used:
            number += 1
            name = f"{step_id}#{number}"
            used = self._count(name)

        for each in {step_id, name}:
            self._counts[each] = self._counts.get(each, 0) + 1

        if name != step_id:
            self._claim(name)

        return name

    def _caller(self) -> object:
        """Give what is the same for calls whose order is stable."""
        # As current_task, which raises where no loop runs.
        if asyncio._get_running_loop() is not None:
            return asyncio.current_task()

        # Nobody knows when a thread that the view started comes here.
        return self if threading.get_ident() == self.home else object()

    def _count(self, name: str) -> int:
        count, names = 0, t.cast("Names | None", self)

        while names is not None:
            count += names._counts.get(name, 0)
            names = names._parent

        return count

    def _claim(self, name: str) -> None:
        branch = self

        while branch._parent is not None:
            if branch._parent._claims.setdefault(name, branch) is not branch:
                raise DuplicateStepError(
                    f'Two parallel branches used the step id "{name}", so its order'
                    " would not be stable: give each branch ids of its own."
                )

            branch = branch._parent


def plain_name(step_id: str) -> str:
    """Name a step without the numbers that the same one has in a list or a loop."""
    return _NUMBERS.sub("", step_id) or step_id
