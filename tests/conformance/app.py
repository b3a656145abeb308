"""The scenarios as an app that several processes load."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import typing as t

from flask import Flask

from flask_durable import FlaskDurable
from flask_durable import step

from ..driving import Drive
from . import branches
from . import steps
from . import waits
from .scenarios import add_views
from .scenarios import Family
from .scenarios import World

FAMILIES: dict[str, Family] = {
    "steps": steps.steps,
    "failures": steps.failures,
    "conditions": steps.conditions,
    "sleeps": steps.sleeps,
    "parallel": branches.parallel,
    "maps": branches.maps,
    "events": waits.events,
    "callbacks": waits.callbacks,
    "polls": waits.polls,
    "invokes": waits.invokes,
}

DATABASE, REDIS = "CONFORMANCE_DATABASE", "CONFORMANCE_REDIS"


class SharedWorld(World):
    """A world whose calls and tokens are seen by all processes."""

    def __init__(self, folder: pathlib.Path, app: Flask, durable: FlaskDurable) -> None:
        self._calls = folder / "calls"
        self._tokens = folder / "tokens"
        super().__init__(app, durable, Drive(app))

    def begin(self) -> None:
        """Forget what was called and made."""
        self._calls.write_text("")
        self._tokens.write_text("")

    @property
    def calls(self) -> collections.Counter[str]:  # pyright: ignore
        """Count the calls of all processes."""
        return collections.Counter(self._calls.read_text().splitlines())

    @calls.setter
    def calls(self, calls: collections.Counter[str]) -> None:  # pyright: ignore
        """Leave them to ``call``."""

    @property
    def tokens(self) -> dict[str, str]:  # pyright: ignore
        """Give the tokens of callbacks."""
        return dict(map(json.loads, self._tokens.read_text().splitlines()))

    @tokens.setter
    def tokens(self, tokens: dict[str, str]) -> None:  # pyright: ignore
        self._remember(tokens)

    def _remember(self, tokens: dict[str, str]) -> None:
        with self._tokens.open("a") as file:
            file.writelines(f"{json.dumps(pair)}\n" for pair in tokens.items())

    def call(self, name: str, value: t.Any = None) -> t.Any:
        """Count a call of a step's function."""
        with self._calls.open("a") as file:
            file.write(f"{name}\n")

        return name if value is None else value

    def callback(self, name: str) -> t.Any:
        """Make a callback whose token the world knows."""
        made = step.callback(name)
        self._remember({name: made.token})
        return made


def make_world(folder: pathlib.Path, database: str, redis: str) -> SharedWorld:
    """Make the app with the views of all scenarios, and what they do."""
    app = Flask("tests.conformance", instance_path=str(folder))
    app.config.update(
        DURABLE_DATABASE_URL=database,
        DURABLE_REDIS_URL=redis,
        PROPAGATE_EXCEPTIONS=False,
        SECRET_KEY="tests",
    )
    world = SharedWorld(folder, app, FlaskDurable(app))
    add_views(world, [one for family in FAMILIES.values() for one in family.scenarios])
    return world


def create_app() -> Flask:
    """Make the app of a worker, whose folder is the current one."""
    return make_world(pathlib.Path.cwd(), os.environ[DATABASE], os.environ[REDIS]).app
