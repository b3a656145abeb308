"""The Trip Booker as tests use it: its three flows, its account, its server."""

from __future__ import annotations

import collections
import collections.abc as cabc
import json
import pathlib
import typing as t
import urllib.error
import urllib.request

from .processes import wait_until
from .processes import WebServer

ROOT = pathlib.Path(__file__).parent.parent

TRIP = {"origin": "NYC", "destination": "LAX", "date": "2030-12-24"}
PACKAGE = {"flightId": "FD 101", "hotelId": "Harbour Inn", "carId": "Compact"}
ORDER = {"userId": "user-42", "data": ["two", "tickets"]}


class Account:
    """What the providers know of a booking, as ``/bookings/<reference>`` tells it."""

    def __init__(self, document: dict[str, t.Any]) -> None:
        self.document = document
        self.status_url: str = document["status_url"]
        self.kills: list[dict[str, t.Any]] = document["kills"]

    @property
    def calls(self) -> dict[str, int]:
        """How often each step called its provider."""
        return dict(collections.Counter(row["step"] for row in self.document["calls"]))

    @property
    def effects(self) -> dict[str, int]:
        """How often each step changed something."""
        steps = [f"{row['step']} {row['effect']}" for row in self.document["effects"]]
        return dict(collections.Counter(steps))

    @property
    def pids(self) -> list[int]:
        """The server processes that called, each once, in their order."""
        return list(dict.fromkeys(row["pid"] for row in self.document["calls"]))


class TripBooker(WebServer):
    """``python -m example_trip_booker`` with its data in a folder."""

    def __init__(self, folder: pathlib.Path, *, latency: float = 0.0) -> None:
        super().__init__(
            "example_trip_booker",
            ["--port={port}", f"--data={folder / 'data'}"],
            folder,
            {"PYTHONPATH": str(ROOT), "FLASK_TRIP_BOOKER_LATENCY": str(latency)},
            None,
        )

    def ready(self) -> bool:
        """Tell whether both workers are there."""
        return len(self.children()) >= 2 and super().ready()

    def account(self, reference: str) -> Account:
        """Ask what is known of a booking."""
        status, document = self.get(f"{self.url}/bookings/{reference}")
        assert status == 200
        return Account(document)

    def wait(self, reference: str, *states: str) -> dict[str, t.Any]:
        """Wait until a booking is in one of these states, and give its document."""
        url = self.account(reference).status_url

        def reached() -> dict[str, t.Any] | None:
            document = self.get(url)[1]
            return document if document["status"] in states else None

        document = wait_until(reached, 20, f"{reference} is {' or '.join(states)}")
        assert document is not None
        return document

    def get(self, url: str) -> tuple[int, t.Any]:
        """Get JSON, also with an error's status."""
        return self.request(url)

    def request(
        self, url: str, body: cabc.Mapping[str, t.Any] | None = None
    ) -> tuple[int, t.Any]:
        """Send a request as any client would; a body makes it a POST of JSON.

        :raises OSError: if the server dies before it answers
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data)
        if data:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
