"""When attempts began and ended, and how tries of steps failed."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import history
from flask_durable import Retry
from flask_durable import step
from flask_durable.history import Span
from flask_durable.records import Failure
from flask_durable.records import MAX_TRIES
from flask_durable.tables import executions

from .driving import Drive


def spans(drive: Drive, execution_id: str) -> list[Span]:
    """Read the attempts of an execution."""
    head = drive.state.listing.head(execution_id)
    found = head.execution
    end = found.finished_at
    lasted = None if end is None else end - found.created_at
    return history.read(head.history, found.attempt, lasted)


@pytest.fixture
def nap(app: Flask, durable: FlaskDurable) -> None:
    """Set up a view that sleeps twice."""

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.sleep("first", 60)
        step.sleep("second", 60)
        return "rested"


@pytest.mark.usefixtures("nap")
def test_each_attempt_is_noted(client: FlaskClient, drive: Drive) -> None:
    """When it began and ended, and how."""
    answer = client.post("/nap")

    for _ in range(2):
        drive.advance(61)
        drive.run_due()

    first, second, third = spans(drive, answer.headers["Durable-Execution"])
    assert (first.number, second.number, third.number) == (1, 2, 3)
    assert (first.how, second.how, third.how) == ("s", "s", "e")
    assert first.begun == 0 and 61 <= second.begun < 70 and 122 <= third.begun < 140
    assert first.ended is not None and 0 <= first.ended < 10


@pytest.mark.usefixtures("nap")
def test_an_attempt_that_lost_its_process_is_noted(
    client: FlaskClient, drive: Drive
) -> None:
    """As lost."""
    mine = client.post("/nap").headers["Durable-Execution"]
    drive.advance(61)
    store = drive.state.store
    store.claim(mine, 2, "gone", 15)
    (held,) = drive.state.upkeep.held("gone")
    assert drive.state.upkeep.release(held, "gone", 1, 0.0)
    assert [span.how for span in spans(drive, mine)] == ["s", "l"]


def test_a_resumed_execution_keeps_when_it_had_failed(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Its failed attempt has an end."""

    @app.post("/fail")
    @durable.endpoint(retry=Retry(1))
    def fail() -> t.Any:
        step.run("fails", lambda: 1 / 0)

    mine = client.post("/fail").headers["Durable-Execution"]

    with app.app_context():
        durable.resume(mine)

    assert [(span.number, span.how) for span in spans(drive, mine)] == [(1, "e")]
    drive.run_due()
    assert [span.number for span in spans(drive, mine)] == [1, 2]


def test_the_notes_of_very_many_attempts_are_bounded(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The oldest are forgotten."""

    @app.post("/nap")
    @durable.endpoint
    def nap() -> t.Any:
        step.sleep("nap", 60)

    mine = client.post("/nap").headers["Durable-Execution"]
    long = "".join(f"b{n}:{n};s{n}:{n};" for n in range(2, 1000))
    new = executions.update().values(history=long, attempt=999)
    drive.state.store.database.run(lambda c: c.execute(new))
    drive.advance(61)
    assert drive.state.store.claim(mine, 1000, "me", 15) is not None
    notes = drive.state.store.database.run(
        lambda c: c.scalar(sa.select(executions.c.history))
    )
    assert notes is not None and len(notes) < len(long) - 1900
    found = spans(drive, mine)
    assert found[-1].number == 1000 and found[-1].ended is None
    assert found[-2] == Span(999, 0.999, 0.999, "s")


def test_what_was_begun_by_an_older_version_has_no_notes() -> None:
    """Then nothing is made up, except the first attempt."""
    assert history.read(None, 1, 2.5) == [Span(1, 0.0, 2.5, "e")]
    assert history.read(None, 3, 2.5) == []
    assert history.read(None, 0, None) == []
    assert history.read("1:5;b9:x;s4:9;", 4, None) == []


@pytest.fixture
def flaky(app: Flask, durable: FlaskDurable) -> list[int]:
    """Set up a view whose step fails twice, once in each attempt."""
    calls: list[int] = []

    def charge() -> str:
        calls.append(len(calls))

        if len(calls) < 3:
            raise ConnectionError(f"away {len(calls)}")

        return "paid"

    @app.post("/pay")
    @durable.endpoint(retry=Retry(5, initial=60, factor=1, jitter=0))
    def pay() -> str:
        return str(step.run("charge", charge))

    return calls


@pytest.mark.usefixtures("flaky")
def test_failed_tries_are_kept_after_a_success(
    client: FlaskClient, drive: Drive
) -> None:
    """With when each was, and the last one's message and traceback."""
    answer = client.post("/pay")
    assert drive.finish(answer).text == "paid"
    mine = answer.headers["Durable-Execution"]
    failure = Failure.decode(drive.state.listing.failures(mine)["charge"])
    assert failure.message == "away 2"
    assert 'raise ConnectionError(f"away' in failure.traceback
    names = [why for _, _, why in failure.tries]
    assert names == ["ConnectionError", "ConnectionError", ""]
    begins = [begin for begin, _, _ in failure.tries]
    assert 0 <= begins[0] < 10 and 59 < begins[1] < 90 and 119 < begins[2]
    (line,) = drive.state.store.journal(mine)
    assert line.error_type is None


def test_only_the_last_tries_are_kept() -> None:
    """However many there were."""
    failure = None

    for number in range(MAX_TRIES + 5):
        failure = Failure.of(ValueError()).after(failure, number, number, "ValueError")

    assert failure is not None
    assert [begin for begin, _, _ in failure.tries] == list(range(5, MAX_TRIES + 5))


def test_a_step_that_never_failed_keeps_nothing(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It costs what it did before."""

    @app.post("/fine")
    @durable.endpoint
    def fine() -> str:
        return str(step.run("fine", int))

    mine = client.post("/fine").headers["Durable-Execution"]
    assert drive.state.listing.failures(mine) == {}
