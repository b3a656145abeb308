"""The shop under gunicorn: what was begun is finished, whatever is killed."""

from __future__ import annotations

import collections.abc as cabc
import os
import pathlib
import signal
import statistics
import time
import typing as t

import pytest

from .. import servers
from ..processes import wait_until
from .sites import new_order
from .sites import Shop
from .sites import shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

NOTICED = 3.5
"""Seconds until a killed process's work goes on; 2 are promised, tests may be slow."""

CONFIGURATIONS: dict[str, dict[str, t.Any]] = {
    "sync": {"worker_class": "sync"},
    "sync-preload": {"worker_class": "sync", "preload": True},
    "gthread": {"worker_class": "gthread", "threads": 4},
    "gthread-preload": {"worker_class": "gthread", "threads": 4, "preload": True},
    "gevent": {"worker_class": "gevent"},
    "gevent-preload": {"worker_class": "gevent", "preload": True},
    "postgresql": {"worker_class": "gthread", "threads": 4},
}


WORKER_CLASSES = ["sync", "gthread", "gevent"]

everywhere = pytest.mark.parametrize(
    "running_shop", CONFIGURATIONS, indirect=True, scope="module"
)
with_sqlite = pytest.mark.parametrize(
    "running_shop", list(CONFIGURATIONS)[:-1], indirect=True, scope="module"
)
without_preload = pytest.mark.parametrize(
    "running_shop", WORKER_CLASSES, indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def running_shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> cabc.Iterator[Shop]:
    """Run the shop in one configuration for all tests of this module."""
    folder = tmp_path_factory.mktemp(request.param)
    options = CONFIGURATIONS[request.param]

    if request.param == "postgresql":
        server: servers.Postgres = request.getfixturevalue("postgres_server")

        with server.database() as url, shop(folder, url, **options) as site:
            yield site
    else:
        with shop(folder, f"sqlite:///{folder}/journal.db", **options) as site:
            yield site


@pytest.fixture
def site(running_shop: Shop) -> cabc.Iterator[Shop]:
    """Give the shop with both of its workers ready, and show what it wrote."""
    running_shop.settle()
    before = len(running_shop.gunicorn.log())
    yield running_shop
    print(running_shop.gunicorn.log()[before:])


@pytest.fixture
def order() -> str:
    """Name this test's order."""
    return new_order()


@everywhere
def test_a_view_without_trouble_answers_at_once(site: Shop, order: str) -> None:
    """The response is the view's own, and each step ran once."""
    answer = site.post("/four", order)
    assert (answer.status_code, answer.json()) == (200, ["one", "two", "three", "four"])
    row = site.journal.row(answer.headers["Durable-Execution"])
    assert (row.status, row.attempt, row.crashes) == ("completed", 1, 0)
    assert site.names(order) == ["one", "two", "three", "four"]


@without_preload
def test_an_async_view_answers_at_once(site: Shop, order: str) -> None:
    """Async views and async steps run under each kind of worker."""
    answer = site.post("/async", order)
    assert (answer.status_code, answer.json()) == (200, ["one", "two", "three", "four"])
    assert site.names(order) == ["one", "two", "three", "four"]


@without_preload
def test_async_steps_may_run_at_once(site: Shop, order: str) -> None:
    """Each has an event loop of its own."""
    answer = site.post("/async-map", order)
    assert (answer.status_code, answer.json()) == (200, ["one", "two", "three"])
    assert sorted(site.names(order)) == ["one", "three", "two"]


@without_preload
def test_the_dispatcher_holds_no_request_up(site: Shop, order: str) -> None:
    """Ordinary pages are answered in no time while the dispatcher waits for work."""

    def seconds() -> float:
        began = time.monotonic()
        site.get("/pid")
        return time.monotonic() - began

    assert statistics.median(seconds() for _ in range(15)) < 0.2


@everywhere
def test_a_retry_is_finished_in_the_background(site: Shop, order: str) -> None:
    """The client gets 202, and nobody has to ask for the rest to happen."""
    answer = site.post("/retry", order)
    assert answer.status_code == 202
    site.journal.wait_for(answer.headers["Durable-Execution"])
    final = site.get(answer.json()["response_url"])
    assert (final.status_code, final.json()) == (200, ["first", "pay", "last"])
    assert site.names(order) == ["first", "pay", "pay", "last"]


@without_preload
def test_a_sleep_is_finished_in_the_background(site: Shop, order: str) -> None:
    """It neither ends early nor much too late."""
    answer = site.post("/sleep", order, nap=1, seconds=0)
    assert answer.status_code == 202
    site.journal.wait_for(answer.headers["Durable-Execution"])
    first, slow = site.called(order)
    assert (first.name, slow.name) == ("first", "slow")
    assert 1.0 <= slow.at - first.at < 2.5


@without_preload
def test_branches_are_finished_in_the_background(site: Shop, order: str) -> None:
    """The branch that failed is tried again alone."""
    answer = site.post("/parallel", order, seconds=0.1)
    assert answer.status_code == 202
    site.journal.wait_for(answer.headers["Durable-Execution"])
    final = site.get(answer.json()["response_url"])
    assert final.json() == ["flight", "hotel", "car", "confirm"]
    names = site.names(order)
    assert sorted(names) == ["car", "confirm", "flight", "hotel", "hotel"]
    assert names[-1] == "confirm"


@everywhere
def test_a_killed_worker_is_succeeded_at_once(site: Shop, order: str) -> None:
    """Another worker goes on at the step that was under way."""
    answer = site.post_in_background("/dies", order)
    killed = site.wait_for_call(order, "pay")
    again = site.wait_for_call(order, "pay", 2)
    row = site.journal.wait_for(killed.execution)
    assert site.names(order) == ["first", "pay", "pay", "last"]
    assert again.pid != killed.pid
    assert again.at - killed.at < NOTICED
    assert row.attempt == 2
    wait_until(answer.done, what="the client notices")
    assert answer.exception() is not None


@everywhere
def test_a_killed_server_goes_on_at_its_next_start(site: Shop, order: str) -> None:
    """What ran and what slept goes on before any request comes."""
    sleeping = site.post("/sleep", f"{order}-sleeping", nap=1.5, seconds=0)
    site.post_in_background("/slow", f"{order}-running", seconds=2)
    running = site.wait_for_call(f"{order}-running", "slow")
    site.gunicorn.kill()
    row = site.journal.row(running.execution)
    assert (row.status, row.attempt) == ("running", 1)

    site.gunicorn.start()
    began = time.monotonic()
    again = site.wait_for_call(f"{order}-running", "slow", 2)
    assert again.at - began < NOTICED
    site.journal.wait_for(running.execution)
    site.journal.wait_for(sleeping.headers["Durable-Execution"])
    assert site.names(f"{order}-sleeping") == ["first", "slow"]
    assert site.names(f"{order}-running") == ["first", "slow", "slow", "last"]


@without_preload
def test_a_stop_waits_for_a_request(site: Shop, order: str) -> None:
    """SIGTERM lets a slow step end, and the client gets its response."""
    answer = site.post_in_background("/slow", order, seconds=1.5)
    slow = site.wait_for_call(order, "slow")
    assert site.gunicorn.stop() == 0
    row = site.journal.row(slow.execution)
    assert (row.status, row.crashes) == ("completed", 0)
    assert site.names(order) == ["first", "slow", "last"]
    assert answer.result(5).json() == ["first", "slow", "last"]


@with_sqlite
def test_a_stop_waits_for_a_replay(site: Shop, order: str) -> None:
    """SIGTERM lets the slow step of a replay end, or hands the rest over."""
    site.post("/sleep", order, nap=0.2, seconds=1.5)
    slow = site.wait_for_call(order, "slow")
    assert site.gunicorn.stop() == 0
    row = site.journal.row(slow.execution)
    assert row.status in ("completed", "suspended")
    assert row.crashes == 0

    site.gunicorn.start()
    site.journal.wait_for(slow.execution)
    assert site.names(order) == ["first", "slow"]


@without_preload
def test_a_stop_without_work_takes_no_time(site: Shop, order: str) -> None:
    """Threads that wait for work hold no worker up."""
    began = time.monotonic()
    assert site.gunicorn.stop() == 0
    assert time.monotonic() - began < 4.5


@with_sqlite
def test_a_reload_disturbs_nothing(site: Shop, order: str) -> None:
    """HUP replaces the workers; what ran there ends, what slept goes on."""
    old = set(site.gunicorn.worker_pids())
    site.post("/sleep", f"{order}-sleeping", nap=0.5, seconds=0)
    answer = site.post_in_background("/slow", f"{order}-running", seconds=1)
    slow = site.wait_for_call(f"{order}-running", "slow")
    os.kill(site.gunicorn.master_pid, signal.SIGHUP)
    slept = site.wait_for_call(f"{order}-sleeping", "slow")
    wait_until(lambda: not old & set(site.gunicorn.worker_pids()), 15, "new workers")

    for execution_id in (slow.execution, slept.execution):
        assert site.journal.wait_for(execution_id).crashes == 0

    assert answer.result(5).status_code == 200
    assert site.names(f"{order}-sleeping") == ["first", "slow"]
    assert site.names(f"{order}-running") == ["first", "slow", "last"]


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
def test_workers_that_live_short_lose_nothing(
    tmp_path: pathlib.Path, worker_class: str
) -> None:
    """With ``max_requests`` each worker ends after a few requests, in good order."""
    env = {"GUNICORN_CMD_ARGS": "--max-requests=3"}
    url = f"sqlite:///{tmp_path}/journal.db"
    settings = shop_settings(url) | env

    with shop(tmp_path, url, settings, worker_class=worker_class) as site:
        orders = [new_order() for _ in range(12)]
        answers = [site.post("/sleep", o, nap=0.3, seconds=0.3) for o in orders]
        rows = [
            site.journal.wait_for(answer.headers["Durable-Execution"])
            for answer in answers
        ]

    assert [row.crashes for row in rows] == [0] * len(orders)
    assert [site.names(order) for order in orders] == [["first", "slow"]] * len(orders)


def shop_settings(url: str) -> dict[str, str]:
    """Give no more than the shop needs."""
    return {"FLASK_DURABLE_DATABASE_URL": url, "FLASK_SECRET_KEY": "tests"}


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
def test_a_worker_that_exits_hands_back_what_it_ran(
    tmp_path: pathlib.Path, worker_class: str
) -> None:
    """After a quick stop nothing says that it runs, though nobody could look."""
    url = f"sqlite:///{tmp_path}/journal.db"

    with shop(tmp_path, url, workers=1, worker_class=worker_class) as site:
        site.post_in_background("/slow", "a", seconds=20)
        slow = site.wait_for_call("a", "slow")
        os.kill(site.gunicorn.master_pid, signal.SIGQUIT)
        row = site.journal.wait_for(slow.execution, "suspended", 4)
        assert row.ready_at <= row.now
        # gthread's pool would keep it until the step ends.
        site.gunicorn.kill()

        site.gunicorn.start()
        site.journal.wait_for(slow.execution)

    assert site.names("a") == ["first", "slow", "slow", "last"]


CONFIG_FILE = """\
import flask_durable.gunicorn
from flask_durable.gunicorn import post_worker_init, worker_exit

flask_durable.gunicorn.EXIT_GRACE = 0.5
"""


def test_a_replay_that_takes_too_long_is_handed_back(tmp_path: pathlib.Path) -> None:
    """A configuration file of one's own may take the hooks over."""
    url = f"sqlite:///{tmp_path}/journal.db"
    config = tmp_path / "conf.py"
    config.write_text(CONFIG_FILE)

    with shop(tmp_path, url, workers=1, config=str(config)) as site:
        site.post("/sleep", "a", nap=0.2, seconds=8)
        slow = site.wait_for_call("a", "slow")
        began = time.monotonic()
        assert site.gunicorn.stop() == 0
        assert time.monotonic() - began < 7
        row = site.journal.row(slow.execution)
        assert (row.status, row.crashes) == ("suspended", 0)
        assert row.ready_at <= row.now
