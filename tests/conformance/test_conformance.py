"""The conformance list: one test a scenario, with the attempts that it must take.

Every scenario runs embedded on both databases; three of each family also through
a real RQ queue and worker.
"""

from __future__ import annotations

import collections.abc as cabc
import secrets

import pytest
import redis
from flask import Flask
from rq.serializers import JSONSerializer

from flask_durable import FlaskDurable
from flask_durable.dispatch_rq import durable_queue
from flask_durable.dispatch_rq import NoDispatcher
from flask_durable.dispatch_rq import RqHands
from flask_durable.supervisor import Stop
from flask_durable.sweeper import Sweeper
from flask_durable.worker import ReplayJob
from flask_durable.worker import ReplayWorker

from ..driving import Drive
from . import branches
from . import steps
from . import waits
from .scenarios import Family
from .scenarios import play
from .scenarios import Scenario
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

OVER_RQ = 3
"""Scenarios of each family that run over RQ as well, the last ones."""


def every(count: int | None = None) -> pytest.MarkDecorator:
    """Run a test for each scenario, or for some of each family."""
    return pytest.mark.parametrize(
        "scenario",
        [
            pytest.param(scenario, id=f"{name}-{scenario.name}")
            for name, family in FAMILIES.items()
            for scenario in family.scenarios[-(count or 0) :]
        ],
    )


@pytest.fixture
def world(app: Flask, durable: FlaskDurable, drive: Drive) -> World:
    """Give what scenarios do and are sent."""
    return World(app, durable, drive)


@every()
def test_scenario(scenario: Scenario, world: World) -> None:
    """It gives its result, in so many attempts, with so many calls."""
    play(scenario, world, world.drive.run_due)


@pytest.fixture
def over_rq(app: Flask, redis_url: str) -> cabc.Callable[[], int]:
    """Replay what is due by a queue and a worker."""
    app.config["DURABLE_REDIS_URL"] = redis_url
    connection = redis.Redis.from_url(redis_url)

    def run_due() -> int:
        state = app.extensions["durable"]
        state.start(NoDispatcher)
        sweeper = Sweeper(state, RqHands(state))
        sent = sweeper.sweep(10)
        worker = ReplayWorker(
            Stop(),
            [durable_queue(state.config.queue, connection, ReplayJob)],
            name=f"test-{secrets.token_hex(4)}",
            connection=connection,
            serializer=JSONSerializer,
        )

        with app.app_context():
            worker.work(burst=True, logging_level="WARNING")

        return sent

    return run_due


@every(OVER_RQ)
def test_scenario_over_rq(
    over_rq: cabc.Callable[[], int], scenario: Scenario, world: World
) -> None:
    """The same through Redis."""
    play(scenario, world, over_rq)


def test_the_list_is_long() -> None:
    """Each scenario has a name of its own."""
    names = [s.name for family in FAMILIES.values() for s in family.scenarios]
    assert len(names) >= 120
    assert len(set(names)) == len(names)
