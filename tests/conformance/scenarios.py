"""What a scenario is: a view, what happens outside, and what must come of it."""

from __future__ import annotations

import collections
import collections.abc as cabc
import dataclasses
import typing as t

from flask import Flask

from flask_durable import current_step
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import step

from ..driving import Drive

LATER = Retry(3, initial=60, factor=1, jitter=0)
"""Tries that are a minute apart, so that each has an attempt of its own."""

MINUTE = 60.0


class World:
    """What a scenario's steps do, and what is sent to it."""

    def __init__(self, app: Flask, durable: FlaskDurable, drive: Drive) -> None:
        self.app = app
        self.durable = durable
        self.drive = drive
        self.calls: collections.Counter[str] = collections.Counter()
        self.tokens: dict[str, str] = {}

    # In the view

    def do(self, name: str, value: t.Any = None) -> t.Any:
        """Run a step that succeeds, and give its value, else its name."""
        return step.run(name, self.call, name, value)

    def call(self, name: str, value: t.Any = None) -> t.Any:
        """Count a call of a step's function."""
        self.calls[name] += 1
        return name if value is None else value

    def fail(self, name: str, times: int = 1) -> t.Any:
        """Run a step whose first tries fail, a minute apart."""
        return step.options(retry=LATER).run(name, self.flaky, name, times)

    def flaky(self, name: str, times: int) -> str:
        """Fail in the first tries."""
        self.call(name)

        if current_step.attempt <= times:
            raise ConnectionError(f"{name} is away")

        return name

    def give_up(self, name: str) -> t.Any:
        """Run a step that fails for good."""
        return step.run(name, self.broken, name)

    def broken(self, name: str) -> t.NoReturn:
        """Fail for good."""
        self.call(name)
        raise NonRetryableError(f"{name} is broken")

    def callback(self, name: str) -> t.Any:
        """Make a callback whose token the world knows."""
        made = step.callback(name)
        self.tokens[name] = made.token
        return made

    # Outside

    def send(self, event: str, data: t.Any = None, key: str | None = None) -> None:
        """Send an event."""
        with self.app.app_context():
            self.durable.send_event(event, key=key, data=data)

    def complete(self, name: str, data: t.Any) -> None:
        """Answer a callback."""
        with self.app.test_request_context():
            self.durable.complete_callback(self.tokens[name], data)


View = cabc.Callable[[World], t.Any]
Act = cabc.Callable[[World], None]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One line of the conformance list."""

    name: str
    view: View
    acts: tuple[Act, ...]
    """What happens outside, one after the other; what is due is replayed before
    and after each."""
    result: t.Any
    """The JSON of the final response, or its status if it is an error."""
    attempts: int
    calls: dict[str, int] | None
    """How often each step's function is called, if it matters."""


class Family:
    """Scenarios of one kind."""

    def __init__(self) -> None:
        self.scenarios: list[Scenario] = []

    def add(
        self,
        *acts: Act,
        result: t.Any,
        attempts: int,
        calls: dict[str, int] | None = None,
    ) -> cabc.Callable[[View], View]:
        """Add a scenario; its view's name and docstring tell what it is."""

        def decorate(view: View) -> View:
            name = view.__name__.replace("_", "-").strip("-")
            made = Scenario(name, view, acts, result, attempts, calls)
            self.scenarios.append(made)
            return view

        return decorate


def wait(seconds: float = MINUTE + 1) -> Act:
    """Let time pass."""
    return lambda world: world.drive.advance(seconds)


def send(event: str, data: t.Any = None, key: str | None = None) -> Act:
    """Send an event."""
    return lambda world: world.send(event, data, key)


def answer(name: str, data: t.Any) -> Act:
    """Answer a callback."""
    return lambda world: world.complete(name, data)


RunDue = cabc.Callable[[], int]


def add_views(world: World, scenarios: cabc.Iterable[Scenario]) -> None:
    """Add the view that plays scenarios, and that of their children."""
    named = {scenario.name: scenario for scenario in scenarios}

    @world.app.post("/scenario/<name>")
    @world.durable.endpoint
    def scenario_view(name: str) -> t.Any:
        return named[name].view(world)

    @world.app.post("/child/<int:number>")
    @world.durable.endpoint(retry=LATER)
    def child(number: int) -> t.Any:
        world.call(f"child {number}")

        if number == 0:
            raise NonRetryableError("no such child")

        if number >= 10:
            step.sleep("nap", MINUTE)

        return {"number": step.run("number", int, number)}


def play(scenario: Scenario, world: World, run_due: RunDue) -> None:
    """Play a scenario to its end, and compare."""
    app = world.app
    first = app.test_client().post(f"/scenario/{scenario.name}")
    mine = first.headers["Durable-Execution"]
    _run_all(run_due)

    for act in scenario.acts:
        act(world)
        _run_all(run_due)

    info = _info(world, mine)
    assert info.status in ("completed", "failed"), f"still {info.status}"
    url = world.drive.status(first)["response_url"]
    final = app.test_client().get(url)
    got = final.status_code if final.status_code >= 400 else final.json
    assert got == scenario.result
    assert info.attempt == scenario.attempts, f"took {info.attempt} attempts"

    if scenario.calls is not None:
        assert dict(world.calls) == scenario.calls


def _run_all(run_due: RunDue) -> None:
    for _ in range(20):
        if not run_due():
            return

    raise AssertionError("it never comes to rest")


def _info(world: World, mine: str) -> t.Any:
    with world.app.app_context():
        return world.durable.get(mine)
