"""A laboratory that kills a process at each statement and has another recover.

It is run as a program, since it forks: ``python -m tests.crash_lab URL FOLDER
SHAPE...`` prints a line of JSON for each kill.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import dataclasses
import gc
import itertools
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import threading
import traceback
import typing as t

from sqlalchemy import event

from flask_durable.sql import Statement

from . import crash_operators
from . import crash_shapes
from . import crash_waits
from .crash_shapes import Shape
from .crash_world import World
from .processes import wait_until

GROUPS: dict[str, list[type[Shape]]] = {
    "steps": [
        crash_shapes.Straight,
        crash_shapes.Keyed,
        crash_shapes.Suspended,
        crash_shapes.Parallel,
        crash_shapes.Transaction,
        crash_shapes.AtMostOnce,
    ],
    "waits": [
        crash_waits.SentEvent,
        crash_waits.EarlyEvent,
        crash_waits.Callback,
        crash_waits.Polled,
        crash_waits.Deadline,
    ],
    "children": [crash_waits.Invoked, crash_waits.FailedChild],
    "operators": [
        crash_operators.Started,
        crash_operators.CancelledWait,
        crash_operators.CancelledRun,
        crash_operators.Resumed,
        crash_operators.Rerun,
        crash_operators.Purged,
    ],
}
"""What is tried together; the name of a group is what the program takes."""

SHAPES = {shape.__name__: shape for group in GROUPS.values() for shape in group}

RECOVER_TIME = 10.0
"""Seconds in which everything must have ended after a kill."""


@dataclasses.dataclass
class Report:
    """What came of one run, and of the kill in it, if the run came so far."""

    shape: str
    when: str
    statement: int
    killed: bool
    text: str
    ends: list[str]
    """Each execution's role or endpoint, and its status."""
    answers: list[t.Any]
    called: int
    """How many functions of steps had been called when it was killed."""
    calls: dict[str, int]
    again: list[str]
    """Calls of steps that had an outcome when the process was killed."""
    counts: dict[str, int]


def make_world(
    url: str, folder: pathlib.Path, testing: bool
) -> tuple[World, dict[str, Shape]]:
    """Make an app with the views of all shapes."""
    world = World(url, folder, testing)
    return world, {name: shape(world) for name, shape in SHAPES.items()}


class Laboratory:
    """Does the same again and again, killed at another statement."""

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        self.world, self.shapes = make_world(url, folder, testing=True)
        self.world.make_tables()
        self.state = self.world.state
        self._warm_up()
        self._opened = dict(vars(self.state))
        self._survivor = Survivor(url, folder)

    def _warm_up(self) -> None:
        """Do once for all forks what is done once in a process."""
        self.shapes["Straight"].act()
        _ = self.state.upkeep, self.state.control, self.state.follow_ups

        # Each is compiled when it is first used, which would be in each fork.
        for each in gc.get_objects():
            if type(each) is Statement:
                _ = each.form

        self.world.clear()

        # A fork must find no connection of ours.
        for lane in self.state.store.commits._lanes:
            lane.disconnect()

        self.world.engine.dispose()

    def run(self, name: str) -> cabc.Iterator[Report]:
        """Kill before each statement, and after those that a step's function follows.

        After any other one all is as before the next. The last run is not killed.
        """
        shape = self.shapes[name]
        called = math.inf

        for number in itertools.count(1):
            report = self._kill_at(shape, "before", number)
            yield report

            if report.called > called:
                yield self._kill_at(shape, "after", number - 1)

            if not report.killed:
                return

            called = report.called

    def _kill_at(self, shape: Shape, when: str, number: int) -> Report:
        if type(shape).prepare is not Shape.prepare:
            self._fork(shape.prepare)

        killed = self._fork(lambda: self._act(shape, when, number))
        return Report(
            shape=type(shape).__name__,
            when=when,
            statement=number,
            killed=killed,
            text=self.world.read("text") or "",
            **self._survivor.recover(type(shape).__name__),
        )

    def _fork(self, work: cabc.Callable[[], None]) -> bool:
        """Do something in a process of its own, and tell whether that was killed."""
        status = in_child(lambda: self._in_world(work))

        if status and (not os.WIFSIGNALED(status) or os.WTERMSIG(status) != 9):
            raise RuntimeError(f"The process ended with {status}, and was not killed.")

        return status != 0

    def _in_world(self, work: cabc.Callable[[], None]) -> None:
        # A fork forgets the journal; to compile all statements would take 0.2 s.
        vars(self.state).update(self._opened)
        work()

    def _act(self, shape: Shape, when: str, number: int) -> None:
        seen = 0
        lock = threading.Lock()

        def count(*arguments: t.Any) -> None:
            nonlocal seen

            with lock:
                seen += self.world.watched

                if self.world.watched and seen == number:
                    self.world.note("text", " ".join(arguments[2].split())[:80])
                    os.kill(os.getpid(), signal.SIGKILL)

        event.listen(self.world.engine, f"{when}_cursor_execute", count)
        shape.act()


class Survivor:
    """The process that stands by, and does the rest after a kill.

    :param url: the journal that it shares with those that are killed
    """

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        context = multiprocessing.get_context("fork")
        self._line, line = context.Pipe()
        arguments = (url, folder, line)
        context.Process(target=_stand_by, args=arguments, daemon=True).start()
        line.close()

    def recover(self, name: str) -> dict[str, t.Any]:
        """Have everything ended, and hear how; then it is forgotten."""
        self._line.send(name)
        return t.cast("dict[str, t.Any]", self._line.recv())


def _stand_by(
    url: str, folder: pathlib.Path, line: multiprocessing.connection.Connection
) -> None:
    world, shapes = make_world(url, folder, testing=False)

    with contextlib.suppress(EOFError):
        while name := line.recv():
            line.send(_recover(world, shapes[name]))


def _recover(world: World, shape: Shape) -> dict[str, t.Any]:
    done = world.done()
    earlier = len(world.calls())
    helped = False

    def ended() -> bool:
        nonlocal helped
        helped = helped or shape.help()
        return helped and world.has_ended()

    world.durable.start_dispatcher(world.app)

    # The report says it if something has not ended.
    with contextlib.suppress(TimeoutError):
        wait_until(ended, RECOVER_TIME, pause=0.004)

    assert world.state.dispatcher is not None
    world.state.dispatcher.stop(RECOVER_TIME)
    world.state.dispatcher = None

    try:
        return _results(world, shape, done, earlier)
    finally:
        world.clear()


def _results(
    world: World, shape: Shape, done: set[str], earlier: int
) -> dict[str, t.Any]:
    calls = world.calls()
    names = [call.split(" ", 1)[1] for call in calls]
    kept = [call for call in done if call.split(" ", 1)[1] not in shape.tried_anew]
    return {
        "ends": sorted(shape.label(found) for found in world.executions()),
        "answers": [world.answer(found) for found in world.roots()],
        "called": earlier,
        "calls": {name: names.count(name) for name in sorted(set(names))},
        "again": [call for call in calls[earlier:] if call in kept],
        "counts": world.count(),
    }


def in_child(work: cabc.Callable[[], None]) -> int:
    """Run something in a fork, and give how that ended."""
    child = os.fork()

    if child:
        return os.waitpid(child, 0)[1]

    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    laboratory = Laboratory(sys.argv[1], pathlib.Path(sys.argv[2]))

    for name in sys.argv[3:]:
        for report in laboratory.run(name):
            print(json.dumps(dataclasses.asdict(report)), flush=True)
