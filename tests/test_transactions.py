"""Steps that commit with what their function writes."""

from __future__ import annotations

import collections.abc as cabc
import os
import signal
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event
from sqlalchemy import orm
from sqlalchemy.exc import IntegrityError

from flask_durable import FlaskDurable
from flask_durable import NestedStepError
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError
from flask_durable import StepOutputError
from flask_durable.errors import LeaseLostError
from flask_durable.sweeper import Sweeper

from .crash_lab import in_child
from .driving import CallerHands
from .driving import Drive

metadata = sa.MetaData()
notes = sa.Table(
    "notes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, unique=True),
)


class Base(orm.DeclarativeBase):
    """The models of this page."""

    metadata = metadata


class Note(Base):
    """A note."""

    __table__ = notes
    id: orm.Mapped[int]


class Book:
    """The user's table, seen from outside."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        drive.app.test_client().get("/")
        self.database.run(metadata.create_all)

    @property
    def database(self) -> t.Any:
        """The journal's database."""
        return self.drive.state.store.database

    def texts(self) -> list[str]:
        """Read what was committed."""
        query = sa.select(notes.c.text).order_by(notes.c.id)
        return list(self.database.run(lambda c: c.scalars(query).all()))


View = cabc.Callable[[cabc.Callable[[], t.Any]], FlaskClient]


@pytest.fixture
def view(app: Flask, durable: FlaskDurable, client: FlaskClient) -> View:
    """Give what says what the durable view does, and gives a client for it."""
    functions: list[cabc.Callable[[], t.Any]] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> t.Any:
        return functions[-1]()

    def make(function: cabc.Callable[[], t.Any]) -> FlaskClient:
        functions.append(function)
        return client

    return make


@pytest.fixture
def book(drive: Drive, view: View) -> Book:
    """Make the user's table in the journal's database."""
    return Book(drive)


def write(connection: sa.Connection, text: str) -> str:
    """Write a note."""
    connection.execute(notes.insert().values(text=text))
    return text


def test_the_outcome_commits_with_the_work(book: Book, view: View) -> None:
    """And is given back."""
    client = view(lambda: step.transaction("note", write, text="hello"))
    assert client.post("/work").text == "hello"
    assert book.texts() == ["hello"]


def test_a_replay_does_nothing_again(book: Book, view: View, drive: Drive) -> None:
    """The stored value comes back."""

    def work() -> str:
        done = step.transaction("note", write, "hello")
        step.sleep("nap", 60)
        return done

    assert drive.finish(view(work).post("/work")).text == "hello"
    assert book.texts() == ["hello"]


def test_an_orm_session_joins(book: Book, view: View) -> None:
    """Its commit is no end of the transaction."""

    def add(connection: sa.Connection, text: str) -> int:
        with orm.Session(connection) as session:
            note = Note(text=text)
            session.add(note)
            session.commit()
            return note.id

    assert view(lambda: [step.transaction("note", add, "hello")]).post("/work").json
    assert book.texts() == ["hello"]


def test_a_failed_try_leaves_nothing(book: Book, view: View) -> None:
    """The next one succeeds."""
    calls: list[int] = []

    def flaky(connection: sa.Connection) -> str:
        calls.append(1)
        write(connection, f"try {len(calls)}")

        if len(calls) < 3:
            raise ConnectionError("once more")

        return "done"

    retry = Retry(3, initial=0.0)
    client = view(lambda: step.options(retry=retry).transaction("note", flaky))
    assert client.post("/work").text == "done"
    assert book.texts() == ["try 3"]


def test_an_error_of_the_database_is_a_failed_try(book: Book, view: View) -> None:
    """It is no outage: the view hears of it."""
    book.database.run(lambda c: write(c, "hello"))

    def work() -> str:
        try:
            return step.options(retry=Retry(1)).transaction("note", write, "hello")
        except StepError as error:
            return error.error_type

    assert view(work).post("/work").text == "sqlalchemy.exc.IntegrityError"
    assert book.texts() == ["hello"]


def test_a_savepoint_may_fail(book: Book, view: View) -> None:
    """What is outside of it commits."""
    book.database.run(lambda c: write(c, "taken"))

    def either(connection: sa.Connection) -> str:
        try:
            with connection.begin_nested():
                return write(connection, "taken")
        except IntegrityError:
            return write(connection, "other")

    assert view(lambda: step.transaction("note", either)).post("/work").text == "other"
    assert book.texts() == ["taken", "other"]


@pytest.mark.parametrize("how", ["commit", "rollback", "session"])
def test_a_function_may_not_end_the_transaction(
    book: Book, view: View, how: str
) -> None:
    """Nothing of it is kept, and the error says what to do."""

    def end(connection: sa.Connection) -> None:
        write(connection, "hello")

        if how == "session":
            session = orm.Session(connection)
            session.add(Note(text="more"))
            session.flush()
            session.rollback()
        else:
            getattr(connection, how)()

    def work() -> str:
        try:
            step.transaction("note", end)
        except StepError as error:
            return f"{error.tries} {error.error_message}"

        return "kept"

    answer = view(work).post("/work").text
    assert answer.startswith("1 The function of step.transaction ended")
    assert book.texts() == []


def test_a_result_that_cannot_be_stored_is_rolled_back(
    book: Book, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    """Other than step.run, nothing has happened then; the log says whose it was."""

    def bad(connection: sa.Connection) -> object:
        write(connection, "hello")
        return object()

    def work() -> str:
        try:
            step.transaction("note", bad)
        except StepOutputError as error:
            return str(error)

        return "kept"

    answer = view(work).post("/work")
    assert "can't be stored" in answer.text
    assert f"Execution {answer.headers['Durable-Execution']}: Step" in caplog.text
    assert book.texts() == []


def test_steps_inside_are_refused(book: Book, view: View) -> None:
    """The connection is in the middle of something."""

    def nest(connection: sa.Connection) -> str:
        return step.run("inner", str)

    def work() -> str:
        with pytest.raises(NestedStepError):
            step.transaction("outer", nest)

        return "refused"

    assert view(work).post("/work").text == "refused"


def test_a_lost_lease_commits_nothing(book: Book, view: View) -> None:
    """The fence stands in the transaction."""

    def late(connection: sa.Connection) -> str:
        write(connection, "late")
        table = sa.table("durable_executions", sa.column("attempt"))
        connection.execute(table.update().values(attempt=7))
        return "late"

    def work() -> str:
        with pytest.raises(LeaseLostError):
            step.transaction("note", late)

        return "lost"

    view(work).post("/work")
    assert book.texts() == []


@pytest.mark.parametrize("when", ["in the function", "before the commit"])
def test_a_kill_leaves_all_or_nothing(
    book: Book, view: View, drive: Drive, app: Flask, when: str
) -> None:
    """The next process does it once more, and once in all."""
    parent = os.getpid()

    def die() -> None:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    def work(connection: sa.Connection) -> str:
        write(connection, "hello")

        if when == "in the function":
            die()

        return "hello"

    def request() -> None:
        app.test_client().get("/")
        database = drive.state.store.database
        event.listen(database.engine, "commit", lambda connection: die())
        app.test_client().post("/work")

    view(lambda: step.transaction("note", work))
    in_child(request)
    assert book.texts() == []
    sweeper = Sweeper(drive.state, CallerHands(app))

    while sweeper.look() == 0.0:
        pass

    assert book.texts() == ["hello"]


def test_a_parallel_branch_has_one_of_its_own(book: Book, view: View) -> None:
    """Each commits for itself, one after the other on SQLite."""

    def work() -> list[str]:
        texts = ["a", "b", "c"]
        branches = [lambda x=x: step.transaction(x, write, x) for x in texts]
        return list(step.parallel(*branches))

    assert view(work).post("/work").json == ["a", "b", "c"]
    assert sorted(book.texts()) == ["a", "b", "c"]


def test_it_is_not_at_most_once_too(book: Book, view: View) -> None:
    """It is more than that already."""

    def work() -> str:
        with pytest.raises(TypeError, match="exactly once already"):
            step.options(at_most_once=True).transaction("note", write, "x")

        return "refused"

    assert view(work).post("/work").text == "refused"
