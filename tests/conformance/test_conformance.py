"""The conformance list: one test a scenario, with the attempts that it must take.

Every scenario runs embedded on both databases; three of each family also through
Redis: what is due is replayed by ``flask durable worker``, another process.
"""

from __future__ import annotations

import collections.abc as cabc
import os
import signal
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_durable import FlaskDurable
from flask_durable.dispatch_rq import NoDispatcher
from flask_durable.rq_queue import RqHands
from flask_durable.sql import db_now
from flask_durable.state import opened_state
from flask_durable.sweeper import Sweeper
from flask_durable.tables import executions

from ..driving import Drive
from ..processes import wait_until
from ..processes import Worker
from ..servers import Postgres
from ..servers import Redis
from .app import DATABASE
from .app import FAMILIES
from .app import make_world
from .app import REDIS
from .app import SharedWorld
from .scenarios import add_views
from .scenarios import play
from .scenarios import Scenario
from .scenarios import World

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
    add_views(world, [scenario])
    play(scenario, world, world.drive.run_due)


class Plant:
    """A worker in a process of its own, that works only when it is told to."""

    def __init__(self, world: SharedWorld, worker: Worker) -> None:
        self.world = world
        self._worker = worker
        state = opened_state(world.app)
        state.start(NoDispatcher)
        self._sweeper = Sweeper(state, RqHands(state))
        self._under_way = state.store.database.prepare(_under_way)
        self._ask = state.store.ask

    def run_due(self) -> int:
        """Have the worker replay what is due, until nothing is or runs."""
        self._sweeper.sweep(10)
        os.killpg(self._worker.pid, signal.SIGCONT)
        wait_until(self._at_rest, 20, "nothing is due or runs")
        self.pause()
        return 0

    def pause(self) -> None:
        """Stop the worker, so that requests and events come one by one."""
        os.killpg(self._worker.pid, signal.SIGSTOP)

    def _at_rest(self) -> bool:
        self._sweeper.sweep(10)
        return not self._ask(self._under_way)


def _under_way() -> sa.Select[t.Any]:
    due = sa.or_(executions.c.status == "running", executions.c.ready_at <= db_now())
    return sa.select(executions.c.id).where(executions.c.finished_at.is_(None), due)


@pytest.fixture(scope="module")
def plant(
    postgres_server: Postgres,
    redis_server: Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> cabc.Iterator[Plant]:
    """Run a worker for all scenarios."""
    folder = tmp_path_factory.mktemp("plant")
    redis_server.clear()

    with postgres_server.database() as url:
        env = {DATABASE: url, REDIS: redis_server.url}
        world = make_world(folder, url, redis_server.url)
        world.app.testing = True
        # Before a worker comes that may be stopped while it makes the tables.
        opened_state(world.app).store.check()

        with Worker("tests.conformance.app:create_app", folder, env=env) as worker:
            plant = Plant(world, worker)
            plant.pause()
            yield plant
            os.killpg(worker.pid, signal.SIGCONT)

        world.app.extensions["durable"].close()


@pytest.mark.slow
@every(OVER_RQ)
def test_scenario_over_rq(plant: Plant, scenario: Scenario) -> None:
    """The same through Redis, with all later attempts in another process."""
    plant.world.begin()
    play(scenario, plant.world, plant.run_due)


def test_the_list_is_long() -> None:
    """Each scenario has a name of its own."""
    names = [s.name for family in FAMILIES.values() for s in family.scenarios]
    assert len(names) >= 120
    assert len(set(names)) == len(names)
