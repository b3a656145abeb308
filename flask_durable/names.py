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
    """The last call that used a step id.

    :param task: the asyncio task that made the call, if one did
    :param beside: the tasks that existed at the time of the call
    :param is_done: whether a call made now comes after this one in every attempt
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
        """Tell whether a call made now comes after this one in every attempt."""
        return self._is_done if self.task is None else self.task.done()


HOME = Use(None)
"""A call in the view's own thread, or in the branch's."""

ELSEWHERE = Use(None, is_done=False)
"""A call in a thread that the view started itself."""


class Names:
    """The step names that one sequence of calls used: the view's, or a branch's.

    A repeated id gets a number by the order of the calls. Within one sequence that
    order is the same in each attempt; across branches it is not.
    """

    def __init__(self, parent: Names | None = None) -> None:
        self._parent = parent
        self._counts: dict[str, int] = {}
        self._claims: dict[str, Names] = {}
        """Which branch used which id, in the parallel call that is running."""
        self._uses: dict[str, Use] = {}
        """The last use of each id."""
        self.home = threading.get_ident()
        """The thread of the view, or of the branch."""

    @property
    def used(self) -> tuple[str, ...]:
        """The names used so far."""
        return tuple(self._counts)

    def join(self, branches: cabc.Iterable[Names]) -> None:
        """Count the ids that ended branches used as this sequence's own."""
        self._claims.clear()

        for branch in branches:
            for name, count in branch._counts.items():
                self._counts[name] = self._counts.get(name, 0) + count

    def make(self, step_id: str) -> str:
        """Return the unique name of the step that is being called.

        :raises DuplicateStepError: if a parallel branch used the id, or another
            task or thread of this branch
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
        """Tell whether this call comes after its id's last one in every attempt."""
        task = _current_task()
        before = self._uses.get(step_id)

        if task is not None:
            self._uses[step_id] = Use(task, weakref.WeakSet(asyncio.all_tasks()))

            if before is None or before.task is task:
                return True

            # Of tasks that exist at the same time, any may come first.
            return before.is_done and task not in before.beside

        if threading.get_ident() == self.home:
            self._uses[step_id] = HOME
            return before is None or before.is_done

        # A thread that the view started gets here at another moment in each attempt.
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

    # Unlike here, asyncio.current_task() raises if no loop runs.
    if loop is None:
        return None

    # Under gevent the loop may be another greenlet's.
    mine = threading.get_ident()
    return asyncio.current_task() if getattr(loop, "_thread_id", mine) == mine else None


def plain_name(step_id: str) -> str:
    """Return a step's name without the numbers that a map or a loop added to it."""
    return _NUMBERS.sub("", step_id) or step_id
