"""How a user of Flask-Durable tests the views in subscriptions.py."""

import datetime as dt

import pytest
import subscriptions

from flask_durable.testing import Crashed
from flask_durable.testing import durable_client
from flask_durable.testing import StillWaiting

ORDER = {"email": "ada@example.org", "card": "4242", "manager": "bob@example.org"}


@pytest.fixture
def calls(monkeypatch):
    """Put something that remembers its calls in the place of what acts outside."""
    calls = []

    def stand_in(name):
        original = getattr(subscriptions, name)

        def call(*args):
            calls.append((name, *args))
            return original(*args)

        monkeypatch.setattr(subscriptions, name, call)

    for name in ("charge", "refund", "ask", "mail"):
        stand_in(name)

    return calls


@pytest.fixture(params=[False, True], ids=["", "always-replay"])
def client(request):
    """Run each test twice: as it is, and with a replay after each step."""
    app = subscriptions.create_app(TESTING=True)

    with durable_client(app, always_replay=request.param) as client:
        yield client


def names(calls):
    return [name for name, *_ in calls]


def wait_for(client, answer, step):
    """Go on until the execution waits in a step."""
    with pytest.raises(StillWaiting) as waiting:
        client.run_until_complete(answer)

    assert waiting.value.step == step


def approve(client, calls, ok=True):
    """Answer as the manager does, by the link in the message."""
    link = next(call[2] for call in calls if call[0] == "ask")
    assert client.post(link, json={"ok": ok}).status_code == 204


def test_happy_path(client, calls):
    answer = client.post("/subscriptions", json=ORDER)
    assert answer.status_code == 202

    wait_for(client, answer, "approval")
    approve(client, calls)
    wait_for(client, answer, "first-week")
    client.advance(dt.timedelta(days=7))

    final = client.run_until_complete(answer)
    assert final.status_code == 201
    assert final.json == {"receipt": "4242-20"}
    assert names(calls) == ["mail", "charge", "ask", "mail"]


def test_a_hiccup_of_the_bank(client, calls):
    client.fail_step("charge", times=2)
    answer = client.post("/subscriptions", json=ORDER)

    wait_for(client, answer, "approval")
    assert names(calls) == ["mail", "charge", "ask"]


def test_the_bank_stays_away(client, calls):
    client.fail_step("charge", times=5, error=ConnectionError("the bank is away"))
    answer = client.post("/subscriptions", json=ORDER)

    final = client.run_until_complete(answer)
    assert final.status_code == 402
    assert calls[-1] == (
        "mail",
        "ada@example.org",
        "Your card could not be charged.",
    )


def test_the_manager_says_no(client, calls):
    answer = client.post("/subscriptions", json=ORDER)
    wait_for(client, answer, "approval")
    approve(client, calls, ok=False)

    assert client.run_until_complete(answer).status_code == 403
    assert calls[-1] == ("refund", "4242-20")


def test_the_server_is_killed_while_it_charges(calls):
    app = subscriptions.create_app(TESTING=True)

    with durable_client(app) as client:
        client.crash_after("charge")

        with pytest.raises(Crashed) as crash:
            client.post("/subscriptions", json=ORDER)

        wait_for(client, crash.value, "approval")

    # The bank was asked twice: the step needs an idempotency key.
    assert names(calls) == ["mail", "charge", "charge", "ask"]
