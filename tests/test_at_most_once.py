"""Steps that are never called again once they may have run."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import ControlError
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError
from flask_durable import StepInterruptedError
from flask_durable.steps import Steps
from flask_durable.sweeper import Sweeper
from flask_durable.testing import Crashed
from flask_durable.testing import durable_client

from .crash_lab import in_child
from .driving import CallerHands
from .driving import Drive


class Ledger:
    """Counts calls in a file, since processes die."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "calls"

    def __call__(self, name: str) -> str:
        with self.path.open("a") as file:
            file.write(f"{name}\n")

        return name

    @property
    def names(self) -> list[str]:
        """List the calls in their order."""
        return self.path.read_text().split() if self.path.exists() else []


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Ledger:
    """Count the calls of this test."""
    return Ledger(tmp_path)


@pytest.fixture
def killed(app: Flask, durable: FlaskDurable, ledger: Ledger) -> Flask:
    """Have a view whose step kills the process the first time."""

    def charge() -> str:
        ledger("charge")

        if len(ledger.names) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

        return "charged"

    @app.post("/order")
    @durable.endpoint
    def order() -> str:
        try:
            return step.options(at_most_once=True).run("charge", charge)
        except StepInterruptedError as error:
            return step.run("ask", ledger, f"ask-{error.step}-{error.tries}")

    return app


def test_a_step_runs_once(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, ledger: Ledger
) -> None:
    """And its outcome is given back like any other."""

    @app.post("/order")
    @durable.endpoint
    def order() -> str:
        done = step.options(at_most_once=True).run("charge", ledger, "charge")
        step.sleep("nap", 60)
        return done

    answer = client.post("/order")
    assert drive.finish(answer).text == "charge"
    assert ledger.names == ["charge"]


def test_a_step_that_was_cut_off_is_not_called_again(
    killed: Flask, drive: Drive, ledger: Ledger
) -> None:
    """Its view hears of it, also on each later attempt."""
    in_child(lambda: post(killed))
    killed.test_client().get("/")
    sweeper = Sweeper(drive.state, CallerHands(killed))

    while sweeper.look() == 0.0:
        pass

    assert ledger.names == ["charge", "ask-charge-1"]


def post(app: Flask) -> None:
    """Send the request."""
    app.test_client().post("/order")


def test_a_failed_step_is_not_tried_again(
    app: Flask, durable: FlaskDurable, client: FlaskClient, ledger: Ledger
) -> None:
    """Whatever the endpoint's policy says."""

    def fail() -> None:
        ledger("charge")
        raise ConnectionError("the line broke")

    @app.post("/order")
    @durable.endpoint(retry=Retry(5, initial=0.0))
    def order() -> str:
        try:
            step.options(at_most_once=True).run("charge", fail)
        except StepError as error:
            assert not isinstance(error, StepInterruptedError)
            return f"{error.tries} {error.error_type}"

        return "charged"

    assert client.post("/order").text == "1 ConnectionError"
    assert ledger.names == ["charge"]


def test_a_retry_beside_it_is_refused() -> None:
    """One of the two is a mistake."""
    with pytest.raises(TypeError, match="at most once is not tried again"):
        Steps().options(retry=Retry(3), at_most_once=True)


def test_a_poll_is_called_more_than_once() -> None:
    """Nobody would know which of its calls is meant."""
    with pytest.raises(TypeError, match="again and again: leave out at_most_once"):
        Steps().options(at_most_once=True).poll("done", list)


@pytest.mark.parametrize("items", [["a", "b"]])
def test_each_item_of_a_map_runs_once(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    ledger: Ledger,
    items: list[str],
) -> None:
    """The options hold for every step of the call."""

    @app.post("/order")
    @durable.endpoint
    def order() -> list[str]:
        return step.options(at_most_once=True).map("send", ledger, items)

    assert client.post("/order").json == items
    assert sorted(ledger.names) == items


def test_a_step_that_was_cut_off_is_not_forgotten(
    app: Flask, durable: FlaskDurable, ledger: Ledger
) -> None:
    """Whoever resumes the execution may want that what came before is done again."""
    broken = [True]

    @app.post("/order")
    @durable.endpoint
    def order() -> str:
        try:
            step.run("mail", ledger if not broken else fail, "mail")
        except StepError:
            step.run("letter", ledger, "letter")

        once = step.options(at_most_once=True)

        try:
            return once.run("charge", ledger, "charge")
        except StepInterruptedError:
            if broken:
                raise

            return "look"

    def fail(name: str) -> None:
        raise NonRetryableError(name)

    with durable_client(app) as client:
        client.crash_after("charge")

        with pytest.raises(Crashed) as crash:
            client.post("/order")

        mine = crash.value.execution_id
        assert client.run_until_complete(mine).status_code == 500
        broken.clear()

        with app.app_context():
            with pytest.raises(ControlError, match='"charge".* is never called again'):
                durable.resume(mine, force=True)

            durable.resume(mine)

        assert client.run_until_complete(mine).text == "look"

    assert ledger.names == ["letter", "charge"]
