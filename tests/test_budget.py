"""The statements that each moment costs, counted so that they can't grow."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step

from .driving import Drive


@pytest.fixture
def view(app: Flask, durable: FlaskDurable, client: FlaskClient) -> None:
    """Set up the views, and pay for the first use."""

    @app.post("/steps/<int:count>")
    @durable.endpoint
    def steps(count: int) -> list[int]:
        return [step.run(f"s{number}", int, number) for number in range(count)]

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.run("before", int)
        step.sleep("nap", 60)
        return "rested"

    @app.post("/retry")
    @durable.endpoint(retry=Retry(2, initial=60))
    def retry() -> str:
        return str(step.run("fails", lambda: 1 / 0))

    client.post("/steps/0")


@contextlib.contextmanager
def counted(drive: Drive) -> cabc.Iterator[list[str]]:
    """Collect the first words of the statements that the journal is sent."""
    seen: list[str] = []

    def add(*arguments: t.Any) -> None:
        seen.append(arguments[2].split()[0].strip(";"))

    engine = drive.state.store.database.engine
    event.listen(engine, "before_cursor_execute", add)
    yield seen
    event.remove(engine, "before_cursor_execute", add)


@pytest.mark.usefixtures("view")
def test_an_endpoint_costs_an_insert_and_an_update(
    client: FlaskClient, drive: Drive
) -> None:
    """A new execution is one statement, its end another."""
    with counted(drive) as seen:
        client.post("/steps/0")

    assert seen == ["INSERT", "UPDATE"]


@pytest.mark.usefixtures("view")
def test_a_step_costs_one_statement(client: FlaskClient, drive: Drive) -> None:
    """It records and fences at once."""
    with counted(drive) as seen:
        client.post("/steps/5")

    assert seen == ["INSERT", *["INSERT"] * 5, "UPDATE"]


@pytest.mark.usefixtures("view")
@pytest.mark.parametrize("url", ["/nap", "/retry"])
def test_a_suspension_is_one_transaction_of_two_statements(
    client: FlaskClient, drive: Drive, url: str
) -> None:
    """The mark and the wake time are committed together."""
    with counted(drive) as seen:
        assert client.post(url).status_code == 202

    assert seen[-4:] == ["BEGIN", "UPDATE", "INSERT", "COMMIT"]
    assert len(seen) == {"/nap": 6, "/retry": 5}[url]


@pytest.mark.usefixtures("view")
def test_a_replay_reads_its_journal_once(client: FlaskClient, drive: Drive) -> None:
    """The sender reads the request, the claim is two statements; nobody asks for what
    the sender and the endpoint tell each other."""
    client.post("/nap")
    drive.advance(61)

    with counted(drive) as seen:
        assert drive.run_due() == 1

    sweep, *replay, last_sweep = seen
    assert (sweep, last_sweep) == ("WITH", "WITH")
    sender, claim, journal, outcome, finish = replay
    assert {sender, journal} == {"SELECT"}
    assert [claim, outcome, finish] == ["UPDATE", "INSERT", "UPDATE"]


def test_a_replay_does_not_read_step_by_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A hundred steps that are done cost nothing more."""

    @app.post("/long")
    @durable.endpoint
    def long() -> str:
        for number in range(100):
            step.run(f"s{number}", int)

        step.sleep("nap", 60)
        return "done"

    client.post("/long")
    drive.advance(61)

    with counted(drive) as seen:
        assert drive.run_due() == 1

    assert len(seen) == 7
