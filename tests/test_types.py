"""Types that an app registers, in running executions."""

from __future__ import annotations

import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import NotFound

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable.codec import Codec

from .driving import Drive


class Order:
    """What steps return here."""

    def __init__(self, number: int) -> None:
        self.number = number


class Orders:
    """Where orders are loaded from; it may be away."""

    def __init__(self, durable: FlaskDurable) -> None:
        self.errors: list[Exception] = []
        self.charged = 0
        self.loaded = 0
        durable.register_type(Order, lambda order: order.number, self.load)

    def load(self, number: int) -> Order:
        """Give an order by its number."""
        self.loaded += 1

        if self.errors:
            raise self.errors.pop()

        return Order(number)

    def charge(self, *args: t.Any) -> Order:
        """Do what must be done once."""
        self.charged += 1
        return Order(7)


@pytest.fixture
def orders(app: Flask, durable: FlaskDurable) -> Orders:
    """Set up the type, and a view that charges an order."""
    orders = Orders(durable)

    @app.post("/charge")
    @durable.endpoint
    def charge() -> str:
        step.run("first", int)
        return str(step.run("charge", orders.charge).number)

    @app.post("/nap")
    @durable.endpoint(retry=Retry(2, on=ConnectionError))
    def nap() -> str:
        order = step.run("charge", orders.charge)
        step.sleep("nap", 60)
        return str(order.number)

    @app.post("/once")
    @durable.endpoint
    def once() -> str:
        step.run("first", int)
        steps = step.options(at_most_once=True)
        return str(steps.run("charge", orders.charge).number)

    @app.post("/transaction")
    @durable.endpoint
    def transaction() -> str:
        step.run("first", int)
        return str(step.transaction("charge", orders.charge).number)

    return orders


@pytest.mark.parametrize("path", ["/charge", "/once", "/transaction"])
@pytest.mark.parametrize("error", [ConnectionError("away"), ValueError("bad")])
def test_a_decoder_that_fails_undoes_no_step(
    orders: Orders, client: FlaskClient, drive: Drive, path: str, error: Exception
) -> None:
    """The outcome is committed first, and a later attempt decodes it."""
    orders.errors.append(error)
    answer = drive.finish(client.post(path))
    assert (answer.status_code, answer.text) == (200, "7")
    assert (orders.charged, orders.loaded) == (1, 2)


@pytest.mark.parametrize("path", ["/charge", "/once", "/transaction"])
def test_a_value_is_decoded_once_an_attempt(
    orders: Orders, client: FlaskClient, path: str
) -> None:
    """A decoder may cost much."""
    assert client.post(path).text == "7"
    assert (orders.charged, orders.loaded) == (1, 1)


def last_error(drive: Drive, answer: t.Any) -> tuple[t.Any, str]:
    """Read why an execution failed, or why its last attempt did."""
    execution_id = answer.headers["Durable-Execution"]

    with drive.app.app_context():
        info = FlaskDurable().get(execution_id)

    message = info.error_message or ""
    return info.error_type, message.replace(execution_id, "…")


def test_a_type_that_is_gone_is_named(
    app: Flask, orders: Orders, client: FlaskClient, drive: Drive
) -> None:
    """Its values don't come back as something else."""
    answer = client.post("/nap")
    app.extensions["durable"].codec = Codec()
    assert drive.finish(answer).status_code == 500
    assert last_error(drive, answer) == (
        "flask_durable.errors.StoredValueError",
        'Step "charge" of execution … has a value of the type Order, which is not'
        " registered: keep durable.register_type(Order) as long as the journal has"
        " values of it.",
    )


@pytest.mark.parametrize(
    ("error", "status"), [(ConnectionError("away"), 200), (ValueError("bad"), 500)]
)
def test_an_error_of_a_decoder_is_told_with_its_step(
    orders: Orders, client: FlaskClient, drive: Drive, error: Exception, status: int
) -> None:
    """The policy is asked about the error itself."""
    answer = client.post("/nap")
    orders.errors.append(error)
    drive.advance(61)
    drive.run_due()
    assert last_error(drive, answer) == (
        "flask_durable.errors.StoredValueError",
        'Step "charge" of execution … has a value of the type Order, which can\'t be'
        f" made again: {type(error).__name__}: {error}",
    )
    assert drive.finish(answer).status_code == status


def test_an_http_error_of_a_decoder_is_the_answer(
    orders: Orders, client: FlaskClient, drive: Drive
) -> None:
    """As anywhere in a view."""
    answer = client.post("/nap")
    orders.errors.append(NotFound())
    assert drive.finish(answer).status_code == 404


def test_an_identity_is_what_steps_may_return(
    app: Flask, durable: FlaskDurable, orders: Orders
) -> None:
    """What can't be stored is refused before the view runs."""
    app.config["PROPAGATE_EXCEPTIONS"] = True
    durable.identity(object)
    what = "What @durable.identity gives can't be an object: .*register_type"

    with pytest.raises(TypeError, match=what):
        app.test_client().post("/charge")

    assert orders.charged == 0


def test_an_identity_whose_type_is_gone_is_named(
    app: Flask,
    durable: FlaskDurable,
    orders: Orders,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its execution waits until the type is there again."""
    durable.identity(lambda: Order(7))
    answer = client.post("/nap")
    codec, app.extensions["durable"].codec = durable._hooks.codec, Codec()
    drive.advance(61)
    drive.run_due()
    execution_id = answer.headers["Durable-Execution"]
    assert f"The identity of execution {execution_id} has a value of the" in caplog.text
    app.extensions["durable"].codec = codec
    assert drive.finish(answer).text == "7"
