"""The journal's tables, and those of another version."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import contextlib
import multiprocessing
import pathlib
import re
import threading
import typing as t

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from flask_durable import schema
from flask_durable.database import Database
from flask_durable.errors import SchemaError
from flask_durable.tables import metadata
from flask_durable.tables import SCHEMA_VERSION

from . import servers

pytestmark = pytest.mark.no_tables

OLDEST = "0001"

version = sa.table(schema.VERSION_TABLE, sa.column("version_num"))

PROCESSES = 8
ROUNDS = 3

barriers: list[threading.Barrier] = []


def tables(database: Database) -> set[str]:
    """Name the tables that are there."""
    return set(database.run(lambda c: sa.inspect(c).get_table_names()))


def set_version(database: Database, value: str) -> None:
    """Make the tables look like those of another version."""
    database.run(lambda c: c.execute(version.update().values(version_num=value)))


def test_missing_tables_are_made(database: Database) -> None:
    """All of them, with their version."""
    schema.ensure(database, True)
    assert tables(database) == {*metadata.tables, schema.VERSION_TABLE}
    found = database.run(lambda c: c.scalar(sa.select(version.c.version_num)))
    assert found == SCHEMA_VERSION


def test_tables_that_are_there_are_left_alone(database: Database) -> None:
    """Whether or not they may be made."""
    schema.ensure(database, True)
    schema.ensure(database, True)
    schema.ensure(database, False)
    rows = database.run(lambda c: c.execute(sa.select(version)).all())
    assert len(rows) == 1


def test_tables_that_may_not_be_made_are_missed(database: Database) -> None:
    """With what to run, and nothing is made."""
    with pytest.raises(SchemaError, match="no journal at .* run `flask durable upgra"):
        schema.ensure(database, False)

    assert tables(database) == set()


def make_old_tables(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tables of the first version."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA_VERSION", OLDEST)
        schema.ensure(database, True)


def test_older_tables_are_migrated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever may make tables, and the version found is given."""
    make_old_tables(database, monkeypatch)
    assert schema.ensure(database, True) == OLDEST
    assert schema.ensure(database, True) == SCHEMA_VERSION
    assert tables(database) == {*metadata.tables, schema.VERSION_TABLE}


def test_older_tables_that_may_not_be_migrated_are_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to run, and left as they are."""
    make_old_tables(database, monkeypatch)
    before = tables(database)
    advice = f"has schema {OLDEST}, and this flask_durable needs {SCHEMA_VERSION}: run"

    with pytest.raises(SchemaError, match=advice):
        schema.ensure(database, False)

    assert tables(database) == before


@pytest.mark.parametrize("create", [False, True])
def test_newer_tables_are_refused(database: Database, create: bool) -> None:
    """And left as they are."""
    schema.ensure(database, True)
    set_version(database, "9999")
    advice = "newer than this flask_durable's .*: upgrade the package here"

    with pytest.raises(SchemaError, match=advice):
        schema.ensure(database, create)

    with pytest.raises(SchemaError, match=advice):
        schema.script(database)

    rows = database.run(lambda c: c.execute(sa.select(version)).all())
    assert [row[0] for row in rows] == ["9999"]


def test_the_migrations_make_what_the_code_uses(database: Database) -> None:
    """Tables, columns, types and indexes are those of ``tables``."""
    schema.ensure(database, True)

    def compare(connection: sa.Connection) -> list[t.Any]:
        context = schema._context(connection, None, {})
        return list(compare_metadata(context, metadata))

    assert database.run(compare) == []


def test_the_newest_migration_is_our_version() -> None:
    """There is one line of them."""
    folder = str(schema.MIGRATIONS)
    found = ScriptDirectory(folder, version_locations=[folder])
    assert found.get_heads() == [SCHEMA_VERSION]


def test_the_advice_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are read by many."""
    database = Database.open("postgresql+psycopg://ada:hunter2@host/db")
    monkeypatch.setattr(database, "run", lambda work: None)

    with pytest.raises(SchemaError, match="ada:[*]+@host/db"):
        schema.ensure(database, False)


@pytest.mark.parametrize("old", [False, True])
def test_the_script_makes_the_tables(
    database: Database, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """As ``flask durable upgrade --sql`` prints them, from what is there."""
    if old:
        make_old_tables(database, monkeypatch)

    text = schema.script(database)
    assert ("CREATE TABLE durable_executions" in text) is not old

    def run(connection: sa.Connection) -> None:
        for statement in text.split(";"):
            if code := re.sub("--.*", "", statement).strip():
                connection.exec_driver_sql(code)

    database.run(run)
    schema.ensure(database, False)
    assert tables(database) == {*metadata.tables, schema.VERSION_TABLE}


def test_there_is_no_script_for_what_is_done(database: Database) -> None:
    """Nothing would be done twice."""
    schema.ensure(database, True)
    assert schema.script(database) == ""


def test_tables_are_made_at_once_or_not_at_all(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies half-way leaves an empty database."""
    with monkeypatch.context() as patch:
        patch.setattr(Operations, "create_index", interrupt)

        with pytest.raises(KeyboardInterrupt):
            schema.ensure(database, True)

    assert tables(database) == set()
    schema.ensure(database, True)


def interrupt(*arguments: t.Any, **options: t.Any) -> None:
    """Be stopped."""
    raise KeyboardInterrupt


def take_part(barrier: threading.Barrier) -> None:
    """Begin as a process that others wait for."""
    barriers.append(barrier)


def make_tables(url: str) -> str:
    """Make the tables at the same moment as other processes, and say how it went."""
    database = Database.open(url)
    barriers[0].wait(30)

    try:
        schema.ensure(database, True)
        return "made"
    except Exception as error:
        return repr(error)
    finally:
        database.close()


@pytest.fixture(scope="module")
def processes() -> cabc.Iterator[concurrent.futures.Executor]:
    """Run processes that do a thing at the same moment."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)

    with concurrent.futures.ProcessPoolExecutor(
        PROCESSES, context, take_part, (barrier,)
    ) as pool:
        yield pool


def race(pool: concurrent.futures.Executor, urls: cabc.Sequence[str]) -> list[str]:
    """Have all processes use each database at once."""
    return [
        said
        for url in urls
        for said in pool.map(make_tables, [url] * PROCESSES, timeout=60)
    ]


@pytest.mark.slow
def test_processes_make_the_tables_of_a_file_at_the_same_moment(
    processes: concurrent.futures.Executor, tmp_path: pathlib.Path
) -> None:
    """One makes them, the others wait for it; the file is new for all."""
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(3 * ROUNDS)]
    assert race(processes, urls) == ["made"] * PROCESSES * 3 * ROUNDS


@pytest.mark.slow
def test_processes_make_the_tables_of_a_server_at_the_same_moment(
    processes: concurrent.futures.Executor, postgres_server: servers.Postgres
) -> None:
    """One makes them, the others wait for it."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(postgres_server.database()) for _ in range(ROUNDS)]
        assert race(processes, urls) == ["made"] * PROCESSES * ROUNDS
