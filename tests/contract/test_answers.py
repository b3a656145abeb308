"""What the client sees: 202, 303, the status document and the stored response."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import functools
import typing as t
import uuid
from urllib.parse import urlsplit

import pytest
from flask import abort
from flask import Flask
from flask import Response
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from itsdangerous import URLSafeSerializer

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step

from ..driving import Drive
from ..driving import status_link
from .helpers import down
from .helpers import Failing
from .helpers import Flaky

HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def napping(app: Flask, durable: FlaskDurable) -> None:
    """Register a view that sleeps once."""

    @app.route("/work", methods=["GET", "POST"])
    @durable.endpoint
    def work() -> str:
        step.run("reserve", lambda: "14A")
        step.sleep("nap", 600)
        return "awake"


def test_a_suspended_execution_is_accepted(
    app: Flask, napping: None, client: FlaskClient
) -> None:
    """202, where to look, when to look again, and the status document."""
    response = client.post("/work")
    document = response.get_json()
    assert response.status_code == 202
    assert response.headers["Location"] == document["status_url"]
    assert response.headers["Location"] == status_link(response)
    assert int(response.headers["Retry-After"]) >= 1
    assert document["id"] == response.headers["Durable-Execution"]
    assert document["status"] == "suspended"


class OfApp(Response):
    """The class of an app's responses."""


@pytest.mark.parametrize("headers", [{}, {"Accept": HTML}, {"Prefer": "respond-async"}])
def test_answers_are_of_the_apps_own_class(
    app: Flask, durable: FlaskDurable, drive: Drive, headers: dict[str, str]
) -> None:
    """Decorators above the endpoint look for it: a promise, and a stored answer."""
    app.response_class = OfApp
    seen: list[bool] = []

    def render(view: cabc.Callable[[], t.Any]) -> cabc.Callable[[], t.Any]:
        @functools.wraps(view)
        def rendered() -> t.Any:
            seen.append(isinstance(answer := view(), OfApp))
            return answer

        return rendered

    @app.post("/work")
    @render
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 600)
        return "awake"

    sent = {"Idempotency-Key": "k", **headers}
    app.test_client().post("/work", headers=sent)
    drive.run_due()
    drive.advance(601)
    drive.run_due()
    assert app.test_client().post("/work", headers=sent).text == "awake"
    assert len(seen) >= 3 and all(seen)


def test_the_status_document_has_all_its_fields(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """The same in the 202 and at the status url."""
    response = client.post("/work")
    document = drive.status(response)
    assert document["endpoint"] == "work"
    assert document["attempt"] == 1
    assert document["finished_at"] is None
    assert set(document["waiting_for"]) >= {"kind", "step", "until"}
    assert {"status_url", "response_url"} <= set(document)
    assert set(document["steps"][0]) >= {
        "id",
        "kind",
        "status",
        "tries",
        "started_at",
        "finished_at",
        "error_type",
    }
    assert set(response.get_json()) == set(document)


def test_times_in_the_status_document_are_aware_and_in_order(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """ISO 8601 with the zone; what is finished has both times."""
    # Who drives the clock moves what was.
    before = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    response = client.post("/work")
    drive.finish(response)
    document = drive.status(response)
    created = dt.datetime.fromisoformat(document["created_at"])
    finished = dt.datetime.fromisoformat(document["finished_at"])
    assert before < created <= finished
    (reserve,) = (one for one in document["steps"] if one["id"] == "reserve")
    started = dt.datetime.fromisoformat(reserve["started_at"])
    ended = dt.datetime.fromisoformat(reserve["finished_at"])
    assert started <= ended


def test_a_finished_execution_waits_for_nothing(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """Status ``completed``, two attempts, both steps completed."""
    response = client.post("/work")
    drive.finish(response)
    document = drive.status(response)
    assert document["status"] == "completed"
    assert document["attempt"] == 2
    assert document["waiting_for"] is None
    assert [one["status"] for one in document["steps"]] == ["completed"] * 2


def test_the_status_document_names_the_error_of_a_failed_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Its type, not its message."""

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> str:
        step.run("reserve", lambda: 1)
        return step.run("charge", Failing(down))

    document = drive.status(client.post("/work"))
    errors = {one["id"]: one["error_type"] for one in document["steps"]}
    assert errors["reserve"] is None
    assert errors["charge"].endswith("ConnectionError")
    assert "bank is down" not in repr(document)


def test_the_status_document_has_the_newest_hundred_steps(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A long execution doesn't make a long document."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        for n in range(105):
            step.run(f"step {n}", lambda: None)
        return "done"

    document = drive.status(client.post("/work"))
    assert {one["id"] for one in document["steps"]} == {
        f"step {n}" for n in range(5, 105)
    }


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("return", 200),
        ("empty", 204),
        ("client error", 422),
        ("abort", 404),
        ("error", 500),
        ("suspend", 202),
    ],
)
def test_every_answer_names_its_execution(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    how: str,
    status: int,
) -> None:
    """``Durable-Execution`` and ``Link``, however the view ends."""
    ids: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        ids.append(current_execution.id)
        if how == "suspend":
            step.sleep("nap", 60)
        if how == "error":
            raise ValueError("x")
        if how == "abort":
            abort(404)
        return ("", 204) if how == "empty" else ("x", status)

    response = client.post("/work")
    assert response.status_code == status
    assert response.headers["Durable-Execution"] == ids[0]
    assert drive.status(status_link(response))["id"] == ids[0]


def test_the_303_names_its_execution(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """A browser's answer as well."""
    response = client.get("/work", headers={"Accept": HTML})
    assert drive.status(response)["id"] == response.headers["Durable-Execution"]


def test_an_id_is_a_uuid_of_version_7(
    app: Flask, napping: None, client: FlaskClient
) -> None:
    """Ids grow with time."""
    first = client.post("/work").headers["Durable-Execution"]
    second = client.post("/work").headers["Durable-Execution"]
    assert uuid.UUID(first).version == 7
    assert first != second


def test_a_view_knows_its_status_url(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """To put it into a mail, or a page of its own."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return current_execution.status_url

    response = client.post("/work")
    assert response.text == status_link(response)


@pytest.mark.parametrize("accept", [HTML, "text/html", "text/html;q=0.9, */*;q=0.1"])
def test_a_browser_is_sent_to_the_response(
    app: Flask, napping: None, client: FlaskClient, drive: Drive, accept: str
) -> None:
    """303 to the response url."""
    response = client.post("/work", headers={"Accept": accept})
    assert response.status_code == 303
    location = urlsplit(response.headers["Location"])
    expected = urlsplit(drive.status(response)["response_url"])
    assert location.path == expected.path


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "application/json, text/html;q=0.5", None]
)
def test_a_program_gets_202(
    app: Flask, napping: None, client: FlaskClient, accept: str | None
) -> None:
    """Where ``Accept`` doesn't prefer a page."""
    headers = {"Accept": accept} if accept else {}
    assert client.post("/work", headers=headers).status_code == 202


@pytest.mark.parametrize(
    ("pending", "accept", "status"),
    [
        ("accepted", HTML, 202),
        ("accepted", "application/json", 202),
        ("redirect", HTML, 303),
        ("redirect", "application/json", 303),
    ],
)
def test_pending_forces_either(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    pending: t.Any,
    accept: str,
    status: int,
) -> None:
    """Whatever the client accepts."""

    @app.post("/work")
    @durable.endpoint(pending=pending)
    def work() -> str:
        step.sleep("nap", 60)
        return "awake"

    response = client.post("/work", headers={"Accept": accept})
    assert response.status_code == status


def test_pending_is_refused_when_it_is_misspelt(durable: FlaskDurable) -> None:
    """At once, not at the first suspend."""
    pending: t.Any = "acepted"
    with pytest.raises((ValueError, TypeError), match="pending"):

        @durable.endpoint(pending=pending)
        def work() -> str:
            return "done"


def test_the_response_is_202_while_pending(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """With the status document for programs."""
    document = drive.status(client.post("/work"))
    response = client.get(document["response_url"])
    assert response.status_code == 202
    assert response.get_json()["id"] == document["id"]


def test_a_browser_that_waits_gets_a_page_that_reloads_itself(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """202 as HTML."""
    document = drive.status(client.post("/work"))
    response = client.get(document["response_url"], headers={"Accept": HTML})
    assert response.status_code == 202
    assert response.mimetype == "text/html"
    page = response.text.lower()
    assert "Refresh" in response.headers or "refresh" in page or "reload" in page


def test_the_response_can_be_fetched_again_and_again(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """It stays."""
    response = client.post("/work")
    drive.finish(response)
    url = drive.status(response)["response_url"]
    assert [client.get(url).text for _ in range(3)] == ["awake"] * 3
    assert client.get(url, headers={"Accept": HTML}).text == "awake"


def test_status_and_response_are_never_cached(
    app: Flask, napping: None, client: FlaskClient, drive: Drive
) -> None:
    """``no-store``, before and after the end, and for wrong links."""
    response = client.post("/work")
    document = drive.status(response)
    urls = [document["status_url"], document["response_url"]]
    answers = [client.get(url) for url in urls]
    drive.finish(response)
    answers += [client.get(url) for url in urls]
    answers += [client.get(document["status_url"] + "x")]
    assert [one.status_code for one in answers] == [200, 202, 200, 200, 404]
    assert all("no-store" in one.headers["Cache-Control"] for one in answers)


def tampered(token: str) -> dict[str, str]:
    """Change a token in ways that an attacker may try."""
    _, dot, signature = token.rpartition(".")
    middle = len(token) // 2
    swapped = "A" if token[middle] != "A" else "B"
    return {
        "cut": token[:-1],
        "longer": token + "A",
        "changed": token[:middle] + swapped + token[middle + 1 :],
        "signature alone": dot + signature,
        "upper": token.upper(),
        "nul": token + "%00",
        "not ascii": "é" + token[1:],
        "empty signature": token.rpartition(".")[0] + ".",
    }


@pytest.mark.parametrize("how", tampered("a.b"))
@pytest.mark.parametrize("route", ["", "/response"])
def test_a_tampered_token_is_404(
    app: Flask, napping: None, client: FlaskClient, how: str, route: str
) -> None:
    """Whatever was changed; and the answer says nothing."""
    base, _, token = status_link(client.post("/work")).rpartition("/")
    response = client.get(f"{base}/{tampered(token)[how]}{route}")
    assert response.status_code == 404


def test_an_id_without_a_signature_is_404(
    app: Flask, napping: None, client: FlaskClient
) -> None:
    """Who knows an id, from a log say, doesn't have the link."""
    response = client.post("/work")
    base, _, _ = status_link(response).rpartition("/")
    id = response.headers["Durable-Execution"]
    assert client.get(f"{base}/{id}").status_code == 404
    assert client.get(f"{base}/{id}/response").status_code == 404


def test_a_token_signed_for_something_else_is_404(
    app: Flask, napping: None, client: FlaskClient
) -> None:
    """The app's key under another salt is no key to executions."""
    response = client.post("/work")
    base, _, _ = status_link(response).rpartition("/")
    signed = URLSafeSerializer(str(app.secret_key), salt="mail").dumps(
        response.headers["Durable-Execution"]
    )
    assert client.get(f"{base}/{signed}").status_code == 404


def test_the_status_url_is_under_the_apps_own_address(
    app: Flask, napping: None, client: FlaskClient
) -> None:
    """Where the client reached the app, behind a prefix as well."""
    response = client.post("/work", base_url="https://shop.example/api")
    url = status_link(response)
    assert urlsplit(url).path.startswith("/api/durable/executions/")
    if urlsplit(url).netloc:
        assert url.startswith("https://shop.example/api/")


def test_only_get_is_for_watchers(
    app: Flask, napping: None, client: FlaskClient
) -> None:
    """A link can't change anything."""
    url = status_link(client.post("/work"))
    assert client.post(url).status_code == 405
    assert client.delete(url).status_code == 405


def test_looking_runs_nothing(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Not even when the execution is due."""
    charge = Flaky("paid", down())

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=60))
    def work() -> str:
        return step.run("charge", charge)

    document = drive.status(client.post("/work"))
    drive.advance(100)
    client.get(document["status_url"])
    client.get(document["response_url"])
    assert charge.calls == 1


def test_an_execution_of_an_endpoint_without_steps_is_completed(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A durable view may have no step at all."""

    @app.get("/work")
    @durable.endpoint
    def work() -> str:
        return "plain"

    response = client.get("/work")
    document = drive.status(response)
    assert response.text == "plain"
    assert (document["status"], document["steps"]) == ("completed", [])


def test_retry_after_is_in_whole_seconds_and_not_absurd(
    app: Flask, napping: None, client: FlaskClient
) -> None:
    """It is no later than the moment at which something may have changed."""
    seconds = int(client.post("/work").headers["Retry-After"])
    assert 1 <= seconds <= 601
