"""Two machines and a database: one is cut off while it runs, and comes back."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import os
import pathlib
import threading
import time

import pytest

from .. import machines
from .. import servers
from ..machines import Machine
from ..processes import Gunicorn
from ..processes import wait_until
from ..processes import Worker
from .sites import Journal
from .sites import new_order
from .sites import SECRET_KEY
from .sites import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

APP = "tests.integration.apps.machine:app"

LEASE = 2.0

TAKEN_OVER = LEASE * 4 / 3 + 2.0
"""Seconds after the last renewal within which another machine begins."""

TOLERANCE = 1.5
"""Seconds more that a slow machine may take."""


class Host(Site):
    """The shop on a machine of its own."""

    def __init__(self, machine: Machine, server: Gunicorn, journal: Journal) -> None:
        super().__init__(server, journal)
        self.machine = machine
        server.command = machine.command(server.command)

    def let_go(self) -> None:
        """Let held steps of this machine end."""
        (self.folder / "go-on").touch()


@pytest.fixture(scope="module")
def network() -> cabc.Iterator[list[Machine]]:
    """Make two machines; where there can be none these tests are skipped."""
    if reason := machines.reason_against():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)

    with machines.network("left", "right") as made:
        yield made


@pytest.fixture(scope="module")
def server(network: list[Machine]) -> cabc.Iterator[servers.Postgres]:
    """Run a PostgreSQL server that both machines reach."""
    with servers.postgres(fsync=True, host=machines.SWITCH) as server:
        yield server


@pytest.fixture(scope="module")
def running_hosts(
    network: list[Machine],
    server: servers.Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> cabc.Iterator[list[Host]]:
    """Run the shop on both machines."""
    with server.database() as url:
        hosts = [
            make_host(machine, url, tmp_path_factory.mktemp(machine.name))
            for machine in network
        ]

        try:
            for host in hosts:
                host.server.start()

            yield hosts
        finally:
            for host in hosts:
                host.server.kill()


def settings(machine: Machine, url: str) -> dict[str, str]:
    """Give the environment of the shop on a machine."""
    return {
        "FLASK_DURABLE_DATABASE_URL": url,
        "FLASK_DURABLE_LEASE": str(LEASE),
        "FLASK_SECRET_KEY": SECRET_KEY,
        "MACHINE": machine.name,
    }


def make_host(machine: Machine, url: str, folder: pathlib.Path, **more: str) -> Host:
    """Put the shop on a machine."""
    env = settings(machine, url) | more
    server = Gunicorn(
        APP, folder, worker_class="gthread", threads=4, env=env, host=machine.address
    )
    return Host(machine, server, Journal(url))


@pytest.fixture
def left(hosts: list[Host]) -> Host:
    """Give the machine that stays connected."""
    return hosts[0]


@pytest.fixture
def right(hosts: list[Host]) -> Host:
    """Give the machine whose cable is pulled."""
    return hosts[1]


@pytest.fixture
def hosts(running_hosts: list[Host]) -> cabc.Iterator[list[Host]]:
    """Give both machines, holding steps, and show what they wrote."""
    before = [len(host.server.log()) for host in running_hosts]

    for host in running_hosts:
        (host.folder / "go-on").unlink(missing_ok=True)

    yield running_hosts

    for host, length in zip(running_hosts, before, strict=True):
        host.machine.connect()
        print(f"{host.machine.name}:\n{host.server.log()[length:]}")


@pytest.fixture
def order() -> str:
    """Name this test's order."""
    return new_order()


def test_a_machine_that_is_cut_off_is_succeeded(
    left: Host, right: Host, order: str
) -> None:
    """By its lease, not sooner; what it writes when it is back is refused."""
    left.let_go()
    answer = right.post_in_background("/held", order)
    held = right.wait_for_call(order, "held")
    right.machine.cut_off()
    row = right.journal.row(held.execution)
    renewed_at = row.ready_at - LEASE - row.now + time.monotonic()

    again = left.wait_for_call(order, "held")
    print(f"taken over {again.at - renewed_at:.2f} s after the last renewal")
    assert LEASE <= again.at - renewed_at < TAKEN_OVER + TOLERANCE
    assert left.journal.wait_for(held.execution).attempt == 2

    right.let_go()
    right.machine.connect()
    refused = f"Attempt 1 of execution {held.execution} ends: another attempt took"
    wait_until(lambda: refused in right.server.log(), 20, "its write is refused")
    wanted = ["first by right", "held by left", "last by left"]
    assert answer.result(20).json() == wanted
    steps = left.journal.steps(held.execution)
    assert [(step.id, step.attempt) for step in steps] == [
        ("first", 1),
        ("held", 2),
        ("last", 2),
    ]
    assert [step.output.decode() for step in steps] == [f'"{text}"' for text in wanted]
    assert right.names(order) == ["first", "held"]
    assert left.names(order) == ["held", "last"]


def test_a_machine_that_is_cut_off_for_less_goes_on(
    left: Host, right: Host, order: str
) -> None:
    """Its heartbeat renews as soon as it is connected again."""
    answer = right.post_in_background("/held", order)
    held = right.wait_for_call(order, "held")
    right.machine.silence()
    before = right.journal.row(held.execution).ready_at
    pause(0.75 * LEASE)
    assert right.journal.row(held.execution).ready_at == before
    right.machine.connect()
    wait_for_renewal(right, held.execution)
    right.let_go()
    assert answer.result(20).json() == steps_by(right)
    check_undisturbed(right, held.execution)
    assert left.names(order) == []


def test_a_silent_outage_robs_nobody(left: Host, right: Host) -> None:
    """Neither machine reaches the database for several leases, and neither is told."""
    orders = {host: new_order() for host in (left, right)}
    answers = [host.post_in_background("/held", orders[host]) for host in orders]
    held = [host.wait_for_call(orders[host], "held").execution for host in orders]

    for host in orders:
        host.machine.silence()

    pause(2.5 * LEASE)

    for host in orders:
        host.machine.connect()

    for host, execution_id in zip(orders, held, strict=True):
        wait_for_renewal(host, execution_id)
        host.let_go()

    for host, execution_id, answer in zip(orders, held, answers, strict=True):
        assert answer.result(20).json() == steps_by(host)
        check_undisturbed(host, execution_id)
        assert host.names(orders[host]) == ["first", "held", "last"]


def test_a_worker_takes_over_where_the_leader_is_lost(
    network: list[Machine], server: servers.Postgres, tmp_path: pathlib.Path
) -> None:
    """With Redis one process sweeps for all; it is on the machine that is cut off."""
    (tmp_path / "go-on").touch()
    left, right = network

    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(servers.redis(machines.SWITCH))
        url = stack.enter_context(server.database())
        more = {"FLASK_DURABLE_REDIS_URL": redis.url}
        folder = tmp_path / right.name
        folder.mkdir()
        host = make_host(right, url, folder, **more)
        stack.callback(host.server.kill)
        host.server.start()
        wait_until(host.journal.leader, 10, "the server's process leads")

        worker = Worker(APP, tmp_path, env=settings(left, url) | more)
        worker.command = left.command(worker.command)
        stack.callback(worker.kill)
        worker.start()

        host.post_in_background("/held", "a")
        held = host.wait_for_call("a", "held")
        right.cut_off()
        stack.callback(right.connect)
        cut_off_at = time.monotonic()
        assert host.journal.leader() == host.journal.row(held.execution).owner
        row = host.journal.wait_for(held.execution)
        seconds = time.monotonic() - cut_off_at
        print(f"completed {seconds:.2f} s after the cut:\n{worker.log()}")
        assert seconds < TAKEN_OVER + TOLERANCE
        assert row.attempt == 2
        assert host.names("a") == ["first", "held"]


def pause(seconds: float) -> None:
    """Let time pass: nothing is to happen meanwhile."""
    threading.Event().wait(seconds)


def wait_for_renewal(host: Host, execution_id: str) -> None:
    """Wait until an execution has a lease again, whoever has it."""

    def renewed() -> bool:
        row = host.journal.row(execution_id)
        return bool(row.status == "running" and row.ready_at > row.now + LEASE / 2)

    wait_until(renewed, 15, f"the lease of {execution_id} is renewed")


def steps_by(host: Host) -> list[str]:
    """Give the answer of a view that ran on one machine alone."""
    return [f"{step} by {host.machine.name}" for step in ("first", "held", "last")]


def check_undisturbed(host: Host, execution_id: str) -> None:
    """Make sure that nobody took an execution over."""
    row = host.journal.wait_for(execution_id)
    assert (row.attempt, row.crashes) == (1, 0)
