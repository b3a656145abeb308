"""Statements that libpq is given directly."""

from __future__ import annotations

import collections.abc as cabc
import math
import os
import signal
import threading
import typing as t

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from flask_durable.database import Database
from flask_durable.libpq import libpq_of
from flask_durable.libpq import Message
from flask_durable.sql import Bound
from flask_durable.sql import param
from flask_durable.sql import Statement

VALUES: dict[str, tuple[sa.types.TypeEngine[t.Any], list[t.Any]]] = {
    "text": (sa.Text(), [None, "", "Grüße 💺", "a%(b)s%%c", "'; --", "x" * 100_000]),
    "integer": (sa.Integer(), [None, 0, -1, 2**31 - 1, -(2**31), True]),
    "big": (sa.BigInteger(), [None, 0, 2**63 - 1, -(2**63)]),
    "double": (sa.Double(), [None, 0.1, -0.0, 1e308, 5e-324, math.inf, -math.inf, 3]),
    "bytes": (sa.LargeBinary(), [None, b"", b"\x00\xff", bytes(range(256))]),
}


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Have PostgreSQL alone."""
    return postgres_url


@pytest.fixture
def connection(database: Database) -> cabc.Iterator[sa.Connection]:
    """Take a connection of it."""
    with database.connect() as connection:
        yield connection


def echo(database: Database) -> Statement:
    """Give a statement whose row is its values, some of them twice."""
    given = [param(name, type_).label(name) for name, (type_, _) in VALUES.items()]
    one = sa.literal(1).label("one")
    more = [sa.true(), sa.cast(1, sa.SmallInteger()), sa.cast("x", sa.String(1))]
    return database.prepare(
        lambda: sa.select(*given, given[0].label("again"), one, *more)
    )


def kinds(row: t.Any) -> list[tuple[type, str]]:
    """Tell values apart that are equal, such as 0.0 and -0.0."""
    return [(type(value), repr(value)) for value in row]


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_by_a_cursor(
    database: Database, connection: sa.Connection, name: str
) -> None:
    """Each of the types that the journal's columns have."""
    statement = echo(database)
    link = libpq_of(connection)
    assert link is not None

    for value in VALUES[name][1]:
        bound = statement.bind(dict.fromkeys(VALUES, None) | {name: value})
        (direct,) = bound.run(connection, link)
        (usual,) = bound.run(connection)
        assert kinds(direct) == kinds(usual)
        assert direct._fields == usual._fields
        assert getattr(direct, name) == value


def test_no_number_stays_none(database: Database, connection: sa.Connection) -> None:
    """The database has a word for it."""
    bound = echo(database).bind(dict.fromkeys(VALUES, None) | {"double": math.nan})
    (row,) = bound.run(connection, libpq_of(connection))
    assert math.isnan(row.double)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("text", "a\0b", psycopg.DataError),
        ("text", "\ud800", UnicodeEncodeError),
        ("text", 7, TypeError),
        ("integer", 2**31, psycopg.DataError),
        ("integer", "7", psycopg.DataError),
        ("integer", 1.9, psycopg.DataError),
    ],
)
def test_what_the_database_does_not_take_is_refused(
    database: Database,
    connection: sa.Connection,
    name: str,
    value: t.Any,
    error: type[Exception],
) -> None:
    """It is not cut or changed, and the connection goes on."""
    bound = echo(database).bind(dict.fromkeys(VALUES, None) | {name: value})
    link = libpq_of(connection)

    with pytest.raises(error):
        bound.run(connection, link)

    good = echo(database).bind(dict.fromkeys(VALUES, None))
    assert len(good.run(connection, link)) == 1


def test_a_statement_without_rows_tells_how_many_it_wrote(
    database: Database, connection: sa.Connection
) -> None:
    """As by a cursor, and as where somebody listens."""
    connection.exec_driver_sql("CREATE TABLE seats (id integer, taken text)")
    seats = sa.table("seats", sa.column("id"), sa.column("taken"))
    insert = database.prepare(
        lambda: sa.insert(seats).values(id=param("id", sa.Integer()))
    )
    update = database.prepare(
        lambda: (
            sa.update(seats)
            .values(taken=param("by", sa.Text()))
            .where(seats.c.id < param("id", sa.Integer()))
        )
    )
    link = libpq_of(connection)

    for number in range(3):
        assert insert.bind({"id": number}).run(connection, link) == [()]

    bound = update.bind({"by": "ada", "id": 2})
    assert bound.run(connection, link) == bound.run(connection) == [(), ()]
    event.listen(database.engine, "before_cursor_execute", lambda *args: None)
    assert bound.run(connection, link) == [(), ()]
    assert update.bind({"by": "ada", "id": 0}).run(connection) == []


def test_a_statement_is_prepared_once_a_connection(database: Database) -> None:
    """Also if the connection was in the pool meanwhile."""
    statement = echo(database)
    bound = statement.bind(dict.fromkeys(VALUES, None))

    for _ in range(3):
        with database.connect() as connection:
            bound.run(connection, libpq_of(connection))
            names = connection.exec_driver_sql(
                "SELECT name FROM pg_prepared_statements WHERE name LIKE 'durable_%%'"
            )
            assert names.scalars().all() == [statement.form.message.key.decode()]


def test_what_the_server_forgot_is_prepared_again(database: Database) -> None:
    """A cursor of psycopg has it forget all after a ``ROLLBACK``; that is no outage."""
    statement = echo(database)
    bound = statement.bind(dict.fromkeys(VALUES, None))

    with database.connect() as connection:
        link = libpq_of(connection)
        bound.run(connection, link)
        connection.exec_driver_sql("DEALLOCATE ALL")
        assert len(bound.run(connection, link)) == 1
        connection.exec_driver_sql("DEALLOCATE ALL")
        assert len(bound.run(connection, link)) == 1


def test_a_new_connection_prepares_anew(database: Database) -> None:
    """What the other one had is gone with it."""
    bound = echo(database).bind(dict.fromkeys(VALUES, None))

    with database.connect() as connection:
        bound.run(connection, libpq_of(connection))
        connection.invalidate()
        assert len(bound.run(connection, libpq_of(connection))) == 1


def test_a_broken_connection_is_told_as_by_a_cursor(
    database: Database, connection: sa.Connection
) -> None:
    """Those who look for outages see one."""
    link = libpq_of(connection)
    bound = echo(database).bind(dict.fromkeys(VALUES, None))
    pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    with database.connect() as other:
        other.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)")

    with pytest.raises(psycopg.OperationalError) as caught:
        bound.run(connection, link)

    database.invalidate(connection, caught.value)
    assert database.note_outage(caught.value)
    assert getattr(caught.value, "connection_invalidated", False)


def test_an_error_has_its_sqlstate(
    database: Database, connection: sa.Connection
) -> None:
    """By which an outage is told from a mistake."""
    statement = database.prepare(
        lambda: sa.select(sa.literal_column("1") / param("zero", sa.Integer()))
    )

    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        statement.bind({"zero": 0}).run(connection, libpq_of(connection))

    assert caught.value.sqlstate == "22012"


@pytest.mark.parametrize("query", ["prepare_threshold=none", "client_encoding=latin1"])
def test_some_connections_keep_to_cursors(postgres_url: str, query: str) -> None:
    """A pooler without prepared statements, and another encoding."""
    database = Database.open(f"{postgres_url}?{query}")

    with database.connect() as connection:
        assert libpq_of(connection) is None
        bound = echo(database).bind(dict.fromkeys(VALUES, None) | {"text": "é"})
        assert bound.run(connection)[0].text == "é"

    database.close()


def test_who_traces_by_a_cursor_sees_all(postgres_url: str) -> None:
    """As tools do that give the driver a class of their own."""

    class Traced(psycopg.Cursor[t.Any]):
        pass

    engine = sa.create_engine(postgres_url, connect_args={"cursor_factory": Traced})
    database = Database.beside(engine)

    with database.connect() as connection:
        assert libpq_of(connection) is None

    database.close()


class Interrupted(BaseException):
    """What a signal's handler raises."""


def test_a_signal_is_heard_while_a_statement_waits(
    database: Database, connection: sa.Connection
) -> None:
    """As for a server's lock, or one that does not answer."""

    def interrupt(number: int, frame: object) -> t.NoReturn:
        raise Interrupted

    waits = sa.func.pg_advisory_lock(param("key", sa.BigInteger()))
    lock = database.prepare(lambda: sa.select(sa.literal(1)).where(waits.is_not(None)))
    link = libpq_of(connection)
    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))

    try:
        with database.connect() as other:
            other.exec_driver_sql("SELECT pg_advisory_lock(7)")
            timer.start()

            with pytest.raises(Interrupted):
                lock.bind({"key": 7}).run(connection, link)

            other.exec_driver_sql("SELECT pg_advisory_unlock(7)")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)

    connection.invalidate()


def test_sqlite_has_none(sqlite_url: str) -> None:
    """It has a driver of its own."""
    database = Database.open(sqlite_url)

    with database.connect() as connection:
        assert libpq_of(connection) is None

    database.close()


def test_threads_may_run_one_statement_at_once(database: Database) -> None:
    """What is found out at its first use is the same for all."""
    statement = echo(database)
    found: list[t.Any] = []
    ready = threading.Barrier(6)

    def run(number: int) -> None:
        with database.connect() as connection:
            link = libpq_of(connection)
            values = dict.fromkeys(VALUES, None) | {"integer": number}
            bound: Bound = statement.bind(values)
            ready.wait(10)
            found.extend(row.integer for row in bound.run(connection, link))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert sorted(found) == list(range(6))


def test_a_type_without_a_way_is_refused() -> None:
    """It would be sent as something else."""
    with pytest.raises(TypeError, match="no way to send Date"):
        Message("SELECT %(day)s", {"day": sa.Date()})
