"""How a user of Flask-Durable tests the view in subscriptions.py."""

import datetime as dt

import pytest
import subscriptions

from flask_durable.testing import Crashed
from flask_durable.testing import durable_client
from flask_durable.testing import StillWaiting

ORDER = {"email": "ada@example.org", "card": "4242", "manager": "bob@example.org"}


@pytest.fixture
def calls(monkeypatch):
    """Remember the calls of what acts on the world outside."""
    calls = []

    def watch(name):
        original = getattr(subscriptions, name)

        def call(*args):
            calls.append((name, *args))
            return original(*args)

        monkeypatch.setattr(subscriptions, name, call)

    for name in ("pay", "refund", "activate", "mail"):
        watch(name)

    return calls


@pytest.fixture(params=[False, True], ids=["straight", "always-replay"])
def client(request):
    """Run each test as it is, and again with a replay after each step."""
    app = subscriptions.create_app(TESTING=True)

    with durable_client(app, always_replay=request.param) as client:
        yield client


def names(calls):
    return [name for name, *_ in calls]


def run_until_wait(client, answer, step):
    with pytest.raises(StillWaiting) as waiting:
        client.run_until_complete(answer)

    assert waiting.value.step == step


def decide(client, calls, ok):
    """Answer as the manager does, by the link in the letter."""
    link = next(text for name, *_, text in calls if name == "mail")
    assert client.post(link, json={"ok": ok}).status_code == 204


def test_a_subscription(client, calls):
    answer = client.post("/subscriptions", json=ORDER)
    assert answer.status_code == 202

    run_until_wait(client, answer, "approval")
    decide(client, calls, ok=True)
    run_until_wait(client, answer, "first-week")
    client.advance(dt.timedelta(days=7))

    final = client.run_until_complete(answer)
    assert final.status_code == 201
    assert final.json == {"receipt": "4242-20"}
    assert names(calls) == ["pay", "mail", "activate", "mail"]


def test_a_manager_who_says_no(client, calls):
    answer = client.post("/subscriptions", json=ORDER)
    run_until_wait(client, answer, "approval")
    decide(client, calls, ok=False)

    assert client.run_until_complete(answer).status_code == 403
    assert calls[-1] == ("refund", "4242-20")


def test_a_hiccup_is_not_seen(client, calls):
    client.fail_step("activate", times=3)
    answer = client.post("/subscriptions", json=ORDER)
    run_until_wait(client, answer, "approval")
    decide(client, calls, ok=True)

    run_until_wait(client, answer, "first-week")
    assert names(calls) == ["pay", "mail", "activate"]


def test_what_fails_for_good_is_refunded(client, calls):
    client.fail_step("activate", times=5, error=ConnectionError("no answer"))
    answer = client.post("/subscriptions", json=ORDER)
    run_until_wait(client, answer, "approval")
    decide(client, calls, ok=True)

    assert client.run_until_complete(answer).status_code == 503
    assert names(calls) == ["pay", "mail", "refund"]


def test_a_server_that_is_killed_while_it_charges(client, calls):
    client.crash_after("charge")

    with pytest.raises(Crashed) as crash:
        client.post("/subscriptions", json=ORDER)

    run_until_wait(client, crash.value, "approval")
    assert names(calls) == ["pay", "pay", "mail"]
    # The bank sees one order, by its key.
    assert calls[0] == calls[1]
