"""Processes that hold their interpreter, fork, fight, stop, or die again and again."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import contextlib
import functools
import os
import pathlib
import signal
import threading
import typing as t

import pytest
import requests
from flask import Flask

from flask_durable.records import Failure
from flask_durable.recovery import backoff
from flask_durable.recovery import MAX_CRASHES
from flask_durable.signing import sign_ticket
from flask_durable.signing import Ticket

from ..processes import wait_until
from .sites import Called
from .sites import SECRET_KEY
from .sites import Shop
from .sites import shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

DAY = 86400.0

SHORT_LEASE = {"FLASK_DURABLE_LEASE": "1"}

ROUNDS = 25


def settings(url: str, **more: str) -> dict[str, str]:
    """Give the environment of a shop."""
    return {
        "FLASK_DURABLE_DATABASE_URL": url,
        "FLASK_SECRET_KEY": SECRET_KEY,
        **more,
    }


@pytest.fixture
def short_lease(tmp_path: pathlib.Path, sqlite_url: str) -> cabc.Iterator[Shop]:
    """Run the shop in two processes, with a lease of one second."""
    env = settings(sqlite_url, **SHORT_LEASE)

    with shop(tmp_path, sqlite_url, env, worker_class="gthread", threads=4) as site:
        yield site
        print(site.gunicorn.log())


def test_a_view_that_holds_the_gil_is_not_robbed(short_lease: Shop) -> None:
    """Its heartbeat can't run for longer than a lease, yet its process lives."""
    site = short_lease
    answer = site.post_in_background("/gil", "a", seconds=4)
    held = site.wait_for_call("a", "hold")
    wait_until(lambda: site.journal.row(held.execution).looks >= 2, 15, "two looks")
    assert answer.result(20).json() == ["first", "hold", "last"]
    row = site.journal.row(held.execution)
    assert (row.status, row.attempt, row.crashes) == ("completed", 1, 0)
    assert site.names("a") == ["first", "hold", "last"]


@pytest.mark.parametrize("how", ["os-exit", "multiprocessing"])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_forked_child_leaves_its_parents_attempt_alone(
    tmp_path: pathlib.Path, sqlite_url: str, worker_class: str, how: str
) -> None:
    """Its end releases nothing, and the parent's step goes on."""
    with shop(tmp_path, sqlite_url, worker_class=worker_class) as site:
        answer = site.post_in_background(f"/fork/{how}", "a")
        forked = site.wait_for_call("a", "fork")
        assert answer.result(20).json() == ["first", "fork", "last"]
        check_left_alone(site, forked)


def test_a_forked_child_that_raises_system_exit_leaves_the_attempt_alone(
    tmp_path: pathlib.Path, sqlite_url: str
) -> None:
    """The exception passes through, and the parent's step goes on.

    What the client hears is up to gunicorn: the child answers 500 for it.
    """
    with shop(tmp_path, sqlite_url) as site:
        site.post_in_background("/fork/sys-exit", "a")
        forked = site.wait_for_call("a", "fork")
        check_left_alone(site, forked)
        assert "AssertionError" not in site.gunicorn.log()


def check_left_alone(site: Shop, forked: Called) -> None:
    """Make sure that an execution was completed by one process alone."""
    row = site.journal.wait_for(forked.execution)
    assert (row.attempt, row.crashes) == (1, 0)
    assert site.names("a") == ["first", "fork", "last"]
    assert {line.pid for line in site.called("a")} == {forked.pid}


def test_a_stopped_process_is_left_alone(short_lease: Shop) -> None:
    """However late its heartbeat is: it goes on when it may run again."""
    site = short_lease
    answer = site.post_in_background("/slow", "a", seconds=1)
    slow = site.wait_for_call("a", "slow")

    with stopped(slow.pid):
        wait_until(lambda: site.journal.row(slow.execution).looks >= 3, 20, "looks")
        row = site.journal.row(slow.execution)
        assert (row.status, row.attempt) == ("running", 1)
        assert row.ready_at < row.now

    assert answer.result(20).json() == ["first", "slow", "last"]
    row = site.journal.row(slow.execution)
    assert (row.status, row.attempt, row.crashes) == ("completed", 1, 0)
    assert site.names("a") == ["first", "slow", "last"]


def test_a_stopped_process_that_is_killed_is_succeeded(short_lease: Shop) -> None:
    """From then on another process goes on, within a few seconds."""
    site = short_lease
    site.post_in_background("/slow", "a", seconds=1)
    slow = site.wait_for_call("a", "slow")

    with stopped(slow.pid):
        wait_until(lambda: site.journal.row(slow.execution).looks >= 1, 10, "a look")
        os.kill(slow.pid, signal.SIGKILL)

    row = site.journal.wait_for(slow.execution, timeout=4)
    assert row.attempt == 2
    assert site.names("a") == ["first", "slow", "slow", "last"]


@contextlib.contextmanager
def stopped(pid: int) -> cabc.Iterator[None]:
    """Stop a process and let it go on."""
    os.kill(pid, signal.SIGSTOP)

    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_one_of_two_processes_gets_an_execution(
    tmp_path: pathlib.Path, database_url: str
) -> None:
    """Both have the same valid ticket at the same moment; the loser hears 403."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first = shop(one, database_url, workers=1)
    second = shop(other, database_url, workers=1)

    with first as left, second as right:
        for number in range(ROUNDS):
            order = f"round-{number}"
            answer = left.post("/sleep", order, nap=3600, seconds=0)
            execution_id = answer.headers["Durable-Execution"]
            ticket = make_ticket(left, execution_id)
            answers = at_once(
                functools.partial(replay, left, order, ticket),
                functools.partial(replay, right, order, ticket),
            )

            assert sorted(a.status_code for a in answers) == [200, 403]
            (won,) = (a for a in answers if a.status_code == 200)
            assert won.json() == ["first", "slow"]
            row = left.journal.row(execution_id)
            assert (row.status, row.attempt) == ("completed", 2)
            assert left.names(order) + right.names(order) == ["first", "slow"]


def make_ticket(site: Shop, execution_id: str) -> str:
    """Make the next attempt due for nobody but the holder of a ticket."""
    row = site.journal.row(execution_id)
    site.journal.wake_steps(execution_id)
    site.journal.change(execution_id, ready_at=0.0, due_at=row.now + DAY)
    signer = Flask("shop")
    signer.secret_key = SECRET_KEY
    return sign_ticket(signer, Ticket(execution_id, 2, row.digest))


def replay(site: Shop, order: str, ticket: str) -> requests.Response:
    """Send the request of a round again."""
    headers = {"Durable-Replay": ticket}
    return site.post("/sleep", order, headers, nap=3600, seconds=0)


def at_once(
    *calls: cabc.Callable[[], requests.Response],
) -> list[requests.Response]:
    """Call functions at the same moment, and give what they return."""
    barrier = threading.Barrier(len(calls))

    def meet(call: cabc.Callable[[], requests.Response]) -> requests.Response:
        barrier.wait(10)
        return call()

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(meet, calls))


def test_an_execution_that_always_kills_its_process_fails(
    tmp_path: pathlib.Path, sqlite_url: str
) -> None:
    """It is stopped after ten crashes, with longer and longer waits in between."""
    with shop(tmp_path, sqlite_url) as site:
        site.post_in_background("/dies-always", "a")
        execution_id = site.wait_for_call("a", "pay").execution
        row: t.Any = None

        for crashes in range(1, MAX_CRASHES):
            look = functools.partial(crashed, site, execution_id, crashes)
            row = wait_until(look, 15, f"crash {crashes}")
            assert row.status in ("suspended", "running")

            if crashes > 1:
                left = row.ready_at - row.now
                assert 0 < left <= backoff(crashes)
                assert left > backoff(crashes) - 1.0
                site.journal.change(execution_id, ready_at=row.now, due_at=row.now)

        row = site.journal.wait_for(execution_id, "failed")
        assert row.crashes == MAX_CRASHES
        assert len(site.names("a")) == MAX_CRASHES
        failure = Failure.decode(row.error)
        assert failure.type == "flask_durable.errors.AttemptCrashed"
        assert "died 10 times in a row without a new outcome" in failure.message
        site.settle()
        assert site.post("/four", "b").status_code == 200


def crashed(site: Shop, execution_id: str, times: int) -> t.Any:
    """Give the row once so many crashes are counted, but not if it runs again."""
    row = site.journal.row(execution_id)
    waits = row.status == "suspended" or times == 1
    return row if row.crashes == times and waits else None
