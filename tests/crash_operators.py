"""What the laboratory does as an operator: start, cancel, resume, rerun, purge."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from flask_durable import current_execution
from flask_durable import ExecutionInfo
from flask_durable import NonRetryableError
from flask_durable import step

from .crash_shapes import EXACTLY
from .crash_shapes import NEVER
from .crash_shapes import ONCE
from .crash_shapes import Shape
from .crash_shapes import TWICE


class Started(Shape):
    """A script starts it, and does so again with the same key."""

    calls = {"a": ONCE, "b": ONCE}
    answers = [["a", "b"]]
    may_be_lost = False
    least = 11

    def view(self) -> t.Any:
        return [self.run("a"), self.run("b")]

    def act(self) -> None:
        self.help()
        self.world.finish()

    def help(self) -> bool:
        with self.world.operating() as durable:
            durable.start(self.endpoint(), idempotency_key="mine")

        return True


class CancelledWait(Shape):
    """One that waits for its child is cancelled, and its handler runs."""

    calls = {"a": EXACTLY, "b": NEVER, "c": EXACTLY, "cleanup": ONCE}
    ends = ["child cancelled", "on_failure completed", "view cancelled"]
    answers = [None]
    may_be_lost = False
    least = 30

    def views(self) -> dict[cabc.Callable[..., t.Any], dict[str, t.Any]]:
        return {self.view: {"on_failure": self.clean_up}, self.child: {}}

    def view(self) -> t.Any:
        self.run("a")
        step.invoke("i", self.endpoint("child"))
        return [self.run("b")]

    def child(self) -> t.Any:
        self.run("c")
        return [step.wait_for_event("w", "never")]

    def clean_up(self, execution: ExecutionInfo) -> None:
        self.run("cleanup")

    def prepare(self) -> None:
        self.post()
        self.world.finish()

    def act(self) -> None:
        self.help()
        self.world.finish()

    def help(self) -> bool:
        """Cancel it, unless that was asked for: then the rest comes by itself."""
        (root,) = self.world.roots()

        if not root.cancel_requested:
            with self.world.operating() as durable:
                durable.cancel(root.id)

        return True


class CancelledRun(Shape):
    """One that runs is cancelled: it ends before its next step."""

    calls = {"a": ONCE, "b": NEVER}
    ends = ["view cancelled"]
    answers = [None]
    least = 12

    def view(self) -> t.Any:
        return [step.run("a", self.cancel), self.run("b")]

    def cancel(self) -> t.Any:
        self.world.call()

        with self.world.operating() as durable:
            durable.cancel(current_execution.id)


class Resumed(Shape):
    """What failed is mended, and the execution resumed."""

    calls = {"a": EXACTLY, "b": TWICE, "c": ONCE}
    tried_anew = frozenset({"b"})
    answers = [["a", "b", "c"]]
    may_be_lost = False
    least = 19

    def view(self) -> t.Any:
        return [self.run("a"), step.run("b", self.broken), self.run("c")]

    def broken(self) -> t.Any:
        self.world.call()

        if self.world.read("mended") is None:
            raise NonRetryableError("not yet")

        return "b"

    def prepare(self) -> None:
        self.post()
        self.world.note("mended")

    def act(self) -> None:
        self.help()
        self.world.finish()

    def help(self) -> bool:
        (root,) = self.world.roots()

        if root.status == "failed":
            with self.world.operating() as durable:
                durable.resume(root.id)

        return True


class Rerun(Shape):
    """It is done once more from its second step on."""

    calls = {"a": EXACTLY, "b": TWICE, "c": TWICE}
    ends = ["view completed", "view completed"]
    answers = [["a", "b", "c"]]
    may_be_lost = False
    least = 19

    def view(self) -> t.Any:
        return [self.run(name) for name in self.calls]

    def prepare(self) -> None:
        self.post()

    def act(self) -> None:
        self.help()
        self.world.finish()

    def help(self) -> bool:
        roots = self.world.roots()

        if len(roots) == 1:
            with self.world.operating() as durable:
                durable.rerun(roots[0].id, from_step="b")

        return True


class Purged(Shape):
    """What has ended is deleted in batches, and what waits is not."""

    calls = {"a": (6, 6), "b": ONCE}
    in_flight = 0
    answers = [["a", None, "b"]]
    may_be_lost = False
    least = 19

    def views(self) -> dict[cabc.Callable[..., t.Any], dict[str, t.Any]]:
        return {self.view: {}, self.ended: {}}

    def view(self) -> t.Any:
        return [self.run("a"), step.wait_for_event("w", "go"), self.run("b")]

    def ended(self) -> t.Any:
        return [self.run("a")]

    def prepare(self) -> None:
        self.post()

        for _ in range(5):
            self.world.post(self.endpoint("ended"))

    def act(self) -> None:
        with self.world.operating() as durable:
            durable.purge(0)

    def help(self) -> bool:
        """Purge again, unless the one that waited has ended: it would be deleted."""
        if not self.world.has_ended():
            self.act()

        with self.world.operating() as durable:
            durable.send_event("go")

        return True
