"""Clients that wait: Prefer, ?wait=, and how many may at a time."""

from __future__ import annotations

import collections.abc as cabc
import threading
import time
import typing as t
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import patience
from flask_durable import step
from flask_durable import threads
from flask_durable import watchers as rooms
from flask_durable.errors import JournalUnavailable
from flask_durable.patience import read_preferences
from flask_durable.store import Store
from flask_durable.watchers import Watchers
from flask_durable.watchers import watchers

from .driving import Drive
from .driving import status_link
from .driving import THREADED
from .driving import ThreadedClient
from .processes import wait_until
from .test_budget import counted

Later = cabc.Callable[[], threading.Thread]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Watchers:
    """Give the process's watchers; no server has told of its threads."""
    monkeypatch.setattr(watchers, "server_threads", None)
    return watchers


@pytest.fixture
def client(app: Flask, durable: FlaskDurable, places: Watchers) -> FlaskClient:
    """Give a client of a server with threads, and a view that sleeps once."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("first", int)
        step.sleep("nap", 600)
        return "awake"

    @app.post("/quick")
    @durable.endpoint
    def quick() -> tuple[str, int]:
        return "quick", 201

    client = ThreadedClient(app)
    return client


@pytest.fixture
def later(drive: Drive) -> cabc.Iterator[Later]:
    """Give what lets ten minutes pass and replays, as soon as somebody waits."""
    running: list[threading.Thread] = []

    def wake() -> None:
        wait_until(lambda: watchers._bells, 30, "somebody waits")
        drive.advance(601)
        drive.run_due()

    def begin() -> threading.Thread:
        running.append(threading.Thread(target=wake))
        running[-1].start()
        return running[-1]

    yield begin

    for thread in running:
        thread.join()


def prefer(text: str) -> dict[str, str]:
    """Make the header."""
    return {"Prefer": text}


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", {}),
        ("respond-async", {"respond-async": ""}),
        ("respond-async, wait=10", {"respond-async": "", "wait": "10"}),
        ('Wait="7" ; x=1,handling=lenient', {"wait": "7", "handling": "lenient"}),
        ("wait=1, wait=2", {"wait": "1"}),
        ("wait", {"wait": ""}),
    ],
)
def test_preferences_are_read_as_the_rfc_says(
    header: str, found: dict[str, str]
) -> None:
    """RFC 7240, section 2: names in any case, the first of two, values in quotes."""
    assert read_preferences(header) == found


def test_who_waits_gets_the_final_response(client: FlaskClient, later: Later) -> None:
    """In the answer to the first request."""
    later()
    answer = client.post("/work", headers=prefer("wait=60"))
    assert (answer.status_code, answer.text) == (200, "awake")
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert client.get(status_link(answer)).status_code == 200


def test_who_waits_in_vain_is_promised(client: FlaskClient) -> None:
    """After the time that it gave."""
    # The first request of an app makes the tables, which may take as long.
    client.post("/quick")
    began = time.monotonic()
    answer = client.post("/work", headers=prefer("wait=1"))
    assert 1.0 <= time.monotonic() - began
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert (answer.json or {})["status"] == "suspended"


@pytest.mark.parametrize("header", ["wait=x", "wait=-1", "wait", "wait=nan", "a=b"])
def test_a_wish_that_is_none_is_passed_over(client: FlaskClient, header: str) -> None:
    """As all preferences that a server does not know."""
    answer = client.post("/work", headers=prefer(header))
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_who_gets_the_response_at_once_does_not_wait(client: FlaskClient) -> None:
    """The view's own response is untouched."""
    answer = client.post("/quick", headers=prefer("wait=5"))
    assert (answer.status_code, answer.text) == (201, "quick")
    assert "Preference-Applied" not in answer.headers


def test_the_setting_limits_the_wait(app: Flask, places: Watchers) -> None:
    """With 0 nobody waits."""
    app.config["DURABLE_MAX_WAIT"] = 0
    durable = FlaskDurable(app)

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.sleep("nap", 600)
        return "awake"

    client = ThreadedClient(app)
    answer = client.post("/nap", headers=prefer("wait=600"))
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers
    html = client.post("/nap", headers={"Accept": "text/html"})
    assert not urlsplit(html.headers["Location"]).query
    events = client.get((answer.json or {})["events_url"])
    assert "event: execution" in events.text
    app.extensions["durable"].close()


def test_the_response_may_be_waited_for(client: FlaskClient, later: Later) -> None:
    """By ?wait=, for those who can't send a header."""
    url = (client.post("/work").json or {})["response_url"]
    later()
    answer = client.get(f"{url}?wait=20")
    assert (answer.status_code, answer.text) == (200, "awake")
    assert "Preference-Applied" not in answer.headers


def test_the_response_may_be_waited_for_by_a_header(
    client: FlaskClient, later: Later
) -> None:
    """Which the answer says."""
    url = (client.post("/work").json or {})["response_url"]
    later()
    answer = client.get(url, headers=prefer("wait=20"))
    assert (answer.text, answer.headers["Preference-Applied"]) == ("awake", "wait=20")


def test_a_browser_is_led_to_a_response_that_waits(client: FlaskClient) -> None:
    """For a while; then it gets a page that comes again."""
    answer = client.post("/work", headers={"Accept": "text/html"})
    location = urlsplit(answer.headers["Location"])
    assert (answer.status_code, location.query) == (303, "wait=5")
    page = client.get(
        location.path, query_string="wait=0.1", headers={"Accept": "text/html"}
    )
    assert (page.status_code, page.mimetype) == (202, "text/html")


# Prefer: respond-async


def test_respond_async_is_answered_at_once(client: FlaskClient, drive: Drive) -> None:
    """The view runs elsewhere; its first attempt is the first."""
    answer = client.post("/quick", headers=prefer("respond-async"))
    document = answer.json or {}
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.headers["Location"] == status_link(answer)
    assert answer.headers["Durable-Execution"] == document["id"]
    assert (document["status"], document["attempt"]) == ("pending", 0)
    assert document["waiting_for"] is None
    assert drive.run_due() == 1
    final = client.get(document["response_url"])
    assert (final.status_code, final.text) == (201, "quick")
    assert drive.status(answer)["attempt"] == 1


def test_respond_async_may_wait(client: FlaskClient, later: Later) -> None:
    """For the final response, or a promise in the end."""
    replays = later()
    answer = client.post("/quick", headers=prefer("respond-async, wait=20"))
    assert (answer.status_code, answer.text) == (201, "quick")
    assert answer.headers["Preference-Applied"] == "respond-async, wait=20"
    # It looks once more for what is due, and would find the next one.
    replays.join()
    answer = client.post("/quick", headers=prefer("respond-async, wait=0.1"))
    assert answer.status_code == 202


def test_respond_async_costs_one_statement(client: FlaskClient, drive: Drive) -> None:
    """An INSERT."""
    client.post("/quick")

    with counted(drive) as seen:
        client.post("/quick", headers=prefer("respond-async"))

    assert seen == ["INSERT"]


def test_respond_async_with_a_key_is_one_execution(
    client: FlaskClient, drive: Drive
) -> None:
    """The promise is given again, then the response."""
    headers = {**prefer("respond-async"), "Idempotency-Key": "k"}
    first, again = (client.post("/quick", headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert (first.json or {})["id"] == (again.json or {})["id"]
    drive.run_due()
    final = client.post("/quick", headers=headers)
    assert (final.status_code, final.text) == (201, "quick")
    assert final.headers["Idempotent-Replayed"] == "true"


def test_respond_async_says_if_the_outcome_is_unknown(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke while the execution was stored."""
    client.post("/quick")

    def start(self: Store, *args: t.Any, **options: t.Any) -> None:
        error = JournalUnavailable("away")
        error.unknown = unknown
        raise error

    monkeypatch.setattr(Store, "start", start)

    for unknown in (True, False):
        answer = client.post("/quick", headers=prefer("respond-async"))
        assert answer.status_code == 503
        assert ("unknown" in answer.text) is unknown


def test_the_same_request_may_wait_for_the_first(
    client: FlaskClient, later: Later
) -> None:
    """It gets the stored response."""
    key = {"Idempotency-Key": "k"}
    assert client.post("/work", headers=key).status_code == 202
    later()
    answer = client.post("/work", headers={**key, **prefer("wait=20")})
    assert (answer.text, answer.headers["Idempotent-Replayed"]) == ("awake", "true")


# What a wait holds


def test_a_wait_holds_no_connection(
    client: FlaskClient, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are needed by those who work; theirs are kept."""
    url = (client.post("/work").json or {})["response_url"]
    pool = t.cast(t.Any, drive.state.store.database.engine.pool)
    kept = pool.checkedout()
    held: list[int] = []
    wait = threading.Event.wait

    def look(self: threading.Event, timeout: float | None = None) -> bool:
        held.append(pool.checkedout() - kept)
        return wait(self, timeout)

    monkeypatch.setattr(threading.Event, "wait", look)
    client.get(f"{url}?wait=0.3")
    assert held and not any(held)


def test_the_pauses_grow() -> None:
    """From a twentieth of a second to half a second."""
    found = [pause for pause, _ in zip(patience.pauses(), range(9), strict=False)]
    assert (found[0], found[-1]) == (0.05, 0.5)
    assert found == sorted(found)


def test_an_end_in_this_process_is_told_at_once(
    client: FlaskClient,
    later: Later,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to look for it."""
    monkeypatch.setattr(patience, "FIRST_PAUSE", 15.0)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 15.0)
    later()
    began = time.monotonic()
    assert client.post("/work", headers=prefer("wait=15")).text == "awake"
    assert time.monotonic() - began < 12


def test_while_the_journal_is_away_what_is_known_is_answered(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait is no reason to fail."""
    client.post("/quick")

    def away(self: Store, execution_id: str) -> None:
        raise JournalUnavailable("away")

    monkeypatch.setattr(Store, "execution", away)
    answer = client.post("/work", headers=prefer("wait=0.2"))
    assert answer.status_code == 202


# How many


def test_half_of_the_threads_may_wait(
    client: FlaskClient, places: Watchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are answered at once."""
    monkeypatch.setattr(places, "server_threads", 2)
    assert places.enter(THREADED)
    answer = client.post("/work", headers=prefer("wait=20"))
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers
    places.leave()
    answer = client.post("/work", headers=prefer("wait=1"))
    assert answer.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize(
    ("known", "environ", "limit"),
    [
        (None, {}, 0),
        (8, {"wsgi.multithread": False}, 0),
        (8, THREADED, 4),
        (1, {"wsgi.multithread": True}, 0),
        (None, {"wsgi.multithread": True}, rooms.SAFE),
        (None, THREADED, rooms.DEVELOPMENT),
    ],
)
def test_what_is_known_of_the_server_limits_them(
    known: int | None, environ: dict[str, t.Any], limit: int
) -> None:
    """None where a server has but one thread."""
    found = Watchers()
    found.server_threads = known
    entered = [found.enter(environ) for _ in range(limit + 1)]
    assert entered == [*[True] * limit, False]


@pytest.mark.parametrize(("known", "limit"), [(20, 10), (None, rooms.GREENLETS)])
def test_greenlets_may_wait_also_if_the_server_says_it_has_no_threads(
    known: int | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gevent's own server does."""
    monkeypatch.setattr(rooms, "are_greenlets", lambda: True)
    found = Watchers()
    found.server_threads = known
    assert sum(found.enter({}) for _ in range(limit + 5)) == limit


def test_threads_of_this_process_are_no_greenlets() -> None:
    """gevent has patched nothing here."""
    assert not threads.are_greenlets()


def test_places_are_given_back(client: FlaskClient, places: Watchers) -> None:
    """Also after a wait in vain."""
    client.post("/work", headers=prefer("wait=0.1"))
    assert places._count == 0
    assert not places._bells
