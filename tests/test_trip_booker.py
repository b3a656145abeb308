"""The Trip Booker: its three flows, each with everything that can go wrong."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import os
import pathlib
import re
import signal
import socket
import stat
import typing as t
import urllib.parse

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from example_trip_booker import __main__ as command
from example_trip_booker import create_app
from example_trip_booker.failures import FLOWS
from flask_durable.testing import Crashed
from flask_durable.testing import durable_client

from .processes import wait_until
from .trip_booker import Account
from .trip_booker import ORDER
from .trip_booker import PACKAGE
from .trip_booker import TRIP
from .trip_booker import TripBooker

REFERENCE = "a-reference"

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
        self.finish = self.client.run_until_complete

    def trip(self, failure: str = "none", **fields: str) -> TestResponse:
        """Send the request of the trip's flow."""
        return self.client.get(
            "/api/book-trip", query_string=self.query(failure) | fields
        )

    def package(self, failure: str = "none") -> TestResponse:
        """Send the request of the package's flow."""
        query = self.query(failure)
        return self.client.post("/api/book-package", query_string=query, json=PACKAGE)

    def process(self, failure: str = "none") -> TestResponse:
        """Send the request of the processing's flow."""
        query = self.query(failure)
        return self.client.post("/api/process", query_string=query, json=ORDER)

    def query(self, failure: str) -> dict[str, str]:
        """Give what the page sends beside the flow's own fields."""
        return {**TRIP, "failure": failure, "reference": REFERENCE}

    def account(self) -> Account:
        """Ask what the providers know."""
        return Account(self.client.get(f"/bookings/{REFERENCE}").get_json())

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
    other = desk.client.get("/api/book-trip", query_string=TRIP | {"origin": "SFO"})
    assert other.get_json()["payment"]["amount"] != trip["payment"]["amount"]


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
    query = desk.query("seat-lock-times-out")
    response = durable_client(inline).get("/api/book-trip", query_string=query)
    inline.extensions["durable"].close()
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
    [("registry-times-out", 2, 1), ("mailer-down-twice", 1, 3)],
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
    response = desk.process("bad-data")
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
    response = desk.client.get("/api/book-trip?origin=NYC&date=&reference=a-reference")
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
    document = desk.client.get(f"/bookings/{REFERENCE}").get_json()
    assert document == {"reference": REFERENCE, "status_url": None}


def test_repeated_request_books_once(desk: Desk) -> None:
    """A browser that repeats its request is sent to the booking under way."""
    first = desk.trip("bank-down-twice")
    second = desk.trip("bank-down-twice")
    assert second.status_code == 303
    assert second.location == first.location
    assert desk.account().calls["reserve-flight"] == 1


def test_booking_without_reference(desk: Desk) -> None:
    """Who needs no page needs no reference."""
    assert desk.client.get("/api/book-trip", query_string=TRIP).status_code == 200


# The page


def test_page_offers_every_failure(desk: Desk) -> None:
    """Each failure can be chosen, and nothing from elsewhere is loaded."""
    page = desk.client.get("/")
    assert page.status_code == 200
    for failures in FLOWS.values():
        for failure in failures:
            assert f'value="{failure.name}"' in page.text
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    assert page.headers["Content-Security-Policy"] == "default-src 'self'"


def test_page_lists_the_last_bookings(desk: Desk) -> None:
    """Who comes back finds what was booked, newest first, under any reference."""
    assert "Last bookings" not in desk.client.get("/").text
    desk.trip("bank-down-twice", reference='a/b"?#')
    desk.package()
    links = re.findall(r'<a href="#(.*)">(.*)</a>', desk.client.get("/").text)
    assert [title for _, title in links] == [
        "Package: Nothing fails",
        "Trip: The bank is down twice",
    ]
    reference = urllib.parse.unquote(links[1][0])
    quoted = urllib.parse.quote(reference, safe="")
    document = desk.client.get(f"/bookings/{quoted}").get_json()
    assert document["reference"] == 'a/b"?#'
    assert document["status_url"]


def test_booking_that_nobody_knows(desk: Desk) -> None:
    """Before its request has come, a booking has no status yet."""
    document = desk.client.get("/bookings/unknown").get_json()
    assert document["status_url"] is None


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


TRIP_QUERY = urllib.parse.urlencode(TRIP)


class Case(t.NamedTuple):
    """A booking that costs a server its life."""

    path: str
    body: dict[str, t.Any] | None
    calls: dict[str, int]
    effects: dict[str, int]


KILLS = {
    "killed-during-payment": Case(
        "book-trip",
        None,
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
        None,
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
    url = f"{server.url}/api/{case.path}?failure={failure}&reference=k&{TRIP_QUERY}"
    with pytest.raises(OSError):
        server.request(url, case.body)
    document = server.wait("k", "completed", "failed", "cancelled")
    account = server.account("k")
    assert document["status"] == "completed"
    assert document["attempt"] == 2
    assert account.calls == case.calls
    assert account.effects == case.effects
    assert len(account.pids) == 2
    assert account.pids[0] == account.kills[0]["pid"]
    killed = dt.datetime.fromisoformat(account.kills[0]["at"])
    assert dt.datetime.fromisoformat(document["finished_at"]) - killed < SOON
    status, answer = server.get(document["response_url"])
    assert status == 200
    assert answer["success"] is True


@pytest.mark.slow
@pytest.mark.chaos
def test_server_is_killed_while_three_providers_work(server: TripBooker) -> None:
    """Who had not answered is asked again, and each books once."""
    url = f"{server.url}/api/book-package?failure=killed-during-hotel&reference=k"
    with pytest.raises(OSError):
        server.request(url, PACKAGE)
    document = server.wait("k", "completed", "failed", "cancelled")
    account = server.account("k")
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
def test_stop_in_the_middle_and_start_again(tmp_path: pathlib.Path) -> None:
    """Ctrl-C ends all processes; the next start with the same data goes on."""
    server = TripBooker(tmp_path).start()
    url = f"{server.url}/api/book-trip?failure=bank-down-twice&reference=r&{TRIP_QUERY}"
    status, document = server.request(url)
    assert (status, document["status"]) == (202, "suspended")
    os.kill(server.pid, signal.SIGINT)
    wait_until(server.ended, 10, "the server has stopped")
    assert server.kill() == 0
    assert f"Trip Booker: {server.url}/" in server.log()
    assert "Exception" not in server.log().replace("Error: the bank", "")
    with server:
        server.wait("r", "completed")
        assert server.account("r").calls["process-payment"] == 3
