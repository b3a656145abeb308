"""What the laboratory does: views, what happens to them, and what must come of it."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from flask_durable import current_step
from flask_durable import ExecutionInfo
from flask_durable import step
from flask_durable import StepInterruptedError

from .crash_world import World

Calls = tuple[int, int]

EXACTLY: Calls = (1, 1)
ONCE: Calls = (1, 2)
"""Once, and again if it was killed before its commit."""

TWICE: Calls = (2, 3)
NEVER: Calls = (0, 0)


class Shape:
    """One way to use the package: what is done by whom, and what must come of it."""

    calls: t.ClassVar[dict[str, Calls]]
    """How often the function of each step is called, at least and at most."""

    in_flight: t.ClassVar[int] = 1
    """How many steps may run at the moment of the first kill."""

    ends: t.ClassVar[list[str]] = ["view completed"]
    """What the executions end as, all of them."""

    answers: t.ClassVar[list[t.Any]]
    """What those may answer that no other one began."""

    counts: t.ClassVar[dict[str, int]] = {}
    """How many rows there are in the user's own table, and of events."""

    tried_anew: t.ClassVar[frozenset[str]] = frozenset()
    """Steps that are called again although they have an outcome."""

    may_be_lost: t.ClassVar[bool] = True
    """Whether nothing happens at all if its first statement isn't committed."""

    least: t.ClassVar[int]
    """How many kills there are at least, also where time passes faster than it runs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.run = world.run

        for view, options in self.views().items():
            name = f"{type(self).__name__}_{view.__name__}"
            durable = world.durable.endpoint(**options)(view)
            world.app.add_url_rule(f"/{name}", name, durable, methods=["POST"])

    def views(self) -> dict[cabc.Callable[..., t.Any], dict[str, t.Any]]:
        """Give its views, each with its endpoint's options."""
        return {self.view: {}}

    def view(self) -> t.Any:
        """Be the view that is made durable."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Do what comes before, in a process that is not killed."""

    def act(self) -> None:
        """Be the process that is killed."""
        self.post()
        self.world.finish()

    def help(self) -> bool:
        """Do again from outside what the process did not tell of; say if that's all."""
        return True

    def post(self) -> None:
        """Send a client's request."""
        self.world.post(self.endpoint())

    def endpoint(self, view: str = "view") -> str:
        """Name the endpoint of a view."""
        return f"{type(self).__name__}_{view}"

    def label(self, execution: ExecutionInfo) -> str:
        """Say of an execution what ran and how it ended."""
        view = execution.endpoint.removeprefix(self.endpoint(""))
        ran = view if execution.role == "view" else execution.role
        return f"{ran} {execution.status}"


class Straight(Shape):
    """Its steps need no more than one attempt."""

    calls = {"a": ONCE, "b": ONCE, "c": ONCE, "d": ONCE}
    answers = [["a", "b", "c", "d"]]
    least = 11

    def view(self) -> t.Any:
        return [self.run(name) for name in self.calls]


class Keyed(Straight):
    """The client comes again with the same ``Idempotency-Key``."""

    may_be_lost = False

    def post(self) -> None:
        self.world.post(self.endpoint(), {"Idempotency-Key": "mine"})

    def help(self) -> bool:
        self.post()
        return True


class Suspended(Shape):
    """One step is tried again, and it sleeps."""

    calls = {"a": ONCE, "b": TWICE, "c": ONCE, "d": ONCE}
    answers = [["a", "b", "c", "d"]]
    least = 28

    def view(self) -> t.Any:
        first = self.run("a")
        second = step.run("b", self.once_in_vain)
        step.sleep("nap", 0.05)
        return [first, second, self.run("c"), self.run("d")]

    def once_in_vain(self) -> t.Any:
        self.world.call()

        if current_step.attempt == 1:
            raise ConnectionError("once")

        return "b"


class Parallel(Shape):
    """Branches run at once, and one of them sleeps."""

    calls = {"a": ONCE, "b": ONCE, "m[0]": ONCE, "m[1]": ONCE}
    in_flight = 2
    answers = [[["a", "b"], ["x", "y"]]]
    least = 16

    def view(self) -> t.Any:
        both = step.parallel(lambda: self.run("a"), self.sleeper)
        return [both, step.map("m", self.world.call, ["x", "y"])]

    def sleeper(self) -> str:
        step.sleep("nap", 0.05)
        return self.run("b")


class Transaction(Shape):
    """A row of the user's own commits with the step."""

    calls = {"a": ONCE, "t": ONCE, "b": ONCE}
    answers = [["a", "t", "b"]]
    counts = {"rows": 1}
    least = 11

    def view(self) -> t.Any:
        first = self.run("a")
        return [first, step.transaction("t", self.world.insert), self.run("b")]


class AtMostOnce(Shape):
    """A step is never called again, also if nobody knows what it did."""

    calls = {"pay": (0, 1), "b": ONCE}
    answers = [["pay"], ["interrupted"]]
    least = 8

    def view(self) -> t.Any:
        try:
            paid = step.options(at_most_once=True).run("pay", self.world.call)
        except StepInterruptedError:
            paid = "interrupted"

        self.run("b")
        return [paid]
