"""The shop behind PgBouncer in transaction mode, where a session is nobody's own."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import os
import re
import time

import pytest

from flask_durable.database import Database

from .. import servers
from .sites import new_order
from .sites import SECRET_KEY
from .sites import Shop
from .sites import shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

UNPREPARED = "?prepare_threshold=none"

LEASE = 1.0

ORDERS = 8

SHAPES = {
    "/four": ["one", "two", "three", "four"],
    "/parallel": ["car", "confirm", "flight", "hotel", "hotel"],
    "/sleep": ["first", "slow"],
    "/retry": ["first", "last", "pay", "pay"],
}
"""The calls of each view, sorted where their order is not fixed."""


class Pooled:
    """A database that is reached through PgBouncer, and its server's log."""

    def __init__(
        self, server: servers.Postgres, pool: servers.PgBouncer, direct: str
    ) -> None:
        self.direct = direct
        self.url = pool.url(direct)
        self._log = server.directory / "postgres.log"
        self.forget_errors()

    def forget_errors(self) -> None:
        """Begin to look for errors here."""
        self._before = self._log.stat().st_size

    def errors(self) -> list[str]:
        """List what the server has complained of."""
        text = self._log.read_text()[self._before :]
        return re.findall(r"(?:ERROR|FATAL|WARNING):  (.*)", text)


@pytest.fixture(scope="module")
def running_pool(
    postgres_server: servers.Postgres, tmp_path_factory: pytest.TempPathFactory
) -> cabc.Iterator[Pooled]:
    """Put a PgBouncer before a database; two connections serve all."""
    if servers.pgbouncer_path() is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("There is no pgbouncer: install it, as in `apt-get install pgbouncer`.")

    folder = tmp_path_factory.mktemp("pgbouncer")

    with postgres_server.database() as url:
        with servers.PgBouncer(folder, postgres_server, size=2) as pool:
            yield Pooled(postgres_server, pool, url)


@pytest.fixture(scope="module")
def running_shop(
    running_pool: Pooled, tmp_path_factory: pytest.TempPathFactory
) -> cabc.Iterator[Shop]:
    """Run the shop, two workers with four threads each, behind PgBouncer."""
    env = {
        "FLASK_DURABLE_DATABASE_URL": running_pool.url + UNPREPARED,
        "FLASK_DURABLE_LEASE": str(LEASE),
        "FLASK_SECRET_KEY": SECRET_KEY,
    }
    folder = tmp_path_factory.mktemp("shop")
    options = {"worker_class": "gthread", "threads": 4}

    with shop(folder, running_pool.direct, env, **options) as site:
        yield site


@pytest.fixture
def pooled(running_pool: Pooled) -> Pooled:
    """Give the database behind PgBouncer, without a complaint so far."""
    running_pool.forget_errors()
    return running_pool


@pytest.fixture
def site(running_shop: Shop) -> cabc.Iterator[Shop]:
    """Give the shop with both of its workers ready, and show what it wrote."""
    running_shop.settle()
    before = len(running_shop.gunicorn.log())
    yield running_shop
    print(running_shop.gunicorn.log()[before:])


def test_everything_is_completed(site: Shop, pooled: Pooled) -> None:
    """Many at once, of each kind, and the server has nothing to complain of."""
    orders = {new_order(): path for path in SHAPES for _ in range(ORDERS)}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda o: buy(site, orders[o], o), orders))

    rows = [site.journal.wait_for(answer, timeout=30) for answer in answers]
    assert {row.crashes for row in rows} == {0}

    for order, path in orders.items():
        names = site.names(order)
        assert (names if path == "/four" else sorted(names)) == SHAPES[path]

    assert 1 <= clients(site) <= 2
    assert pooled.errors() == []
    assert "can't be used" not in site.gunicorn.log()


def clients(site: Shop) -> int:
    """Count the connections to the database at its server, but for our own."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )

    with site.journal.engine.connect() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


def buy(site: Shop, path: str, order: str) -> str:
    """Begin an execution, and give its id."""
    answer = site.post(path, order, nap=0.5, seconds=0.1)
    assert answer.status_code in (200, 202)
    return answer.headers["Durable-Execution"]


def test_a_killed_worker_is_succeeded(site: Shop, pooled: Pooled) -> None:
    """What it had under way goes on; its connections were the pool's."""
    orders = [new_order() for _ in range(2)]

    for order in orders:
        # One after the other: a killed worker takes all its requests along.
        site.post_in_background("/dies", order)
        row = site.journal.wait_for(site.wait_for_call(order, "pay", 2).execution)
        assert (row.attempt, site.names(order)) == (2, ["first", "pay", "pay", "last"])
        site.settle()

    assert pooled.errors() == []


def test_an_outage_is_waited_for(
    site: Shop, pooled: Pooled, postgres_server: servers.Postgres
) -> None:
    """PgBouncer finds the database again soon enough; the step goes on."""
    answer = site.post_in_background("/slow", "a", seconds=4)
    slow = site.wait_for_call("a", "slow")
    postgres_server.stop()
    time.sleep(2 * LEASE)
    postgres_server.start()
    assert answer.result(30).json() == ["first", "slow", "last"]
    row = site.journal.row(slow.execution)
    assert (row.status, row.attempt, row.crashes) == ("completed", 1, 0)
    assert site.names("a") == ["first", "slow", "last"]


@pytest.mark.parametrize("parameter", ["", UNPREPARED])
def test_prepared_statements_are_what_has_to_be_turned_off(
    pooled: Pooled, parameter: str
) -> None:
    """One client's are in another's way, as a connection serves both."""
    databases = [Database.open(pooled.url + parameter) for _ in range(2)]

    for _ in range(20):
        for number, database in enumerate(databases):
            query = f"SELECT {number}"
            database.run(lambda c: c.exec_driver_sql(query))  # noqa: B023

    for database in databases:
        database.close()

    troubled = any(database.troubled_at for database in databases)
    assert bool(pooled.errors()) == troubled == (parameter == "")
    assert all("prepared statement" in error for error in pooled.errors())
