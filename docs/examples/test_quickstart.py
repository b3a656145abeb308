"""How a user of Flask-Durable tests an app that a module makes: quickstart.py."""

import importlib
import sys

import pytest

from flask_durable.testing import durable_client

KEY = {"Idempotency-Key": '"order-1"'}


@pytest.fixture
def client(monkeypatch):
    """Import the module anew: each test has an app and a journal of its own."""
    monkeypatch.delitem(sys.modules, "quickstart", raising=False)
    app = importlib.import_module("quickstart").app
    app.testing = True

    with durable_client(app) as client:
        yield client


def test_a_trip(client):
    answer = client.post("/trips", json={"flight": "BA117"}, headers=KEY)
    assert client.run_until_complete(answer).json["payment"] == {"paid": 120}


def test_a_bank_that_stays_down(client):
    client.fail_step("charge", times=5)
    answer = client.post("/trips", json={"flight": "BA117"}, headers=KEY)
    assert client.run_until_complete(answer).status_code == 402
