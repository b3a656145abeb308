"""Real clients of real servers: requests, curl, webhooks, event sources."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import subprocess
import time
import typing as t
import uuid

import pytest
import requests

from .. import servers
from ..processes import Gunicorn
from ..processes import wait_until
from ..processes import Worker
from ..test_stream import Message
from ..test_stream import parse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

APP = "tests.integration.apps.clients:app"


class Clients:
    """The app under gunicorn with two processes."""

    def __init__(self, server: Gunicorn) -> None:
        self.server = server
        self.session = requests.Session()
        self.session.trust_env = False

    def post(self, path: str, **options: t.Any) -> requests.Response:
        """Send a request over a connection of its own: any process may get it."""
        headers = {"Connection": "close", **options.pop("headers", {})}
        url = f"{self.server.url}{path}"
        return requests.post(url, headers=headers, timeout=60, **options)

    def get(self, url: str, **options: t.Any) -> requests.Response:
        """Fetch what is behind a link."""
        return self.session.get(url, timeout=60, **options)

    def calls(self, name: str) -> int:
        """Count the real calls of the step's function for a name."""
        ledger = self.server.cwd / "calls.txt"
        text = ledger.read_text() if ledger.exists() else ""
        return text.splitlines().count(name)


@contextlib.contextmanager
def running(folder: pathlib.Path, url: str, **options: t.Any) -> cabc.Iterator[Clients]:
    """Run the app."""
    env = {"FLASK_SECRET_KEY": "tests", "FLASK_DURABLE_DATABASE_URL": url}

    with Gunicorn(APP, folder, workers=2, env=env, **options) as server:
        yield Clients(server)


KINDS: dict[str, dict[str, t.Any]] = {
    "sqlite": {"worker_class": "gthread", "threads": 8},
    "postgresql": {"worker_class": "gthread", "threads": 8},
    "gevent": {"worker_class": "gevent"},
}


@pytest.fixture(params=list(KINDS), scope="module")
def clients(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> cabc.Iterator[Clients]:
    """Run the app on both databases, and with greenlets."""
    folder = tmp_path_factory.mktemp(request.param)

    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{folder}/journal.db"

        if request.param == "postgresql":
            server: servers.Postgres = request.getfixturevalue("postgres_server")
            url = stack.enter_context(server.database())

        yield stack.enter_context(running(folder, url, **KINDS[request.param]))


@pytest.fixture
def name() -> str:
    """Name this test's order."""
    return uuid.uuid4().hex[:8]


def test_of_requests_that_race_one_runs(clients: Clients, name: str) -> None:
    """Twelve with one key, in two processes: the others are told to come again."""
    key = {"Idempotency-Key": f'"{name}"'}

    def send(number: int) -> requests.Response:
        return clients.post(f"/orders/{name}?seconds=1", headers=key)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(12)))

    codes = [answer.status_code for answer in answers]
    first = [a for a in answers if "Idempotent-Replayed" not in a.headers]
    assert set(codes) <= {201, 409}
    assert [a.status_code for a in first].count(201) == 1
    assert clients.calls(name) == 1
    assert len({answer.headers["Durable-Execution"] for answer in answers}) == 1
    again = send(0)
    assert (again.status_code, again.json()) == (201, {"charged": name})
    assert again.headers["Idempotent-Replayed"] == "true"


def test_a_client_that_repeats_gets_its_response(clients: Clients, name: str) -> None:
    """As the draft says: after a conflict or a promise, the same request again."""
    key = {"Idempotency-Key": f'"{name}"'}

    def send() -> requests.Response | None:
        answer = clients.post(f"/naps/{name}", headers=key)
        return answer if answer.status_code == 200 else None

    answer = wait_until(send, 60, "the response is there")
    assert answer is not None and answer.json() == {"charged": name}
    assert clients.calls(name) == 1


def test_a_client_may_wait(clients: Clients, name: str) -> None:
    """One request, one response, although the view slept in between."""
    answer = clients.post(f"/naps/{name}", headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()) == (200, {"charged": name})
    assert answer.headers["Preference-Applied"] == "wait=20"


def test_a_client_may_not_wait(clients: Clients, name: str) -> None:
    """The view runs elsewhere; by the link it is waited for."""
    began = time.monotonic()
    url = f"/naps/{name}?seconds=3"
    answer = clients.post(url, headers={"Prefer": "respond-async"})
    assert time.monotonic() - began < 2.9
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    final = clients.get(answer.json()["response_url"] + "?wait=20")
    assert (final.status_code, final.json()) == (200, {"charged": name})
    assert clients.calls(name) == 1


def test_many_clients_may_wait_and_others_are_served(
    clients: Clients, name: str
) -> None:
    """At most half of the threads wait; the others are promised."""

    def send(number: int) -> int:
        url = f"/naps/{name}-{number}?nap=4"
        return clients.post(url, headers={"Prefer": "wait=15"}).status_code

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        waiting = [pool.submit(send, number) for number in range(24)]
        time.sleep(1.5)
        began = time.monotonic()
        assert clients.post(f"/orders/{name}").status_code == 201
        assert time.monotonic() - began < 2.5
        codes = [one.result(60) for one in waiting]

    assert set(codes) <= {200, 202}
    assert codes.count(200) >= 1


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_curl_follows_to_the_response(clients: Clients, name: str) -> None:
    """With -L, as a browser follows: one command, the final response."""
    url = f"{clients.server.url}/naps/{name}"
    page = ["-H", "Accept: text/html", "-H", 'Idempotency-Key: "curl"']
    command = ["curl", "--silent", "--show-error", "-q", "-L", "-i", "--noproxy", "*"]
    done = subprocess.run(
        [*command, *page, "--data", "a=1", url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    heads = [line for line in done.stdout.splitlines() if line.startswith("HTTP/")]
    assert [head.split()[1] for head in heads] == ["303", "200"], done
    assert json.loads(done.stdout.splitlines()[-1]) == {"charged": name}


def test_a_webhook_is_taken_once(clients: Clients, name: str) -> None:
    """Its sender accepts 2xx alone, repeats all else, and sends some twice."""
    event = {"id": name, "type": "invoice.paid", "livemode": False}

    def deliver() -> int:
        for _ in range(50):
            answer = clients.post("/hooks", json=event)

            if answer.ok:
                return answer.status_code

            time.sleep(0.2)

        raise AssertionError("the webhook was never accepted")

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        codes = [one.result() for one in [pool.submit(deliver) for _ in range(3)]]

    assert set(codes) <= {202, 204}
    wait_until(lambda: deliver() == 204, 60, "the webhook is done")
    assert clients.calls(name) == 1


def test_an_event_source_sees_everything(clients: Clients, name: str) -> None:
    """Across streams that break, by the id of the last event."""
    answer = clients.post(f"/naps/{name}?nap=3", headers={"Prefer": "respond-async"})
    url = answer.json()["events_url"]
    found: list[Message] = []
    last = ""

    for breaks in (2, 4, 100):
        headers = {"Last-Event-ID": last} if last else {}

        with clients.get(url, headers=headers, stream=True) as stream:
            text = ""

            for chunk in stream.iter_content(None):
                text += chunk.decode()

                if len(parse(text)) >= breaks:
                    break

        new = parse(text)
        found += new
        last = new[-1].id if new else last

        if last == "end":
            break

    said = [message.data for message in found if message.event == "progress"]
    messages = list(dict.fromkeys(line["message"] for line in said))
    assert messages == ["charging", "charged"]
    done = {m.data["id"] for m in found if m.data.get("status") == "completed"}
    assert {"charge", "nap"} <= done
    assert last == "end"
    assert clients.get(url, headers={"Last-Event-ID": "end"}).status_code == 204


def test_a_sync_worker_has_no_place_for_watchers(tmp_path: pathlib.Path) -> None:
    """It is answered at once, and a stream closes after what there is."""
    with running(tmp_path, f"sqlite:///{tmp_path}/journal.db") as clients:
        answer = clients.post("/naps/a?nap=60", headers={"Prefer": "wait=20"})
        assert answer.status_code == 202
        assert "Preference-Applied" not in answer.headers
        stream = clients.get(answer.json()["events_url"])
        assert stream.text.startswith("retry: 5000\n")
        assert parse(stream.text)[0].event == "execution"


def test_with_rq_a_worker_runs_what_is_answered_at_once(
    tmp_path: pathlib.Path, database_url: str, redis_url: str
) -> None:
    """And the client that waits is told by the database."""
    env = {
        "FLASK_SECRET_KEY": "tests",
        "FLASK_DURABLE_DATABASE_URL": database_url,
        "FLASK_DURABLE_REDIS_URL": redis_url,
    }
    options: dict[str, t.Any] = {"worker_class": "gthread", "threads": 4}

    with Gunicorn(APP, tmp_path, env=env, **options) as server:
        clients = Clients(server)
        headers = {"Prefer": "respond-async, wait=20", "Idempotency-Key": "rq"}

        with Worker(APP, tmp_path, env=env):
            answers = [clients.post("/naps/rq", headers=headers) for _ in range(2)]

    assert [answer.json() for answer in answers] == [{"charged": "rq"}] * 2
    assert "Idempotent-Replayed" in answers[1].headers
    assert clients.calls("rq") == 1
