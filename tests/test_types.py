"""Types that an app registers, in running executions."""

from __future__ import annotations

import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import step

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
