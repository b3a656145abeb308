"""What the laboratory does to those that wait: for others, for time, for children."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

from flask_durable import ExecutionInfo
from flask_durable import NonRetryableError
from flask_durable import step
from flask_durable import StepError
from flask_durable import WaitTimeoutError

from .crash_shapes import NEVER
from .crash_shapes import ONCE
from .crash_shapes import Shape
from .crash_shapes import TWICE


class SentEvent(Shape):
    """Somebody sends an event to one that waits for it."""

    calls = {"a": ONCE, "b": ONCE}
    answers = [["a", 7, "b"]]
    counts = {"events": 1}
    least = 22

    def view(self) -> t.Any:
        first = self.run("a")
        return [first, step.wait_for_event("w", "paid", key="k"), self.run("b")]

    def act(self) -> None:
        self.post()
        self.send()
        self.world.finish()

    def send(self) -> None:
        with self.world.operating() as durable:
            durable.send_event("paid", key="k", data=7, dedup="once")

    def help(self) -> bool:
        self.send()
        return True


class EarlyEvent(SentEvent):
    """The event is there before it is waited for."""

    least = 13

    def view(self) -> t.Any:
        first = step.run("a", self.send_and_call)
        return [first, step.wait_for_event("w", "paid", key="k"), self.run("b")]

    def send_and_call(self) -> t.Any:
        self.send()
        return self.world.call()

    act = Shape.act
    help = Shape.help


class Callback(Shape):
    """Somebody completes a callback, and does it again after the kill."""

    calls = {"mail": ONCE, "b": ONCE}
    answers = [["mail", {"ok": True}, "b"]]
    counts = {"events": 1}
    least = 25

    def view(self) -> t.Any:
        callback = step.callback("c")
        first = step.run("mail", self.mail, callback.token)
        return [first, callback.wait(), self.run("b")]

    def mail(self, token: str) -> t.Any:
        self.world.note("mail", token)
        return self.world.call()

    def act(self) -> None:
        self.post()
        self.help()
        self.world.finish()

    def help(self) -> bool:
        token = self.world.read("mail")

        if token is not None:
            with self.world.operating() as durable:
                durable.complete_callback(token, {"ok": True})

        return token is not None or not self.world.roots()


class Polled(Shape):
    """It looks twice, and then waits for what doesn't come."""

    calls = {"look": TWICE, "b": ONCE}
    answers = [["found", "late", "b"]]
    least = 22

    def view(self) -> t.Any:
        found = step.poll("look", self.look, every=0.05)
        return [found, self.wait(), self.run("b")]

    def look(self) -> str | None:
        self.world.call()
        return "found" if len(self.world.calls()) > 1 else None

    def wait(self) -> str:
        try:
            step.wait_for_event("w", "never", timeout=0.05)
        except WaitTimeoutError:
            return "late"

        return "came"


class Invoked(Shape):
    """Two children: one ends at once, one is suspended."""

    calls = {"q": ONCE, "s": ONCE, "u": ONCE, "b": ONCE}
    ends = ["quick completed", "slow completed", "view completed"]
    answers = [[["q"], ["s", "u"], "b"]]
    counts = {"events": 2}
    least = 66

    def views(self) -> dict[cabc.Callable[..., t.Any], dict[str, t.Any]]:
        return {self.view: {}, self.quick: {}, self.slow: {}}

    def view(self) -> t.Any:
        first = step.invoke("first", self.endpoint("quick"))
        return [first, step.invoke("second", self.endpoint("slow")), self.run("b")]

    def quick(self) -> t.Any:
        return [self.run("q")]

    def slow(self) -> t.Any:
        first = self.run("s")
        step.sleep("nap", 0.05)
        return [first, self.run("u")]


class FailedChild(Shape):
    """A child fails: its parent hears of it, and its handler runs."""

    calls = {"c": ONCE, "sorry": ONCE, "cleanup": ONCE}
    ends = ["child failed", "on_failure completed", "view completed"]
    answers = [["sorry"]]
    counts = {"events": 1}
    least = 41

    def views(self) -> dict[cabc.Callable[..., t.Any], dict[str, t.Any]]:
        return {self.view: {}, self.child: {"on_failure": self.clean_up}}

    def view(self) -> t.Any:
        try:
            return [step.invoke("i", self.endpoint("child"))]
        except StepError:
            return [self.run("sorry")]

    def child(self) -> t.Any:
        step.run("c", self.fail)

    def fail(self) -> None:
        self.world.call()
        raise NonRetryableError("no")

    def clean_up(self, execution: ExecutionInfo) -> None:
        self.run("cleanup")


class Deadline(Shape):
    """Its time is over while it sleeps, and its handler runs."""

    calls = {"a": (0, 2), "b": NEVER, "cleanup": ONCE}
    ends = ["on_failure completed", "view failed"]
    answers = [None]
    least = 12

    def views(self) -> dict[cabc.Callable[..., t.Any], dict[str, t.Any]]:
        return {self.view: {"deadline": 0.3, "on_failure": self.clean_up}}

    def view(self) -> t.Any:
        self.run("a")
        step.sleep("nap", 60)
        return [self.run("b")]

    def clean_up(self, execution: ExecutionInfo) -> None:
        self.run("cleanup")
