"""What every test may ask for: databases, an app, the extension, a client."""

from __future__ import annotations

import collections.abc as cabc
import os
import pathlib
import shutil
import signal
import types
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import schema
from flask_durable.database import Database
from flask_durable.store import Store

from . import servers
from .driving import Drive


def pytest_configure() -> None:
    """Put folders into memory; let fixtures stop servers when tests are terminated."""
    if folder := servers.memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))

    main = os.getpid()

    def end(number: int, frame: types.FrameType | None) -> t.NoReturn:
        if os.getpid() != main:
            os._exit(128 + number)

        pytest.exit("terminated", returncode=128 + number)

    signal.signal(signal.SIGTERM, end)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that nobody waits for the last of it alone."""
    for name in ("slow", "chaos"):
        items.sort(key=lambda item: item.get_closest_marker(name) is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> cabc.Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Escape what no encoding takes: processes of tests could not send it on."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode())
        for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def postgres_server() -> cabc.Iterator[servers.Postgres]:
    """Run one PostgreSQL server for all tests; one that stops it starts it again."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> cabc.Iterator[servers.Redis]:
    """Run one Redis server for all tests."""
    with servers.redis() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: servers.Postgres) -> cabc.Iterator[str]:
    """Make a PostgreSQL database with the journal's tables, to be copied."""
    with postgres_server.database() as url:
        make_tables(url)
        yield url.rpartition("/")[2]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Make a SQLite file with the journal's tables, to be copied."""
    path = tmp_path_factory.mktemp("template") / "journal.db"
    make_tables(f"sqlite:///{path}")
    return path


def make_tables(url: str) -> None:
    """Make the journal's tables, which takes longer than to copy them."""
    database = Database.open(url)
    schema.ensure(database, create=True)
    database.close()


@pytest.fixture
def has_tables(request: pytest.FixtureRequest) -> bool:
    """Whether a test finds the journal's tables made."""
    return request.node.get_closest_marker("no_tables") is None


@pytest.fixture
def postgres_url(
    request: pytest.FixtureRequest, postgres_server: servers.Postgres, has_tables: bool
) -> cabc.Iterator[str]:
    """Make a PostgreSQL database for this test alone."""
    name = "postgres_template"
    template = request.getfixturevalue(name) if has_tables else servers.EMPTY

    with postgres_server.database(template) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: servers.Redis) -> str:
    """Empty the Redis server for this test."""
    redis_server.clear()
    return redis_server.url


@pytest.fixture
def sqlite_url(
    tmp_path: pathlib.Path, sqlite_template: pathlib.Path, has_tables: bool
) -> str:
    """Name a SQLite file for this test alone."""
    path = tmp_path / "journal.db"

    if has_tables:
        shutil.copy(sqlite_template, path)

    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Make a database for this test alone, once of each kind."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
def database(database_url: str) -> cabc.Iterator[Database]:
    """Open a database of each kind."""
    database = Database.open(database_url)
    yield database
    database.close()


@pytest.fixture
def app(database_url: str, tmp_path: pathlib.Path) -> cabc.Iterator[Flask]:
    """Make an app whose journal is this test's database.

    The extension's threads and connections end with the test.
    """
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.config.update(
        DURABLE_DATABASE_URL=database_url,
        PROPAGATE_EXCEPTIONS=False,
        SECRET_KEY="tests",
        TESTING=True,
    )
    yield app

    if state := app.extensions.get("durable"):
        state.close()


@pytest.fixture
def durable(app: Flask) -> FlaskDurable:
    """Set up the extension."""
    return FlaskDurable(app)


@pytest.fixture
def store(database_url: str) -> cabc.Iterator[Store]:
    """Open a journal."""
    store = Store(Database.open(database_url))
    yield store
    store.database.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Give a client of the app."""
    return app.test_client()


@pytest.fixture
def drive(app: Flask, durable: FlaskDurable) -> Drive:
    """Give what carries executions to their end without threads or waiting."""
    return Drive(app)
