"""The servers beside the tests do what the tests rely on."""

from __future__ import annotations

import os
import pathlib
import urllib.request

import psycopg
import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from . import servers
from .processes import accepts
from .processes import FlaskRun
from .processes import free_port
from .processes import Gunicorn
from .processes import Process
from .processes import wait_until

pytestmark = pytest.mark.no_tables

APP = """\
import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def pid():
    return str(os.getpid())
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Make a folder with a small app in it."""
    (tmp_path / "small.py").write_text(APP)
    return tmp_path


def read(url: str) -> str:
    """Fetch a page of a server on this host."""
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()

    return text


def scalar(url: str, query: str) -> object:
    """Ask a database one thing, on a connection of its own."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    with engine.connect() as connection:
        return connection.scalar(sa.text(query))


def test_postgres_answers(postgres_url: str) -> None:
    """A test's database is its own and has no tables."""
    assert scalar(postgres_url, "SELECT 1") == 1
    assert scalar(postgres_url, "SELECT current_database()") != "postgres"
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert scalar(postgres_url, tables) == 0


def test_postgres_databases_differ(postgres_server: servers.Postgres) -> None:
    """Each database is a new one, and gone afterwards."""
    with postgres_server.database() as one, postgres_server.database() as other:
        assert one != other

    with pytest.raises(OperationalError, match="does not exist"):
        scalar(one, "SELECT 1")


def test_postgres_outage(postgres_server: servers.Postgres, postgres_url: str) -> None:
    """What was committed is there after an outage."""
    plain = servers.psycopg_url(postgres_url)

    with psycopg.connect(plain) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")

    postgres_server.stop()
    assert not accepts(postgres_server.port)
    postgres_server.start()
    assert scalar(postgres_url, "SELECT number FROM kept") == 7


def test_postgres_crash_is_recovered(
    postgres_server: servers.Postgres, postgres_url: str
) -> None:
    """The server comes back by itself from an immediate stop."""
    postgres_server.restart("immediate")
    assert scalar(postgres_url, "SELECT 1") == 1


def test_redis_loses_everything(redis_server: servers.Redis, redis_url: str) -> None:
    """Redis answers, and has forgotten all at its next start."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
        client.set("key", "value")

    redis_server.restart()

    with redis.Redis.from_url(redis_url) as client:
        assert client.get("key") is None


def test_gunicorn_replaces_a_killed_worker(folder: pathlib.Path) -> None:
    """Workers are known by their ids, and a killed one has a successor."""
    with Gunicorn("small:app", folder, workers=2, config=None) as server:
        first, second = server.worker_pids()
        assert int(read(server.url)) in {first, second}
        server.kill_worker(first)
        wait_until(lambda: len(server.worker_pids()) == 2, what="a new worker")
        assert first not in server.worker_pids()


def test_gunicorn_starts_again_on_its_port(folder: pathlib.Path) -> None:
    """A server that was stopped or killed keeps its URL."""
    server = Gunicorn("small:app", folder, config=None)

    with server:
        old = server.master_pid
        assert server.stop() == 0
        server.start()
        assert server.master_pid != old
        assert server.kill() < 0
        server.start()
        assert int(read(server.url)) in server.worker_pids()

    assert not accepts(server.port)


def test_flask_run_with_the_reloader(folder: pathlib.Path) -> None:
    """The reloader's child serves, and ends with its parent."""
    with FlaskRun("small", folder, debug=True, reloader=True) as server:
        child = int(read(server.url))
        assert child in server.children()

    wait_until(lambda: not pathlib.Path("/proc", str(child)).exists(), what="end")


def test_program_that_fails_shows_its_output(tmp_path: pathlib.Path) -> None:
    """The error holds what the program wrote."""
    program = Gunicorn("nowhere:app", tmp_path, config=None)

    with pytest.raises(RuntimeError, match="ended before") as caught:
        program.start()

    assert "No module named 'nowhere'" in caught.value.__notes__[0]


def test_foreign_settings_are_kept_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program does not see the FLASK_ variables of whoever runs the tests."""
    monkeypatch.setenv("FLASK_DURABLE_LEASE", "99")
    program = Process(["env"], tmp_path, {"FLASK_MINE": "1"})
    assert "FLASK_DURABLE_LEASE" not in program.env
    assert program.env["FLASK_MINE"] == "1"
    assert program.env["PATH"] == os.environ["PATH"]


def test_free_port_is_not_an_outgoing_one() -> None:
    """Ports of outgoing connections are not used for servers."""
    assert all(free_port() < 32768 for _ in range(20))


def test_waiting_says_for_what() -> None:
    """The error names what did not happen."""
    with pytest.raises(TimeoutError, match="0.05 s: the cows come home"):
        wait_until(lambda: False, 0.05, "the cows come home")
