"""Connections to the journal: statements, outages, transactions, secrets."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import copy
import logging
import os
import pathlib
import sqlite3
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from flask_durable import clock
from flask_durable import database as module
from flask_durable import engines
from flask_durable.database import Database
from flask_durable.errors import ConfigError
from flask_durable.errors import JournalUnavailable
from flask_durable.shared import shared_transaction
from flask_durable.sql import db_now
from flask_durable.sql import param
from flask_durable.sql import say
from flask_durable.sql import Statement

SECRET = "hunter2"

ASKED = sa.select(param("a", sa.Text()), param("b", sa.Integer()))


@pytest.fixture
def file(sqlite_url: str) -> cabc.Iterator[Database]:
    """Open a SQLite file."""
    database = Database.open(sqlite_url)
    yield database
    database.close()


class Clock:
    """A clock that only sleeping turns."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self.on_sleep: cabc.Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Turn the clock."""
        self.pauses.append(seconds)
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the process's clock."""
    made = Clock()
    monkeypatch.setattr(clock, "boottime", lambda: made.now)
    monkeypatch.setattr(clock, "sleep", made.sleep)
    return made


def refused(message: str = "connection refused") -> exc.OperationalError:
    """Make the error of a server that is away."""
    return exc.OperationalError("SELECT 1", {}, Exception(message))


class Work:
    """Work that fails with these errors, then gives a value."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, connection: sa.Connection) -> str:
        self.calls += 1

        if self.errors:
            raise self.errors.pop(0)

        return "done"


# Statements


def test_a_statement_is_run_with_its_parameters(database: Database) -> None:
    """In any order, each with its type."""
    statement = database.prepare(lambda: ASKED)
    rows = database.run(lambda c: statement(c, b=7, a="x"))
    assert [tuple(row) for row in rows] == [("x", 7)]


@pytest.mark.parametrize(
    "values", [{}, {"a": "x"}, {"a": "x", "b": 1, "c": 2}, {"a": "x", "p_b": 1}]
)
def test_a_statement_refuses_wrong_parameters(
    database: Database, values: dict[str, t.Any]
) -> None:
    """One too few or too many, by name; the database isn't asked."""
    statement = database.prepare(lambda: ASKED)

    with pytest.raises(TypeError, match="needs .*'a'.* got .*SELECT"):
        database.run(lambda c: statement(c, **values))


def test_a_statement_keeps_its_constants(database: Database) -> None:
    """They are parameters too, which nobody gives."""
    statement = database.prepare(
        lambda: sa.select(sa.literal(5) + param("a", sa.Integer()))
    )
    assert database.run(lambda c: statement(c, a=2))[0][0] == 7


def test_values_are_never_part_of_the_text(database: Database) -> None:
    """Whatever is in them."""
    value = "'; DROP TABLE x; -- %s %(a)s :a ?"
    statement = database.prepare(lambda: sa.select(param("a", sa.Text())))
    assert database.run(lambda c: statement(c, a=value))[0][0] == value


def test_the_databases_clock_is_in_seconds(database: Database) -> None:
    """Since the epoch, with fractions."""
    statement = database.prepare(lambda: sa.select(db_now()))
    found = [database.run(lambda c: statement(c))[0][0] for _ in range(2)]
    assert found[0] == pytest.approx(time.time(), abs=60)
    assert found[0] <= found[1]
    assert isinstance(found[0], float)


def test_the_databases_clock_stands_still_in_a_statement(database: Database) -> None:
    """All rows of a sweep are compared with one time."""
    statement = database.prepare(lambda: sa.select(db_now() - db_now()))
    assert database.run(lambda c: statement(c))[0][0] == 0


# Outages

OUTAGES = {
    "refused": refused(),
    "locked": refused("database is locked"),
    "full": refused("database or disk is full"),
    "no-file": refused("unable to open database file"),
    "interface": exc.InterfaceError("", {}, Exception("connection already closed")),
    "pool": exc.TimeoutError("QueuePool limit reached"),
}

MISTAKES = {
    "no-table": refused("no such table: x"),
    "no-column": refused("no such column: x"),
    "syntax": refused('near "x": syntax error'),
    "unique": exc.IntegrityError("", {}, Exception("UNIQUE constraint failed")),
    "programming": exc.ProgrammingError("", {}, Exception("relation is missing")),
    "value": ValueError("no"),
}


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_is_waited_for(file: Database, turned: Clock, name: str) -> None:
    """The work is done again when the database is back."""
    work = Work(*[OUTAGES[name]] * 5)
    assert file.run(work, patience=30) == "done"
    assert work.calls == 6


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_without_patience_is_tried_twice(
    file: Database, turned: Clock, name: str
) -> None:
    """A connection may be old and broken, so a new one is tried at once."""
    work = Work(*[OUTAGES[name]] * 5)

    with pytest.raises(JournalUnavailable, match="The journal at sqlite:.* can't be"):
        file.run(work)

    assert (work.calls, sum(turned.pauses)) == (2, 0)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_raised_as_it_is(file: Database, name: str) -> None:
    """Waiting would not help."""
    work = Work(MISTAKES[name])

    with pytest.raises(type(MISTAKES[name])) as caught:
        file.run(work, patience=30)

    assert caught.value is MISTAKES[name]
    assert (work.calls, file.troubled_at) == (1, None)


def test_a_lost_connection_is_an_outage(file: Database, turned: Clock) -> None:
    """Whatever class the driver's error has."""
    lost = exc.DBAPIError("", {}, Exception("gone"), connection_invalidated=True)
    assert file.run(Work(lost)) == "done"


@pytest.mark.parametrize("state", sorted(module.PASSING))
def test_what_a_new_connection_may_be_spared_is_an_outage(
    file: Database, turned: Clock, state: str
) -> None:
    """As after a failover to a standby that is not yet promoted."""
    reason = Exception("passing")
    setattr(reason, "sqlstate", state)  # noqa: B010
    assert file.run(Work(exc.InternalError("", {}, reason))) == "done"


def test_a_connection_is_not_used_again_after_an_error(database: Database) -> None:
    """Whatever state it is in."""
    seen: list[t.Any] = []

    def fail(connection: sa.Connection) -> None:
        seen.append(connection.connection.dbapi_connection)
        connection.exec_driver_sql("SELECT * FROM missing")

    for _ in range(2):
        with pytest.raises(exc.DBAPIError, match="missing"):
            database.run(fail)

    assert seen[0] is not seen[1]


def test_no_connection_is_used_that_is_as_old_as_a_broken_one(
    postgres_url: str,
) -> None:
    """A server that ends ends all of them, and is asked once more."""
    database = Database.open(postgres_url)
    query = database.prepare(lambda: sa.select(sa.func.pg_backend_pid().label("pid")))
    kept = [database.engine.connect() for _ in range(5)]
    pids = [query(each)[0].pid for each in kept]

    for each in kept:
        each.close()

    with sa.create_engine(postgres_url, poolclass=sa.NullPool).begin() as other:
        end = sa.text("SELECT pg_terminate_backend(:pid, 5000)")
        other.execute(end, [{"pid": pid} for pid in pids])

    seen: list[int] = []

    def ask(connection: sa.Connection) -> int:
        seen.append(0)
        return int(query(connection)[0].pid)

    assert database.run(ask) not in pids
    assert len(seen) == 2
    database.close()


def test_pauses_grow_to_a_second(file: Database, turned: Clock) -> None:
    """None before the first repetition."""
    file.run(Work(*[refused()] * 8), patience=30)
    assert turned.pauses == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_patience_ends(file: Database, turned: Clock) -> None:
    """Not a pause later than it was promised."""
    with pytest.raises(JournalUnavailable, match="connection refused"):
        file.run(Work(*[refused()] * 99), patience=10)

    assert 9 <= sum(turned.pauses) <= 10


def test_a_closed_database_refuses_work(file: Database) -> None:
    """Nothing is connected again behind one's back."""
    file.close()

    with pytest.raises(JournalUnavailable, match="journal.db was closed"):
        file.run(Work())


def test_whoever_waits_gives_up_when_it_is_closed(
    file: Database, turned: Clock
) -> None:
    """A process that ends does not wait for a database that is away."""
    turned.on_sleep = file.close

    with pytest.raises(JournalUnavailable, match="was closed"):
        file.run(Work(*[refused()] * 99), patience=30)

    assert len(turned.pauses) == 1


def test_trouble_is_remembered(file: Database, turned: Clock) -> None:
    """A sweeper that saw an error waits before it takes over a lease."""
    assert file.steady_for(10, since=990)
    assert not file.steady_for(10, since=991)
    file.run(Work(refused()))
    assert not file.steady_for(10, since=0)
    turned.now += 10
    assert file.steady_for(10, since=0)
    assert not file.steady_for(10, since=1009)


def test_an_outage_says_what_is_wrong_with_a_folder(tmp_path: pathlib.Path) -> None:
    """It is missing, and not made."""
    folder = tmp_path / "missing"
    database = Database.open(f"sqlite:///{folder}/journal.db")

    with pytest.raises(JournalUnavailable, match=f"Does the folder {folder} exist"):
        database.run(Work())

    assert not folder.exists()
    database.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: pathlib.Path) -> None:
    """No patience would make it one."""
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 100)
    database = Database.open(f"sqlite:///{path}")

    with pytest.raises(ConfigError, match=f"file {path} can't be the journal"):
        database.run(Work(), patience=60)

    assert path.read_text().startswith("Dear diary")
    database.close()


def test_an_outage_says_who_holds_a_file(
    file: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view of the app that writes to the same file."""
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.05)
    hasty = Database.open(sqlite_url)

    def write(connection: sa.Connection) -> None:
        with hasty.transaction(connection):
            pass

    with file.engine.connect() as holder, file.transaction(holder):
        with pytest.raises(JournalUnavailable, match="must commit before it calls a"):
            hasty.run(write)

    hasty.run(write)
    hasty.close()


# Transactions


def count(database: Database) -> int:
    """Count the rows."""
    query = "SELECT count(*) FROM notes"
    return int(database.run(lambda c: c.exec_driver_sql(query).scalar_one()))


@pytest.fixture
def notes(database: Database) -> Database:
    """Make a table."""
    database.run(lambda c: c.exec_driver_sql("CREATE TABLE notes (id INTEGER)"))
    return database


def insert(connection: sa.Connection) -> None:
    """Add a row."""
    connection.exec_driver_sql("INSERT INTO notes VALUES (1)")


def test_a_transaction_commits_all_at_once(notes: Database) -> None:
    """Nobody sees a half of it."""
    with notes.engine.connect() as connection:
        with notes.transaction(connection):
            insert(connection)
            insert(connection)
            assert count(notes) == 0

        assert count(notes) == 2


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_transaction_that_fails_leaves_nothing(
    notes: Database, error: BaseException
) -> None:
    """And after an error its connection can be used again."""
    with notes.engine.connect() as connection:
        with pytest.raises(type(error)):
            with notes.transaction(connection):
                insert(connection)
                raise error

        assert connection.invalidated is not isinstance(error, Exception)
        assert count(notes) == 0

        if not connection.invalidated:
            insert(connection)
            assert count(notes) == 1


def test_a_transaction_whose_connection_broke_raises_what_broke_it(
    notes: Database,
) -> None:
    """Not the error of a rollback that can't be sent."""
    with notes.engine.connect() as connection:
        with pytest.raises(ValueError, match="broken"):
            with notes.transaction(connection):
                insert(connection)
                connection.invalidate()
                raise ValueError("broken")

    assert count(notes) == 0


class Limit(BaseException):
    """A time limit, as gevent's."""


def interrupt(connection: sa.Connection, error: BaseException) -> None:
    """Send a statement, and have something raised in the wait for its answer."""
    driver: t.Any = connection.connection.dbapi_connection

    def wait(steps: cabc.Generator[t.Any, t.Any, t.Any], *args: t.Any) -> t.NoReturn:
        next(steps)
        driver.wait = type(driver).wait.__get__(driver)
        raise error

    driver.wait = wait
    driver.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("error", [Limit("2 s"), ValueError("2 s")])
@pytest.mark.parametrize("share", [False, True], ids=["our own", "a function's"])
def test_what_comes_in_the_middle_of_a_statement_is_raised(
    postgres_url: str, share: bool, error: BaseException
) -> None:
    """As it is: the error of a rollback that can't be sent would look like an outage,
    and have the work done again."""
    database = Database.open(postgres_url)
    calls: list[sa.Connection] = []

    def work(connection: sa.Connection) -> None:
        calls.append(connection)
        shared = shared_transaction(database, connection)

        with shared if share else database.transaction(connection):
            interrupt(connection, error)

    with pytest.raises(type(error), match="2 s"):
        database.run(work, patience=30)

    assert len(calls) == 1
    assert database.troubled_at is None
    assert database.run(lambda c: c.exec_driver_sql("SELECT 42").scalar()) == 42
    database.close()


@pytest.mark.parametrize("error", [ValueError("no"), refused()], ids=["ours", "its"])
def test_a_rollback_that_fails_hides_no_error(
    notes: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The connection is given up instead."""

    def fail(connection: sa.Connection, text: str) -> None:
        if text == "ROLLBACK":
            raise refused("can't roll back")

        say(connection, text)

    monkeypatch.setattr(module, "say", fail)

    with notes.engine.connect() as connection:
        with pytest.raises(type(error)) as caught, notes.transaction(connection):
            insert(connection)
            raise error

        assert caught.value is error
        assert connection.invalidated

    assert count(notes) == 0


def test_a_connection_that_ended_in_a_transaction_is_an_outage(
    postgres_url: str,
) -> None:
    """Whatever class the error of its last statement has: the work is done again."""
    database = Database.open(postgres_url)
    pids: list[int] = []

    def work(connection: sa.Connection) -> int:
        with database.transaction(connection, idle=1):
            cursor: t.Any = connection.connection.cursor()
            pids.append(cursor.execute("SELECT pg_backend_pid()").fetchone()[0])

            if len(pids) == 1:
                end = "SELECT pg_terminate_backend(pg_backend_pid())"
                cursor.execute(end)

        return len(pids)

    assert database.run(work) == 2
    assert database.broken_at is not None
    database.close()


def test_a_single_statement_commits_by_itself(notes: Database) -> None:
    """Without BEGIN and COMMIT."""
    with notes.engine.connect() as connection:
        insert(connection)
        assert count(notes) == 1


# Secrets


TABLE = sa.table("secrets", sa.column("id"), sa.column("value"))
INSERT = TABLE.insert().values(id=1, value=param("v", sa.Text())).returning(TABLE.c.id)


def test_an_error_does_not_show_parameters(database: Database) -> None:
    """Neither its text nor what it is shown as."""
    ddl = "CREATE TABLE secrets (id INTEGER PRIMARY KEY, value TEXT)"
    statement = database.prepare(lambda: INSERT)
    database.run(lambda c: c.exec_driver_sql(ddl))
    database.run(lambda c: statement(c, v=SECRET))

    with pytest.raises(database.errors, match="(?i)unique") as caught:
        database.run(lambda c: statement(c, v=SECRET))

    assert SECRET not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_no_log_shows_parameters_or_rows(
    database_url: str, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    """However much of SQLAlchemy's log an app asks for."""
    with caplog.at_level(level, "sqlalchemy"):
        database = Database.open(database_url)
        statement = database.prepare(lambda: sa.select(param("v", sa.Text())))
        assert database.run(lambda c: statement(c, v=SECRET))[0][0] == SECRET
        database.close()

    assert "SELECT" in caplog.text
    assert SECRET not in caplog.text


def test_an_outage_does_not_show_the_password(
    caplog: pytest.LogCaptureFixture, turned: Clock
) -> None:
    """Nobody listens there; the log says where, not with which password."""
    url = f"postgresql+psycopg://ada:{SECRET}@127.0.0.1:1/db"
    database = Database.open(url)

    with pytest.raises(JournalUnavailable, match="127.0.0.1:1/db") as caught:
        database.run(Work())

    assert SECRET not in str(caught.value) + caplog.text
    assert "***" in str(caught.value)
    database.close()


# Opening


def test_pooled_connections_have_their_pragmas(file: Database) -> None:
    """Each of them: a write-ahead log, and commits that wait for the disk."""
    with contextlib.ExitStack() as stack:
        for _ in range(engines.POOL_SIZE + 2):
            connection = stack.enter_context(file.engine.connect())
            found = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout")
            ]
            assert found == ["wal", 2, 10_000]


class Busy:
    """A SQLite connection whose file others are about to switch."""

    def __init__(self, message: str, times: int) -> None:
        self.message = message
        self.times = times

    def execute(self, statement: str) -> t.Self:
        """Be locked, so many times."""
        self.times -= 1

        if self.times >= 0:
            raise sqlite3.OperationalError(self.message)

        return self

    def close(self) -> None:
        """Close the cursor."""


def test_the_switch_to_a_write_ahead_log_waits_for_others(turned: Clock) -> None:
    """SQLite itself does not wait for its lock there."""
    connection = t.cast(t.Any, Busy("database is locked", 5))
    engines._set_pragmas(connection, None)
    assert len(turned.pauses) == 5


@pytest.mark.parametrize("message", ["database is locked", "disk I/O error"])
def test_a_switch_that_does_not_succeed_is_an_error(
    turned: Clock, message: str
) -> None:
    """After as long as for any lock, or at once if it is none."""
    connection = t.cast(t.Any, Busy(message, 10**6))

    with pytest.raises(sqlite3.OperationalError, match=message):
        engines._set_pragmas(connection, None)

    waited = engines.LOCK_TIMEOUT if "locked" in message else 0
    assert sum(turned.pauses) == pytest.approx(waited, abs=0.1)


def test_nothing_is_connected_before_its_first_use(tmp_path: pathlib.Path) -> None:
    """An app is made without its database."""
    Database.open(f"sqlite:///{tmp_path}/journal.db").close()
    assert list(tmp_path.iterdir()) == []


def test_another_driver_is_refused() -> None:
    """Before it fails in the middle of a request."""
    with pytest.raises(ConfigError, match=r"can't use psycopg2: write.*\+psycopg://"):
        Database.open("postgresql+psycopg2://ada@host/db")


def test_another_kind_of_database_is_refused() -> None:
    """With those that are taken."""
    with pytest.raises(ConfigError, match="can't live in 'mysql'.*PostgreSQL"):
        Database.open("mysql+pymysql://ada@host/db")


@pytest.mark.parametrize(
    "name", ["", "/:memory:", "/file::memory:?uri=true", "/file:x?mode=memory&uri=true"]
)
def test_a_database_in_memory_is_refused(name: str) -> None:
    """It would die with its connection."""
    with pytest.raises(ConfigError, match="in memory, .*: name a file"):
        Database.open(f"sqlite://{name}")


def raw(connection: sa.Connection) -> t.Any:
    """Give the driver's own connection."""
    return connection.connection.dbapi_connection


def test_the_url_may_say_how_to_connect(postgres_url: str) -> None:
    """What it has not is set to give up a silent server soon."""
    database = Database.open(f"{postgres_url}?connect_timeout=9&keepalives_idle=77")

    def parameters(connection: sa.Connection) -> dict[str, str]:
        return dict(raw(connection).info.get_parameters())

    found = database.run(parameters)
    assert (found["connect_timeout"], found["keepalives_idle"]) == ("9", "77")
    assert found["tcp_user_timeout"] == "10000"
    database.close()


@pytest.mark.parametrize(
    ("parameter", "wanted"),
    [("", 5), ("?prepare_threshold=7", 7), ("?prepare_threshold=none", None)],
)
def test_the_url_may_say_when_statements_are_prepared(
    postgres_url: str, parameter: str, wanted: int | None
) -> None:
    """The driver gets a number or nothing; the other settings stay."""
    database = Database.open(f"{postgres_url}{parameter}")

    def used(connection: sa.Connection) -> tuple[int | None, int]:
        for _ in range(10):
            connection.exec_driver_sql("SELECT 1")

        query = "SELECT count(*) FROM pg_prepared_statements"
        made = connection.exec_driver_sql(query).scalar_one()
        assert raw(connection).info.get_parameters()["connect_timeout"] == "5"
        return raw(connection).prepare_threshold, made

    assert database.run(used) == (wanted, 0 if wanted is None else 1)
    database.close()


def test_a_wrong_time_to_prepare_is_refused() -> None:
    """Before anything is connected."""
    url = "postgresql+psycopg://host/db?prepare_threshold=off"

    with pytest.raises(ConfigError, match="DURABLE_DATABASE_URL has .*'off'"):
        Database.open(url)


@pytest.mark.parametrize(
    ("silence", "connect", "user"),
    [(10, "5", "10000"), (0.25, "2", "250"), (3.5, "3", "3500")],
)
def test_a_silent_server_is_given_up(
    postgres_url: str, silence: float, connect: str, user: str
) -> None:
    """As soon as is wanted, but libpq takes no less than two seconds to connect."""
    database = Database.open(postgres_url, silence)
    found = database.run(lambda c: dict(raw(c).info.get_parameters()))
    assert (found["connect_timeout"], found["tcp_user_timeout"]) == (connect, user)
    database.close()


def test_a_url_without_a_driver_has_the_same_settings(postgres_url: str) -> None:
    """Where SQLAlchemy chooses psycopg for it, from 2.1 on."""
    url = postgres_url.replace("+psycopg", "")

    if sa.make_url(url).get_driver_name() != "psycopg":
        pytest.skip("this SQLAlchemy chooses another driver")

    database = Database.open(url)
    found = database.run(lambda c: dict(raw(c).info.get_parameters()))
    assert found["tcp_user_timeout"] == "10000"
    database.close()


def test_a_database_beside_an_apps_engine(database_url: str) -> None:
    """The same database, another pool, and the journal's own settings."""
    engine = sa.create_engine(database_url)
    database = Database.beside(engine)

    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER)")

    database.run(insert)
    assert count(database) == 1
    assert engine.pool is not database.engine.pool
    database.close()

    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM notes").scalar() == 1

    engine.dispose()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_connections(database: Database) -> None:
    """What it forgets stays open for the parent."""
    query = "SELECT 41 + 1"

    with database.engine.connect() as held:
        pooled = database.engine.connect()
        pooled.close()

        if (pid := os.fork()) == 0:
            database.forget()
            answer = database.run(lambda c: c.exec_driver_sql(query).scalar())
            os._exit(0 if answer == 42 else 1)

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert held.exec_driver_sql(query).scalar() == 42

    assert database.run(lambda c: c.exec_driver_sql(query).scalar()) == 42
    assert database.troubled_at is None


def test_a_statement_is_compiled_when_it_is_first_used(database: Database) -> None:
    """Also by two threads at once; what it never has, it hasn't."""
    number = param("number", sa.Integer())
    statement = database.prepare(lambda: sa.select((number + 1).label("next")))
    assert "form" not in vars(statement)

    # Others are as early, and one of them is faster.
    second = database.prepare(lambda: sa.select(number.label("same")))
    meet = threading.Barrier(8, timeout=10)

    def use(value: int) -> int:
        meet.wait()
        return int(database.run(lambda c: second(c, number=value)[0].same))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == list(range(8))

    assert database.run(lambda c: statement(c, number=1)[0].next) == 2
    assert not hasattr(statement, "nothing")
    assert not hasattr(copy.copy(statement), "nothing")
    assert not hasattr(Statement.__new__(Statement), "form")


def test_what_binds_a_sequence_knows_its_names(database: Database) -> None:
    """Of two with one name the second counts; others are refused at once."""
    number = param("number", sa.Integer())
    statement = database.prepare(lambda: sa.select(number.label("same")))
    bind = statement.binder(("number", "number"))
    assert database.run(lambda c: bind((1, 2)).run(c)[0].same) == 2

    with pytest.raises(TypeError, match="needs .*number.*, got .*other"):
        statement.binder(("number", "other"))
