"""The process that recovers what the laboratory's others have left."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import multiprocessing
import multiprocessing.connection
import typing as t

from .crash_shapes import Shape
from .crash_world import World
from .processes import wait_until

MakeWorld = cabc.Callable[[], tuple[World, dict[str, Shape]]]

RECOVER_TIME = 10.0
"""Seconds in which everything must have ended after a kill."""


class Survivor:
    """The process that stands by, and does the rest after a kill.

    :param make_world: makes its app, with the journal of those that are killed
    """

    def __init__(self, make_world: MakeWorld) -> None:
        context = multiprocessing.get_context("fork")
        self._line, line = context.Pipe()
        arguments = (make_world, line)
        context.Process(target=_stand_by, args=arguments, daemon=True).start()
        line.close()

    def recover(self, name: str) -> dict[str, t.Any]:
        """Have everything ended, and hear how; then it is forgotten."""
        self._line.send(name)
        return t.cast("dict[str, t.Any]", self._line.recv())


def _stand_by(
    make_world: MakeWorld, line: multiprocessing.connection.Connection
) -> None:
    world, shapes = make_world()

    with contextlib.suppress(EOFError):
        while name := line.recv():
            line.send(_recover(world, shapes[name]))


def _recover(world: World, shape: Shape) -> dict[str, t.Any]:
    world.remember()
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
        return _results(world, shape, earlier)
    finally:
        world.clear()


def _results(world: World, shape: Shape, earlier: int) -> dict[str, t.Any]:
    calls = world.calls()
    names = [call.split(" ", 1)[1] for call in calls]
    return {
        "ends": sorted(shape.label(found) for found in world.executions()),
        "answers": [world.answer(found) for found in world.roots()],
        "called": earlier,
        "calls": {name: names.count(name) for name in sorted(set(names))},
        "again": world.called_again(shape.tried_anew),
        "counts": world.count(),
    }
