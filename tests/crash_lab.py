"""A laboratory that kills a process at each statement and has another recover.

It is run as a program, since it forks: ``python -m tests.crash_lab URL FOLDER
SHAPE...`` prints a line of JSON for each run. With ``--twice`` a process that
recovers is killed as well, before another one does the rest.
"""

from __future__ import annotations

import argparse
import collections.abc as cabc
import dataclasses
import functools
import gc
import itertools
import json
import math
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
from .crash_survivor import Survivor
from .crash_verdict import Kill
from .crash_verdict import problems
from .crash_verdict import Report
from .crash_world import World

Work = cabc.Callable[[], None]

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

TAKEOVERS: dict[str, cabc.Callable[[World], None]] = {
    "death": World.bury,
    "lease": World.outlast,
}
"""How a process takes what another one has left."""

SAMPLE = 8
"""First kills of a shape, about, after which there is a second one in a sample."""


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
        self._survivor = Survivor(
            functools.partial(make_world, url, folder, testing=False)
        )

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

    def reports(self, name: str, twice: str | None) -> cabc.Iterator[Report]:
        """Run a shape as the program's option says."""
        if twice is None:
            return self.run(name)

        if twice == "sample":
            return self.run_sample(name)

        return self.run_twice(name, twice)

    def run(self, name: str) -> cabc.Iterator[Report]:
        """Kill whoever begins, at each statement. The last run is not killed."""
        return each_kill(functools.partial(self._try, name, ""))

    def run_twice(self, name: str, takeover: str) -> cabc.Iterator[Report]:
        """Kill also whoever recovers then, at each statement of the recovery.

        :param takeover: a name of :data:`TAKEOVERS`
        """
        for first in self.run(name):
            if first.killed:
                again = functools.partial(self._try, name, takeover, *first.plan)
                yield from each_kill(again)

    def run_sample(self, name: str) -> cabc.Iterator[Report]:
        """Kill whoever begins, and after some of these kills once who recovers.

        The second kill comes later each time, and early again after the last.
        """
        every = math.ceil(self.shapes[name].least / SAMPLE)
        takeovers = itertools.cycle(TAKEOVERS)
        # Before its third statement it has done nothing.
        begin = statement = 3

        for first in self.run(name):
            yield first

            if first.killed and first.plan[0].statement % every == 0:
                kill = Kill("before", statement)
                second = self._try(name, next(takeovers), *first.plan, kill)
                yield second
                begin += not second.killed
                statement = statement + every + 2 if second.killed else begin

    def _try(self, name: str, takeover: str, *plan: Kill) -> Report:
        shape = self.shapes[name]

        if type(shape).prepare is not Shape.prepare:
            self._fork(shape.prepare)

        works: list[Work] = [
            shape.act,
            functools.partial(self._recover, shape, takeover),
        ]
        texts = []

        for kill, work in zip(plan, works, strict=False):
            if self._fork(functools.partial(self._act, work, kill)):
                texts.append(self.world.read("text") or "")

        return Report(
            shape=name,
            plan=list(plan),
            takeover=takeover,
            texts=texts,
            **self._survivor.recover(name),
        )

    def _fork(self, work: Work) -> bool:
        """Do something in a process of its own, and tell whether that was killed."""
        status = in_child(lambda: self._in_world(work))

        if status and (not os.WIFSIGNALED(status) or os.WTERMSIG(status) != 9):
            raise RuntimeError(f"The process ended with {status}, and was not killed.")

        return status != 0

    def _in_world(self, work: Work) -> None:
        # A fork forgets the journal; to compile all statements would take 0.2 s.
        vars(self.state).update(self._opened)
        work()

    def _act(self, work: Work, kill: Kill) -> None:
        seen = 0
        lock = threading.Lock()

        def count(*arguments: t.Any) -> None:
            nonlocal seen

            with lock:
                seen += self.world.watched

                if self.world.watched and seen == kill.statement:
                    self.world.note("text", " ".join(arguments[2].split())[:80])
                    os.kill(os.getpid(), signal.SIGKILL)

        event.listen(self.world.engine, f"{kill.when}_cursor_execute", count)
        work()

    def _recover(self, shape: Shape, takeover: str) -> None:
        """Do what the survivor does, without its threads."""
        self.world.remember()
        TAKEOVERS[takeover](self.world)

        while not shape.help():
            self.world.finish()

        self.world.finish()


def each_kill(run: cabc.Callable[[Kill], Report]) -> cabc.Iterator[Report]:
    """Kill before each statement, and after those that a step's function follows.

    After any other one all is as before the next. The last run is not killed.
    """
    called = math.inf

    for number in itertools.count(1):
        report = run(Kill("before", number))
        yield report

        if report.called > called:
            yield run(Kill("after", number - 1))

        if not report.killed:
            return

        called = report.called


def in_child(work: Work) -> int:
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


def main() -> int:
    """Print all reports of some shapes, and tell whether one has a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash_lab")
    parser.add_argument("url", help="a journal that may be emptied")
    parser.add_argument("folder", type=pathlib.Path, help="an empty one")
    parser.add_argument(
        "shapes",
        nargs="+",
        choices=[*GROUPS, *SHAPES],
        metavar="shape",
        help=f"its name, or all of a group: {', '.join(GROUPS)}",
    )
    parser.add_argument(
        "--twice",
        choices=["sample", *TAKEOVERS],
        help="kill the recovery as well: now and then for a sample, or at each of its"
        " statements, after it noticed that the first died, or that its lease ended",
    )
    options = parser.parse_args()
    laboratory = Laboratory(options.url, options.folder)
    wrong = False

    groups = {group: [shape.__name__ for shape in GROUPS[group]] for group in GROUPS}

    for name in [n for each in options.shapes for n in groups.get(each, [each])]:
        for report in laboratory.reports(name, options.twice):
            found = problems(report, SHAPES[report.shape])
            document = {"problems": found, **dataclasses.asdict(report)}
            print(json.dumps(document), flush=True)
            wrong = wrong or bool(found)

    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
