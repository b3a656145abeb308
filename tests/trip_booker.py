"""The Trip Booker as tests use it: its three flows, its account, its server."""

from __future__ import annotations

import collections
import collections.abc as cabc
import json
import pathlib
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from .processes import wait_until
from .processes import WebServer

ROOT = pathlib.Path(__file__).parent.parent

TRIP = {"origin": "NYC", "destination": "LAX", "date": "2030-12-24"}
PACKAGE = {"flightId": "FD 101", "hotelId": "Harbour Inn", "carId": "Compact"}
ORDER = {"userId": "user-42", "data": ["two", "tickets"]}


Body: t.TypeAlias = cabc.Mapping[str, t.Any] | None


class Answer(t.NamedTuple):
    """What a server answered."""

    status: int
    headers: cabc.Mapping[str, str]
    document: t.Any


class Account:
    """What the providers know of a booking, as ``/ledger/<execution>`` tells it."""

    def __init__(self, document: dict[str, t.Any]) -> None:
        self.document = document
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

    def account(self, execution: str) -> Account:
        """Ask what the providers know of an execution."""
        status, document = self.request(f"/ledger/{execution}")
        assert status == 200
        return Account(document)

    def send(
        self,
        path: str,
        body: Body = None,
        key: str | None = None,
        headers: cabc.Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request as any client would; a body makes it a POST of JSON.

        :raises OSError: if the server dies before it answers
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(urllib.parse.urljoin(self.url, path), data)
        sent = {"Content-Type": "application/json"} if data else {}
        sent |= {"Idempotency-Key": key} if key else {}
        for name, value in {**sent, **(headers or {})}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(
                    response.status, dict(response.headers), json.load(response)
                )
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), json.load(error))

    def request(
        self, path: str, body: Body = None, key: str | None = None
    ) -> tuple[int, t.Any]:
        """Send a request, and give its answer's status and JSON."""
        answer = self.send(path, body, key)
        return answer.status, answer.document

    def find(self, path: str, body: Body, key: str) -> str:
        """Send a request again whose answer was lost, and give its status link."""
        links = self.send(path, body, key).headers["Link"]
        return links.partition("<")[2].partition(">")[0]

    def wait(self, status_url: str, *states: str) -> dict[str, t.Any]:
        """Wait until a booking is in one of these states, and give its document."""

        def reached() -> dict[str, t.Any] | None:
            document: dict[str, t.Any] = self.request(status_url)[1]
            return document if document["status"] in states else None

        document = wait_until(reached, 20, f"it is {' or '.join(states)}")
        assert document is not None
        return document
