"""Unique names of steps, the same in each attempt."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import re
import threading
import typing as t
import weakref

from .errors import DuplicateStepError

_NUMBERS = re.compile(r"(?:\[\d+\]|#\d+)+$")


class Use:
    """A call that used an id.

    :param task: the task that made it, if one did
    :param beside: the tasks that were there by then
    :param is_done: whether a call that comes now comes later in each attempt
    """

    def __init__(
        self,
        task: asyncio.Task[t.Any] | None,
        beside: cabc.Container[t.Any] = (),
        is_done: bool = True,
    ) -> None:
        self.task = task
        self.beside = beside
        self._is_done = is_done

    @property
    def is_done(self) -> bool:
        """Tell whether a call that comes now comes later in each attempt."""
        return self._is_done if self.task is None else self.task.done()


HOME = Use(None)
"""The thread of the view, or of the branch."""

ELSEWHERE = Use(None, is_done=False)
"""A thread that the view started."""


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
        self._uses: dict[str, Use] = {}
        """By whom each id was used last."""
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
        if not self._is_in_order(step_id):
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

    def _is_in_order(self, step_id: str) -> bool:
        """Tell whether a call follows the earlier ones of its id in each attempt."""
        task = _current_task()
        before = self._uses.get(step_id)

        if task is not None:
            self._uses[step_id] = Use(task, weakref.WeakSet(asyncio.all_tasks()))

            if before is None or before.task is task:
                return True

            # Of those that are there at once, any may be the first.
            return before.is_done and task not in before.beside

        if threading.get_ident() == self.home:
            self._uses[step_id] = HOME
            return before is None or before.is_done

        # Nobody knows when a thread that the view started comes here.
        self._uses[step_id] = ELSEWHERE
        return before is None

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
                    " would not be stable: give each branch ids of its own (a lambda"
                    " made in a loop sees the last value of its variable i: write"
                    " `lambda i=i: …`, or use step.map)."
                )

            branch = branch._parent


def _current_task() -> asyncio.Task[t.Any] | None:
    loop = asyncio._get_running_loop()

    # As current_task, which raises where no loop runs.
    if loop is None:
        return None

    # Under gevent it may be that of another greenlet.
    mine = threading.get_ident()
    return asyncio.current_task() if getattr(loop, "_thread_id", mine) == mine else None


def plain_name(step_id: str) -> str:
    """Name a step without the numbers that the same one has in a list or a loop."""
    return _NUMBERS.sub("", step_id) or step_id
