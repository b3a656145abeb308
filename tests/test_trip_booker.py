"""The Trip Booker: its three flows, each with everything that can go wrong."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import html
import inspect
import os
import pathlib
import re
import signal
import socket
import stat
import typing as t

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from example_trip_booker import __main__ as command
from example_trip_booker import create_app
from example_trip_booker import failures
from example_trip_booker import ledger
from example_trip_booker import manager
from example_trip_booker import trips
from example_trip_booker.failures import FLOWS
from example_trip_booker.source import read_source
from flask_durable.testing import Crashed
from flask_durable.testing import durable_client
from flask_durable.testing import StillWaiting

from .processes import wait_until
from .trip_booker import Account
from .trip_booker import ORDER
from .trip_booker import PACKAGE
from .trip_booker import TRIP
from .trip_booker import TripBooker

SOON = dt.timedelta(seconds=6)
"""A killed server is noticed within 2 s; the rest is for a slow machine."""


@pytest.fixture
def app(tmp_path: pathlib.Path, sqlite_url: str) -> cabc.Iterator[Flask]:
    """Make the example; its retries suspend, so that no test waits."""
    app = create_app(
        {
            "DURABLE_DATABASE_URL": sqlite_url,
            "DURABLE_INLINE_RETRY": 0,
            "SECRET_KEY": "tests",
            "TESTING": True,
            "TRIP_BOOKER_LATENCY": 0,
        },
        data=tmp_path / "data",
    )
    yield app
    app.extensions["durable"].close()


class Desk:
    """Books, and drives each booking to its end."""

    def __init__(self, app: Flask, always_replay: bool = False) -> None:
        self.client = durable_client(app, always_replay)
        self.execution = ""
        self.finish = self.client.run_until_complete

    def trip(self, failure: str = "none", **fields: str) -> TestResponse:
        """Send the request of the trip's flow, in its plain form."""
        query = {**TRIP, "failure": failure, **fields}
        return self.note(self.client.get("/api/book-trip", query_string=query))

    def order(
        self, key: str = "k", failure: str = "none", **fields: str
    ) -> TestResponse:
        """Send it as the page does: by POST, with a key."""
        return self.note(
            self.client.post(
                f"/api/book-trip?failure={failure}",
                json=TRIP | fields,
                headers={"Idempotency-Key": key},
            )
        )

    def package(self, failure: str = "none") -> TestResponse:
        """Send the request of the package's flow."""
        path = f"/api/book-package?failure={failure}"
        return self.note(self.client.post(path, json=PACKAGE))

    def process(self, query: str = "failure=none") -> TestResponse:
        """Send the request of the processing's flow."""
        return self.note(self.client.post(f"/api/process?{query}", json=ORDER))

    def note(self, response: TestResponse) -> TestResponse:
        """Remember which execution a request began."""
        self.execution = response.headers.get("Durable-Execution", "")
        return response

    def account(self) -> Account:
        """Ask what the providers know of the last booking."""
        return Account(self.client.get(f"/ledger/{self.execution}").get_json())

    def decide(self, answer: str, note: str = "") -> TestResponse:
        """Fill in the first form of the manager's page."""
        token = re.search(r'name="token" value="(.*?)"', self.desk_page())
        assert token is not None
        form = {"token": token[1], "answer": answer, "note": note}
        return self.client.post("/manager/", data=form)

    def desk_page(self) -> str:
        """Read the manager's page."""
        return self.client.get("/manager/").text

    def tries(self, response: TestResponse) -> dict[str, int]:
        """Give the tries of each step in the journal."""
        return {
            step["id"]: step["tries"] for step in self.client.status(response)["steps"]
        }


@pytest.fixture
def desk(app: Flask) -> Desk:
    """Give what books trips."""
    return Desk(app)


# The trip: search, reserve, pay, confirm


def test_trip(desk: Desk) -> None:
    """Every step is called once, and the first request is answered with the trip."""
    response = desk.trip()
    assert response.status_code == 200
    trip = response.get_json()
    reservation, payment = trip["reservation"], trip["payment"]
    assert list(trip) == ["success", "trip", "reservation", "payment", "confirmation"]
    assert trip["success"] is True
    assert trip["trip"] == TRIP
    assert reservation["seat"] == "14A"
    assert payment["pnr"] == reservation["pnr"]
    assert trip["confirmation"]["payment"] == payment["payment"]
    assert desk.account().calls == {
        "search-availability": 1,
        "reserve-flight": 1,
        "process-payment": 1,
        "confirm-booking": 1,
    }
    assert desk.account().effects == {
        "reserve-flight reserved": 1,
        "process-payment charged": 1,
        "confirm-booking sent": 1,
    }


def test_trip_takes_the_cheapest_flight(app: Flask, desk: Desk) -> None:
    """The seat is on the flight that costs least, and that is what is paid."""
    trip = desk.trip().get_json()
    assert trip["reservation"]["flight"] == "FD 101"
    other = desk.trip(origin="SFO").get_json()
    assert other["payment"]["amount"] != trip["payment"]["amount"]


def test_trip_seat_lock_times_out(desk: Desk) -> None:
    """The reservation alone is tried again; the search is kept."""
    response = desk.trip("seat-lock-times-out")
    assert response.status_code == 202
    final = desk.finish(response)
    assert final.status_code == 200
    assert final.get_json()["success"] is True
    assert desk.account().calls == {
        "search-availability": 1,
        "reserve-flight": 2,
        "process-payment": 1,
        "confirm-booking": 1,
    }
    assert desk.tries(response)["reserve-flight"] == 2


def test_trip_seat_lock_times_out_inside_the_request(app: Flask, desk: Desk) -> None:
    """With the default settings the client doesn't notice a hiccup."""
    inline = create_app(
        {
            "DURABLE_DATABASE_URL": app.config["DURABLE_DATABASE_URL"],
            "SECRET_KEY": "tests",
            "TESTING": True,
            "TRIP_BOOKER_LATENCY": 0,
        },
        data=app.instance_path,
    )
    response = Desk(inline).trip("seat-lock-times-out")
    inline.extensions["durable"].close()
    desk.note(response)
    assert response.status_code == 200
    assert desk.account().calls["reserve-flight"] == 2
    assert desk.client.status(response)["attempt"] == 1


def test_trip_bank_is_down_twice(desk: Desk) -> None:
    """The payment alone is tried again; the seat stays reserved."""
    response = desk.trip("bank-down-twice")
    assert response.status_code == 202
    waiting = desk.client.status(response)["waiting_for"]
    assert (waiting["kind"], waiting["step"]) == ("retry", "process-payment")
    final = desk.finish(response)
    assert final.status_code == 200
    account = desk.account()
    assert account.calls == {
        "search-availability": 1,
        "reserve-flight": 1,
        "process-payment": 3,
        "confirm-booking": 1,
    }
    assert account.effects["process-payment charged"] == 1


def test_trip_bank_is_down_for_good(desk: Desk) -> None:
    """The view gives the seat back and answers 402; nothing is charged or confirmed."""
    response = desk.trip("bank-down")
    final = desk.finish(response)
    assert final.status_code == 402
    assert final.get_json() == {
        "success": False,
        "step": "process-payment",
        "error": "the bank is down",
    }
    account = desk.account()
    assert account.calls == {
        "search-availability": 1,
        "reserve-flight": 1,
        "process-payment": 4,
        "release-flight": 1,
    }
    assert account.effects == {
        "reserve-flight reserved": 1,
        "release-flight released": 1,
    }
    assert desk.client.status(response)["status"] == "completed"


# The package: flight, hotel and car at once


def test_package(desk: Desk) -> None:
    """Three bookings, one confirmation."""
    response = desk.package()
    assert response.status_code == 200
    answer = response.get_json()
    assert answer["success"] is True
    assert list(answer["bookings"]) == ["flight", "hotel", "car"]
    assert answer["bookings"]["hotel"]["hotelId"] == "Harbour Inn"
    assert desk.account().calls == {
        "book-flight": 1,
        "book-hotel": 1,
        "book-car": 1,
        "send-confirmation": 1,
    }


@pytest.mark.parametrize(
    ("failure", "flight", "hotel", "car"),
    [
        ("two-time-out", 2, 1, 2),
        ("hotel-down-twice", 1, 3, 1),
        ("hotel-busy", 1, 2, 1),
    ],
)
def test_package_is_retried_by_branch(
    desk: Desk, failure: str, flight: int, hotel: int, car: int
) -> None:
    """Each branch is retried by itself; the confirmation is sent once, at the end."""
    response = desk.package(failure)
    assert response.status_code == 202
    assert "send-confirmation" not in desk.account().calls
    assert desk.finish(response).status_code == 200
    account = desk.account()
    assert account.calls == {
        "book-flight": flight,
        "book-hotel": hotel,
        "book-car": car,
        "send-confirmation": 1,
    }
    assert account.effects == {
        "book-flight booked": 1,
        "book-hotel booked": 1,
        "book-car booked": 1,
        "send-confirmation sent": 1,
    }


def test_package_hotel_says_when(desk: Desk) -> None:
    """A provider that says when to come back is not called before."""
    response = desk.package("hotel-busy")
    desk.client.advance(3)
    assert desk.account().calls["book-hotel"] == 1
    desk.client.advance(1.1)
    assert desk.account().calls["book-hotel"] == 2
    assert desk.client.status(response)["status"] == "completed"


def test_package_without_cars(desk: Desk) -> None:
    """What can't be had is not tried again, and the rest is cancelled."""
    response = desk.package("no-cars")
    assert response.status_code == 409
    assert response.get_json()["error"] == "no cars left"
    assert desk.account().calls == {
        "book-flight": 1,
        "book-hotel": 1,
        "book-car": 1,
        "cancel-bookings": 1,
    }


# The processing: enrich, process, notify


def test_process(desk: Desk) -> None:
    """The answer holds what came out."""
    response = desk.process()
    assert response.status_code == 200
    assert response.get_json() == {
        "success": True,
        "result": {**ORDER, "tier": "gold", "processed": True},
    }
    assert desk.account().calls == {"enrich-data": 1, "process": 1, "notify": 1}


@pytest.mark.parametrize(
    ("failure", "enrich", "notify"),
    [
        ("failure=registry-times-out", 2, 1),
        ("failure=mailer-down-twice", 1, 3),
        ("failure=yours&step=notify&times=3", 1, 4),
    ],
)
def test_process_is_retried_by_step(
    desk: Desk, failure: str, enrich: int, notify: int
) -> None:
    """Only the step that failed is called again, and the user is told once."""
    assert desk.finish(desk.process(failure)).status_code == 200
    account = desk.account()
    assert account.calls == {"enrich-data": enrich, "process": 1, "notify": notify}
    assert account.effects == {"notify sent": 1}


def test_process_of_bad_data_fails(desk: Desk) -> None:
    """The execution fails, and the app's own error handler answers."""
    response = desk.process("failure=bad-data")
    assert response.status_code == 502
    assert response.get_json() == {
        "success": False,
        "step": "process",
        "error": "this data can't be processed",
    }
    assert desk.account().calls == {"enrich-data": 1, "process": 1}
    assert desk.client.status(response)["status"] == "failed"


# All flows, when servers die and views are replayed


def test_a_server_dies_after_each_step(desk: Desk) -> None:
    """Each is called once more, and takes effect once."""
    names = ("search-availability", "reserve-flight", "process-payment")

    for name in names:
        desk.client.crash_after(name)

    with pytest.raises(Crashed) as crash:
        desk.trip()

    desk.execution = crash.value.execution_id
    assert desk.finish(crash.value).status_code == 200
    account = desk.account()
    assert account.calls == {**dict.fromkeys(names, 2), "confirm-booking": 1}
    assert set(account.effects.values()) == {1}


@pytest.mark.parametrize("failure", ["none", "bank-down-twice", "bank-down"])
def test_trip_is_safe_to_replay(app: Flask, failure: str) -> None:
    """A replay after each step changes nothing."""
    desk = Desk(app, always_replay=True)
    final = desk.finish(desk.trip(failure))
    assert final.status_code == (402 if failure == "bank-down" else 200)
    assert set(desk.account().effects.values()) == {1}


@pytest.mark.parametrize("failure", ["none", "two-time-out", "no-cars"])
def test_package_is_safe_to_replay(app: Flask, failure: str) -> None:
    """Nor for branches."""
    desk = Desk(app, always_replay=True)
    final = desk.finish(desk.package(failure))
    assert final.status_code == (409 if failure == "no-cars" else 200)
    assert set(desk.account().effects.values()) == {1}


def test_process_is_safe_to_replay(app: Flask) -> None:
    """Nor for the plainest of views."""
    desk = Desk(app, always_replay=True)
    assert desk.finish(desk.process()).status_code == 200
    assert desk.account().effects == {"notify sent": 1}


# Requests that are not as they should be


def test_trip_without_destination(desk: Desk) -> None:
    """A request that lacks something is refused before anything is called."""
    response = desk.note(desk.client.get("/api/book-trip?origin=NYC&date="))
    assert response.status_code == 400
    assert desk.account().calls == {}


@pytest.mark.parametrize("body", ["{", "[]", '"text"', '{"userId": "user-42"}'])
@pytest.mark.parametrize("path", ["/api/process", "/api/book-package"])
def test_bad_json(desk: Desk, path: str, body: str) -> None:
    """A body that isn't the expected object is answered 400."""
    response = desk.client.post(path, data=body, content_type="application/json")
    assert response.status_code == 400


def test_unknown_failure(desk: Desk) -> None:
    """A failure that the flow doesn't have is answered with those that it has."""
    response = desk.trip("no-cars")
    assert response.status_code == 400
    assert "bank-down-twice" in response.text
    assert "Durable-Execution" not in response.headers


def test_unknown_cabin(desk: Desk) -> None:
    """Neither can one fly in a cabin that there is not."""
    response = desk.order(cabin="cargo")
    assert response.status_code == 400
    assert "economy, business" in response.text
    assert desk.account().calls == {}


@pytest.mark.parametrize(
    "trip", [{**TRIP, "origin": 1}, {**TRIP, "cabin": ["x"]}, [], 1]
)
def test_trip_that_is_none(desk: Desk, trip: t.Any) -> None:
    """What is no trip is refused before anything is called."""
    response = desk.note(desk.client.post("/api/book-trip", json=trip))
    assert response.status_code == 400
    assert desk.account().calls == {}


def test_repeated_request_books_once(desk: Desk) -> None:
    """A second request with the key gets the booking under way, and then its answer."""
    first = desk.order(failure="bank-down-twice")
    second = desk.order(failure="bank-down-twice")
    assert second.status_code == 202
    assert second.location == first.location
    final = desk.finish(first)
    third = desk.order(failure="bank-down-twice")
    assert third.headers["Idempotent-Replayed"] == "true"
    assert third.get_json() == final.get_json()
    assert desk.account().effects["process-payment charged"] == 1


def test_another_key_is_another_booking(desk: Desk) -> None:
    """Who wants the same trip twice can have it."""
    answers = [desk.order("one").get_json(), desk.order("two").get_json()]
    assert len({answer["payment"]["payment"] for answer in answers}) == 2


# Failures that are no matter of times


def test_bank_outage_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage lasts for its time, however often the bank is called meanwhile."""
    response = desk.trip("bank-outage")
    desk.client.advance(3.6)
    assert desk.tries(response)["process-payment"] == 3
    monkeypatch.setattr(ledger, "seconds_since", lambda moment: 8.1)
    assert desk.finish(response).status_code == 200
    assert desk.account().calls["process-payment"] == 4


def test_slow_airline_says_so(desk: Desk) -> None:
    """A step that takes long says how it is getting on."""
    response = desk.trip("slow-airline")
    url = desk.client.status(response)["events_url"]
    events = desk.client.get(url).text
    assert '"locking seat 14A on FD 101"' in events
    assert '"no answer yet (12 of 12)"' in events
    assert events.index("12 of 12") < events.index("seat 14A is held")


@pytest.mark.parametrize("failure", [f.name for f in FLOWS["trips.book_trip"]])
def test_every_step_says_something(desk: Desk, failure: str) -> None:
    """Whoever watches reads a line of each step that called somebody."""
    if failure.startswith("killed"):
        failure = "none"

    response = desk.trip(failure, step="reserve-flight", times="1")
    desk.finish(response)
    text = desk.client.get(desk.client.status(response)["events_url"]).text
    said = set(re.findall(r'"message": ".+?", "data": {}, "step": "(.+?)"', text))
    assert set(desk.account().calls) == said


# The manager


def test_manager_approves(desk: Desk) -> None:
    """A dear trip waits for the manager, and is paid after that."""
    response = desk.order(cabin="business")
    waiting = desk.client.status(response)["waiting_for"]
    assert (waiting["kind"], waiting["step"]) == ("callback", "approval")
    assert desk.account().calls == {"search-availability": 1, "reserve-flight": 1}
    assert desk.decide("approve").status_code == 303
    final = desk.finish(response)
    assert final.status_code == 200
    assert final.get_json()["payment"]["amount"] > 1000
    assert "approved" in desk.desk_page()


def test_manager_declines(desk: Desk) -> None:
    """The seat is given back, and the answer has the manager's note."""
    response = desk.order(cabin="business")
    desk.decide("decline", "Take the <b>train</b>.")
    final = desk.finish(response)
    assert final.status_code == 402
    reason = {"step": "approval", "error": "Take the <b>train</b>."}
    assert final.get_json() == {"success": False, **reason}
    assert desk.account().effects == {
        "reserve-flight reserved": 1,
        "release-flight released": 1,
    }
    assert "Take the &lt;b&gt;train&lt;/b&gt;." in desk.desk_page()


def test_manager_sleeps(desk: Desk) -> None:
    """No answer is a no, and one that comes later is told so."""
    response = desk.order(cabin="business")
    desk.client.advance(dt.timedelta(minutes=3, seconds=1))
    final = desk.finish(response)
    assert final.status_code == 402
    assert final.get_json()["step"] == "approval"
    assert desk.account().effects["release-flight released"] == 1
    desk.decide("approve")
    assert "came too late" in desk.desk_page()
    assert "process-payment charged" not in desk.account().effects


def test_desk_is_cleared(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody answered in time lies there no more."""
    desk.order(cabin="business")
    assert 'name="token"' in desk.desk_page()
    monkeypatch.setattr(manager, "PATIENCE", dt.timedelta(0))
    assert 'name="token"' not in desk.desk_page()


def test_first_answer_counts(desk: Desk) -> None:
    """Of two windows with the form, the first decides."""
    response = desk.order(cabin="business")
    page = desk.desk_page()
    desk.decide("approve")
    token = re.findall(r'name="token" value="(.*?)"', page)[0]
    form = {"token": token, "answer": "decline"}
    assert desk.client.post("/manager/", data=form).status_code == 303
    assert desk.finish(response).status_code == 200
    assert "declined" not in desk.desk_page()


def test_nobody_else_decides(desk: Desk) -> None:
    """A token that is not ours is refused."""
    desk.order(cabin="business")
    form = {"token": "made-up", "answer": "approve"}
    assert desk.client.post("/manager/", data=form).status_code == 404


def test_approval_is_safe_to_replay(app: Flask) -> None:
    """The manager is asked once, however often the view is replayed."""
    desk = Desk(app, always_replay=True)
    response = desk.order(cabin="business")

    with pytest.raises(StillWaiting):
        desk.finish(response)

    assert desk.desk_page().count('name="token"') == 1
    desk.decide("approve")
    assert desk.finish(response).status_code == 200
    assert set(desk.account().effects.values()) == {1}


# The page


def test_page_offers_every_failure(desk: Desk) -> None:
    """Each failure can be chosen, and nothing from elsewhere is loaded."""
    page = desk.client.get("/")
    assert page.status_code == 200
    for choices in FLOWS.values():
        for failure in choices:
            assert f'value="{failure.name}"' in page.text
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)


@pytest.mark.parametrize("path", ["/", "/manager/"])
def test_pages_run_nothing_foreign(desk: Desk, path: str) -> None:
    """Only the app's own files are loaded, and no script stands in the page."""
    page = desk.client.get(path)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert not re.search(
        r"<script(?! type=\"module\" src=)|\sstyle=|\son\w+=", page.text
    )


@pytest.mark.parametrize("view", [trips.book_trip, trips.book_package, trips.process])
def test_page_shows_the_real_source(desk: Desk, view: t.Any) -> None:
    """Line by line it is what runs, with the steps where they are called."""
    page = html.unescape(desk.client.get("/").text)
    shown = re.findall(r"<li data-number.*?><code>(.*)</code></li>", page)
    lines = [re.sub(r"</?span.*?>", "", line) for line in shown]
    source = inspect.getsource(inspect.unwrap(view)).splitlines()
    assert any(lines[n:][: len(source)] == source for n in range(len(lines)))


def test_source_knows_its_steps() -> None:
    """Each step's line is known, a wait's too, and which steps run whatever happens."""
    source = read_source(trips.book_trip)
    texts = {
        name: "".join(text for _, text in line.pieces)
        for line in source.lines
        for name in line.steps
    }
    assert 'step.run("process-payment"' in texts["process-payment"]
    assert "approval.wait(" in texts["approval"]
    assert source.planned == [
        "search-availability",
        "reserve-flight",
        "process-payment",
        "confirm-booking",
    ]


def test_the_page_links_to_the_console(desk: Desk) -> None:
    """Its address has a place for the execution's id."""
    page = desk.client.get("/").text
    assert 'data-console-url="/durable/console/executions/ID"' in page


# The button


def test_kill_takes_json_alone(desk: Desk) -> None:
    """The form of another site can't press the button."""
    answer = desk.client.post("/kill", data={"execution": "x"})
    assert answer.status_code == 415


def test_only_servers_of_this_app_are_killed() -> None:
    """A process that is no sibling is left alone, and one that is gone, too."""
    own = os.getpid()
    assert failures.find_server(None) == own
    assert failures.find_server(1) == own
    assert failures.find_server(own) == own


# The command


def test_secret_key_stays(tmp_path: pathlib.Path) -> None:
    """Links are good after a restart, and the key is its owner's alone."""
    key = command.keep_secret_key(tmp_path / "data")
    assert command.keep_secret_key(tmp_path / "data") == key
    assert len(key) == 64
    assert stat.S_IMODE((tmp_path / "data/secret_key").stat().st_mode) == 0o600


def test_folder_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    """A data folder that can't be made is named, with the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"Can't use .*file/data.* another --data"):
        command.main(["--data", str(tmp_path / "file/data")])


def test_port_that_is_taken() -> None:
    """A port that was asked for is not replaced by another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(SystemExit) as exit:
            command.listen(taken)
    assert exit.value.code == (
        f"Can't listen on 127.0.0.1:{taken}: Address already in use."
        " Choose another --port."
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--port=80000", "80000 is no port. Choose a number from 0 to 65535."),
        ("--port=-1", "-1 is no port."),
        ("--port=http", "http is no port."),
        ("--workers=0", "0 workers can't serve anything. Choose 1 or more."),
        ("--workers=-2", "-2 workers can't serve anything."),
    ],
)
def test_options_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], arguments: str, sentence: str
) -> None:
    """What can't work is refused with the way out, not with a traceback."""
    with pytest.raises(SystemExit):
        command.parse([arguments])
    assert sentence in capsys.readouterr().err


def test_first_port_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a wish the next free port is taken, and named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(command, "FIRST_PORT", taken)
        with command.listen(None) as listener:
            port = listener.getsockname()[1]
    assert port > taken
    assert capsys.readouterr().out == f"{taken} is taken, so this is port {port}.\n"


# Servers that are killed


@pytest.fixture
def server(tmp_path: pathlib.Path) -> cabc.Iterator[TripBooker]:
    """Run the example with two workers."""
    with TripBooker(tmp_path) as server:
        yield server


class Case(t.NamedTuple):
    """A booking that costs a server its life."""

    path: str
    body: dict[str, t.Any]
    calls: dict[str, int]
    effects: dict[str, int]


KILLS = {
    "killed-during-payment": Case(
        "book-trip",
        TRIP,
        {
            "search-availability": 1,
            "reserve-flight": 1,
            "process-payment": 2,
            "confirm-booking": 1,
        },
        {
            "reserve-flight reserved": 1,
            "process-payment charged": 1,
            "confirm-booking sent": 1,
        },
    ),
    "killed-after-payment": Case(
        "book-trip",
        TRIP,
        {
            "search-availability": 1,
            "reserve-flight": 1,
            "process-payment": 1,
            "confirm-booking": 1,
        },
        {
            "reserve-flight reserved": 1,
            "process-payment charged": 1,
            "confirm-booking sent": 1,
        },
    ),
    "killed-during-processing": Case(
        "process",
        ORDER,
        {"enrich-data": 1, "process": 2, "notify": 1},
        {"notify sent": 1},
    ),
}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("failure", KILLS)
def test_server_is_killed(server: TripBooker, failure: str) -> None:
    """Another server goes on at once; what was done stays done."""
    case = KILLS[failure]
    path = f"/api/{case.path}?failure={failure}"
    with pytest.raises(OSError):
        server.request(path, case.body, "k")
    status_url = server.find(path, case.body, "k")
    document = server.wait(status_url, "completed", "failed", "cancelled")
    account = server.account(document["id"])
    assert document["status"] == "completed"
    assert document["attempt"] == 2
    assert account.calls == case.calls
    assert account.effects == case.effects
    assert len(account.pids) == 2
    assert account.pids[0] == account.kills[0]["pid"]
    killed = dt.datetime.fromisoformat(account.kills[0]["at"])
    assert dt.datetime.fromisoformat(document["finished_at"]) - killed < SOON
    status, answer = server.request(document["response_url"])
    assert status == 200
    assert answer["success"] is True


@pytest.mark.slow
@pytest.mark.chaos
def test_server_is_killed_while_three_providers_work(server: TripBooker) -> None:
    """Who had not answered is asked again, and each books once."""
    path = "/api/book-package?failure=killed-during-hotel"
    with pytest.raises(OSError):
        server.request(path, PACKAGE, "k")
    status_url = server.find(path, PACKAGE, "k")
    document = server.wait(status_url, "completed", "failed", "cancelled")
    account = server.account(document["id"])
    assert document["status"] == "completed"
    assert account.calls["book-hotel"] == 2
    assert account.calls["send-confirmation"] == 1
    assert account.effects == {
        "book-flight booked": 1,
        "book-hotel booked": 1,
        "book-car booked": 1,
        "send-confirmation sent": 1,
    }


@pytest.mark.slow
@pytest.mark.chaos
def test_button_kills_the_server_at_work(tmp_path: pathlib.Path) -> None:
    """The worker that runs the booking is killed, and the other one goes on."""
    with TripBooker(tmp_path, latency=0.3) as server:
        path = "/api/book-trip?failure=slow-airline"
        headers = {"Prefer": "respond-async"}
        document = server.send(path, TRIP, "k", headers).document
        wait_until(lambda: "reserve-flight" in server.account(document["id"]).calls)
        pid = server.account(document["id"]).pids[0]
        body = {"execution": document["id"]}
        assert server.request("/kill", body) == (200, {"pid": pid})
        wait_until(lambda: pid not in server.children())
        document = server.wait(document["status_url"], "completed", "failed")
        account = server.account(document["id"])
        assert account.calls["reserve-flight"] == 2
        assert account.effects["reserve-flight reserved"] == 1
        assert len(account.pids) == 2


@pytest.mark.slow
def test_stop_in_the_middle_and_start_again(tmp_path: pathlib.Path) -> None:
    """Ctrl-C ends all processes; the next start with the same data goes on."""
    server = TripBooker(tmp_path).start()
    status, document = server.request("/api/book-trip?failure=bank-down-twice", TRIP)
    assert (status, document["status"]) == (202, "suspended")
    os.kill(server.pid, signal.SIGINT)
    wait_until(server.ended, 10, "the server has stopped")
    assert server.kill() == 0
    assert f"Trip Booker: {server.url}/" in server.log()
    assert "Exception" not in server.log().replace("Error: the bank", "")
    with server:
        server.wait(document["status_url"], "completed")
        account = server.account(document["id"])
        assert account.calls["process-payment"] == 3


@pytest.mark.parametrize(
    ("base", "address", "status"),
    [
        ("http://localhost:8000", "127.0.0.1", 200),
        ("http://127.0.0.1:8000", "127.0.0.1", 200),
        ("http://trips.example", "127.0.0.1", 404),
        ("http://localhost:8000", "192.0.2.7", 404),
    ],
)
def test_the_console_is_for_this_machine(
    app: Flask, base: str, address: str, status: int
) -> None:
    """It shows a booking to who sits at it, and to nobody else."""
    desk = Desk(app)
    desk.finish(desk.trip())
    page = desk.client.get(
        f"/durable/console/executions/{desk.execution}",
        base_url=base,
        environ_overrides={"REMOTE_ADDR": address},
    )
    assert page.status_code == status
    assert ("process-payment" in page.text) == (status == 200)
