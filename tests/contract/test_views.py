"""Views: how they end, what they return, how they are registered."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import functools
import io
import json
import typing as t

import pytest
from flask import abort
from flask import Blueprint
from flask import Flask
from flask import jsonify
from flask import make_response
from flask import redirect
from flask import request
from flask import Response
from flask import send_file
from flask import session
from flask import stream_with_context
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from flask.views import View
from werkzeug.exceptions import InternalServerError

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError

from ..driving import Drive
from ..driving import status_link
from . import helpers
from .conftest import MakeApp
from .helpers import down
from .helpers import Failing
from .helpers import Flaky

pytestmark = pytest.mark.config(DURABLE_INLINE_RETRY=0)

F = t.TypeVar("F", bound=cabc.Callable[..., t.Any])


def test_an_error_before_any_step_is_an_ordinary_error(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """500 at once, the execution has failed, the view ran once."""
    view = Failing(lambda: ValueError("secret"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        view()

    response = client.post("/work")
    assert response.status_code == 500
    assert drive.status(response)["status"] == "failed"
    assert drive.run_due() == 0
    assert view.calls == 1


def test_an_error_after_a_step_gives_a_new_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What is done isn't thrown away: the view may succeed the next time."""
    reserve, view = Flaky("14A"), Flaky("done", ValueError("hiccup"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("reserve", reserve) + view()

    response = client.post("/work")
    assert response.status_code == 202
    assert drive.finish(response).text == "14Adone"
    assert (reserve.calls, view.calls) == (1, 2)


def test_an_error_after_a_step_fails_when_attempts_are_used_up(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The endpoint's ``Retry`` says how often."""
    reserve, view = Flaky("14A"), Failing(lambda: ValueError("secret"))

    @app.post("/work")
    @durable.endpoint(retry=Retry(3, initial=10))
    def work() -> str:
        step.run("reserve", reserve)
        view()

    response = client.post("/work")
    assert response.status_code == 202
    final = drive.finish(response)
    assert final.status_code == 500
    assert "secret" not in final.text
    assert drive.status(response)["status"] == "failed"
    assert (reserve.calls, view.calls) == (1, 3)


def test_an_error_after_a_step_waits_as_retry_says(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A new attempt isn't sent at once."""
    view = Failing(lambda: ValueError("hiccup"))

    @app.post("/work")
    @durable.endpoint(retry=Retry(3, initial=100, factor=4, maximum=400, jitter=0))
    def work() -> str:
        step.run("reserve", lambda: 1)
        view()

    client.post("/work")
    drive.advance(50)
    assert drive.run_due() == 0
    drive.advance(51)
    assert drive.run_due() == 1
    drive.advance(350)
    assert drive.run_due() == 0
    drive.advance(51)
    assert drive.run_due() == 1
    assert view.calls == 3


def test_in_debug_an_error_after_a_step_is_an_ordinary_error(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Who develops sees it at once."""
    app.debug = True
    view = Failing(lambda: ValueError("oops"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("reserve", lambda: 1)
        view()

    response = client.post("/work")
    assert response.status_code == 500
    assert drive.status(response)["status"] == "failed"
    assert view.calls == 1


@pytest.mark.parametrize("code", [400, 404, 409, 500, 503])
def test_an_abort_completes_the_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, code: int
) -> None:
    """``abort`` is an answer, whatever its status, and isn't tried again."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("reserve", lambda: 1)
        abort(code, "that's it")

    response = client.post("/work")
    assert response.status_code == code
    assert "that&#39;s it" in response.text
    assert drive.status(response)["status"] == "completed"


@pytest.mark.parametrize("code", [201, 402, 500, 503])
def test_a_returned_response_completes_the_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, code: int
) -> None:
    """Whatever its status."""

    @app.post("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        step.run("reserve", lambda: 1)
        return {"code": code}, code

    response = client.post("/work")
    assert (response.status_code, response.json) == (code, {"code": code})
    assert drive.status(response)["status"] == "completed"
    assert drive.run_due() == 0


def test_the_apps_error_handler_makes_the_answer_of_a_failure(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A handler for the error's class, on the attempt that ends the execution."""

    @app.errorhandler(StepError)
    def sorry(error: StepError) -> ResponseReturnValue:
        return jsonify(sorry=error.step), 502, {"X-Sorry": "yes"}

    @app.post("/work")
    @durable.endpoint(retry=Retry(2))
    def work() -> str:
        return step.run("charge", Failing(down))

    response = client.post("/work")
    final = drive.finish(response)
    assert (final.status_code, final.json) == (502, {"sorry": "charge"})
    assert final.headers["X-Sorry"] == "yes"
    assert drive.status(response)["status"] == "failed"


def test_the_apps_500_handler_gets_the_original_error(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """As for every view of Flask."""

    @app.errorhandler(500)
    def sorry(error: InternalServerError) -> ResponseReturnValue:
        return f"sorry: {type(error.original_exception).__name__}", 500

    @app.post("/work")
    @durable.endpoint(retry=Retry(2))
    def work() -> str:
        step.run("reserve", lambda: 1)
        raise KeyError("seat")

    assert drive.finish(client.post("/work")).text == "sorry: KeyError"


def test_an_error_handler_for_all_exceptions_does_not_end_a_suspend(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``errorhandler(Exception)`` sees failures alone."""
    handled: list[str] = []

    @app.errorhandler(Exception)
    def sorry(error: Exception) -> ResponseReturnValue:
        handled.append(type(error).__name__)
        return "sorry", 500

    @app.post("/work")
    @durable.endpoint(retry=Retry(2))
    def work() -> str:
        step.sleep("nap", 60)
        step.run("reserve", lambda: 1)
        raise KeyError("seat")

    assert drive.finish(client.post("/work")).text == "sorry"
    assert handled == ["KeyError"]


def test_a_blueprints_error_handler_makes_the_answer(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The view's own blueprint goes before the app."""
    trips = Blueprint("trips", __name__, url_prefix="/trips")

    @trips.errorhandler(StepError)
    def sorry(error: StepError) -> ResponseReturnValue:
        return f"no {error.step}", 502

    @trips.post("/")
    @durable.endpoint(retry=Retry(2))
    def work() -> str:
        return step.run("charge", Failing(down))

    app.register_blueprint(trips)
    final = drive.finish(client.post("/trips/"))
    assert (final.status_code, final.text) == (502, "no charge")


def test_a_failure_without_a_handler_shows_no_internals(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """No message, no file, no class of the error, now or later."""

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> str:
        step.run("charge", Failing(lambda: ValueError("secret")))
        return "never"

    response = client.post("/work")
    again = drive.finish(response)
    for answer in (response, again):
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        assert ".py" not in answer.text
    assert again.data == response.data


def test_a_failure_is_logged_with_its_traceback(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who runs the app finds the reason in the log, as for every view of Flask."""
    error = ValueError("secret")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        raise error

    client.post("/work")
    assert any(one.exc_info and one.exc_info[1] is error for one in caplog.records)


def test_except_exception_does_not_swallow_a_suspend(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Suspending is a ``BaseException``."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.sleep("nap", 60)
        except Exception:
            return "swallowed"
        return "awake"

    response = client.post("/work")
    assert response.status_code == 202
    assert drive.finish(response).text == "awake"


def test_after_a_bare_except_the_next_step_raises_again(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """No later step runs while an earlier one is pending."""
    later = Flaky("later")
    calls: list[int] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.sleep("nap", 60)
        except:  # noqa: E722
            calls.append(later.calls)
        value = step.run("later", later)
        calls.append(later.calls)
        return value

    response = client.post("/work")
    assert response.status_code == 202
    assert calls == [0]
    assert drive.finish(response).text == "later"
    assert calls == [0, 1]


def test_an_attempt_that_swallowed_its_suspend_counts_as_suspended(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What the view returned in spite of it isn't the answer."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.sleep("nap", 60)
            answer = "awake"
        except BaseException:
            answer = "swallowed"
        return answer

    response = client.post("/work")
    assert response.status_code == 202
    assert drive.finish(response).text == "awake"


def test_an_error_in_place_of_a_suspend_counts_as_suspended(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A ``finally`` that fails, because its work isn't done, ends nothing."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seat = ""
        try:
            step.sleep("nap", 60)
            seat = "14A"
        finally:
            seat[0]  # noqa: B018
        return seat

    response = client.post("/work")
    assert response.status_code == 202
    assert drive.finish(response).text == "14A"


def test_finally_runs_at_every_suspend(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Files and locks that an attempt holds are given back."""
    closed: list[int] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.sleep("nap", 60)
            step.sleep("again", 60)
        finally:
            closed.append(current_execution.attempt)
        return "awake"

    drive.finish(client.post("/work"))
    assert closed == [1, 2, 3]


def test_head_is_refused(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """It would run the view."""
    view = Flaky("done")

    @app.get("/work")
    @durable.endpoint
    def work() -> str:
        return view()

    assert client.head("/work").status_code == 405
    assert view.calls == 0
    assert client.get("/work").text == "done"


def test_options_is_answered_by_flask(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The view doesn't run."""
    view = Flaky("done")

    @app.route("/work", methods=["PUT", "POST"])
    @durable.endpoint
    def work() -> str:
        return view()

    response = client.options("/work")
    assert response.status_code == 200
    assert {"PUT", "POST"} <= set(response.allow)
    assert view.calls == 0


def rows() -> cabc.Iterator[str]:
    """Stream three rows."""
    yield from ("a,b\n", "1,2\n", "é,✓\n")


def with_links() -> Response:
    """Make a response whose headers repeat."""
    response = make_response("linked", 203)
    response.headers.add("Link", "</a>; rel=next")
    response.headers.add("X-Many", "1")
    response.headers.add("X-Many", "2")
    response.set_etag("v1")
    response.last_modified = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    return response


RETURNS: dict[str, cabc.Callable[[], t.Any]] = {
    "text": lambda: "Grüße ✓",
    "empty": lambda: "",
    "bytes": lambda: b"\x00\xff\x80",
    "dict": lambda: {"a": [1, "✓"]},
    "list": lambda: [1, {"a": 2}],
    "status": lambda: ("made", 201),
    "reason": lambda: ("made", "299 Well Done"),
    "headers": lambda: ({"a": 1}, {"X-Seat": "14A"}),
    "status and headers": lambda: ("made", 201, [("X-A", "1"), ("X-A", "2")]),
    "no content": lambda: ("", 204),
    "jsonify": lambda: (jsonify(a=1), 203),
    "accepted": lambda: (jsonify(a=1), 202),
    "response": with_links,
    "plain type": lambda: Response("x", content_type="text/csv; charset=latin-1"),
    "generator": lambda: Response(rows(), mimetype="text/csv"),
    "returned generator": rows,
    "stream with context": lambda: Response(
        stream_with_context(request.method for _ in range(3))
    ),
    "empty stream": lambda: Response(iter(())),
    "send_file": lambda: send_file(
        io.BytesIO(b"%PDF\x00\xff" * 5000), download_name="trip.pdf", etag=False
    ),
    "send_file path": lambda: send_file(helpers.__file__, as_attachment=True),
    "redirect": lambda: redirect("http://elsewhere.example/x?y=1", 303),
}


Shown = tuple[str, list[tuple[str, str]], bytes]


def fetch(client: FlaskClient, url: str) -> Shown:
    """Get status, the view's own headers and the bytes; close what was opened."""
    with client.get(url) as response:
        return response.status, own_headers(response), response.data


@pytest.mark.parametrize("name", RETURNS)
def test_whatever_a_view_may_return_is_answered_and_stored_as_ever(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, name: str
) -> None:
    """The answer is that of a plain view, and ``/response`` gives the same."""

    urls: list[str] = []
    app.add_url_rule("/plain", "plain", RETURNS[name])

    @app.get("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        urls.append(current_execution.status_url)
        step.run("a", lambda: 1)
        return t.cast(ResponseReturnValue, RETURNS[name]())

    expected = fetch(client, "/plain")
    assert fetch(client, "/work") == expected
    assert fetch(client, drive.status(urls[0])["response_url"]) == expected


@pytest.mark.parametrize("name", sorted(RETURNS.keys() - {"accepted"}))
def test_whatever_a_view_may_return_survives_a_suspend(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, name: str
) -> None:
    """The final response of a later attempt is that of the plain view."""
    app.add_url_rule("/plain", "plain", RETURNS[name])

    @app.get("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        step.sleep("nap", 60)
        return t.cast(ResponseReturnValue, RETURNS[name]())

    response = client.get("/work")
    drive.finish(response)
    stored = fetch(client, drive.status(response)["response_url"])
    assert stored == fetch(client, "/plain")


def own_headers(response: t.Any) -> list[tuple[str, str]]:
    """List the headers that the view made, without those of the library."""
    added = {"date", "durable-execution", "cache-control", "content-length"}
    return sorted(
        (key.lower(), value)
        for key, value in response.headers
        if key.lower() not in added and 'rel="status"' not in value
    )


def test_a_views_own_cache_control_is_stored(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The first client gets it; the address of the stored one is never cached."""

    @app.get("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        return "x", {"Cache-Control": "max-age=60"}

    response = client.get("/work")
    stored = client.get(drive.status(response)["response_url"])
    assert response.headers["Cache-Control"] == "max-age=60"
    assert "no-store" in stored.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("location", "absolute"),
    [
        ("/done", "http://localhost/done"),
        ("done?x=1", "http://localhost/trips/done?x=1"),
        ("//other.example/x", "http://other.example/x"),
        ("https://other.example/x", "https://other.example/x"),
    ],
)
def test_a_stored_location_is_absolute(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    location: str,
    absolute: str,
) -> None:
    """It is relative to the request of the client, not to where it is fetched."""

    @app.post("/trips/book")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        step.sleep("nap", 60)
        return redirect(location, 302)

    final = drive.finish(client.post("/trips/book"))
    assert final.status_code == 302
    assert final.headers["Location"] == absolute


def test_a_cookie_is_not_stored(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The first client gets it, whoever asks for the response later doesn't."""

    @app.post("/work")
    @durable.endpoint
    def work() -> Response:
        response = make_response("done")
        response.set_cookie("seat", "14A")
        return response

    response = client.post("/work")
    stored = app.test_client().get(drive.status(response)["response_url"])
    assert response.headers["Set-Cookie"].startswith("seat=14A")
    assert stored.text == "done"
    assert "Set-Cookie" not in stored.headers


def test_a_session_changed_in_the_first_attempt_reaches_the_client(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """As in any view."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        session["trip"] = step.run("book", lambda: 7)
        return "done"

    client.post("/work")
    with client.session_transaction() as stored:
        assert stored["trip"] == 7


def test_a_session_changed_in_a_later_attempt_logs_a_warning(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its cookie reaches nobody."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        session["trip"] = 7
        return "done"

    assert drive.finish(client.post("/work")).text == "done"
    assert any(
        one.levelname == "WARNING" and "session" in one.getMessage()
        for one in caplog.records
    )


@pytest.mark.config(DURABLE_MAX_RESPONSE_BYTES=1000)
def test_a_response_over_the_limit_is_served_but_not_kept(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The first client gets it whole, ``/response`` is 507."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("a", lambda: "x") * 2000

    response = client.post("/work")
    document = drive.status(response)
    stored = client.get(document["response_url"])
    assert response.data == b"x" * 2000
    assert document["status"] == "completed"
    assert stored.status_code == 507
    assert stored.mimetype == "application/problem+json"


@pytest.mark.config(DURABLE_MAX_RESPONSE_BYTES=1000)
def test_a_stream_over_the_limit_is_served_but_not_kept(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Nothing of a stream is lost, though it is read before it is sent."""

    @app.post("/work")
    @durable.endpoint
    def work() -> Response:
        return Response(b"%03d," % n for n in range(900))

    response = client.post("/work")
    stored = client.get(drive.status(response)["response_url"])
    assert response.data == b"".join(b"%03d," % n for n in range(900))
    assert stored.status_code == 507


@pytest.mark.config(DURABLE_MAX_RESPONSE_BYTES=1000)
def test_a_response_over_the_limit_in_a_later_attempt_is_507(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The execution is done, and says that its response is too big."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "x" * 2000

    response = client.post("/work")
    assert drive.finish(response).status_code == 507
    assert drive.status(response)["status"] == "completed"


@pytest.mark.config(DURABLE_MAX_RESPONSE_BYTES=1000)
def test_a_response_at_the_limit_is_kept(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The limit counts the body's bytes."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "x" * 1000

    assert drive.finish(client.post("/work")).data == b"x" * 1000


def test_a_stream_that_fails_is_an_error_of_the_view(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It is read to its end before the first byte is sent, so nothing is cut off."""

    def broken() -> cabc.Iterator[str]:
        yield "half"
        raise ValueError("broken")

    @app.post("/work")
    @durable.endpoint
    def work() -> Response:
        return Response(broken())

    response = client.post("/work")
    assert response.status_code == 500
    assert "half" not in response.text
    assert drive.status(response)["status"] == "failed"


def test_a_stream_is_closed_when_it_was_read(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``call_on_close`` runs once, in the first attempt and in a later one."""
    closed: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> Response:
        step.sleep("nap", 60)
        response = Response(rows())
        response.call_on_close(lambda: closed.append("closed"))
        return response

    drive.finish(client.post("/work"))
    assert closed == ["closed"]


def test_a_view_that_is_decorated_at_dispatch_is_told_where_to_be(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """As by flask-restx: nobody could see it when its request came."""
    app.config["PROPAGATE_EXCEPTIONS"] = True

    class Work(MethodView):
        def dispatch_request(self, **kwargs: t.Any) -> ResponseReturnValue:
            return durable.endpoint(self.post)()

        def post(self) -> str:
            return "done"

    app.add_url_rule("/work", view_func=Work.as_view("work"))

    with pytest.raises(
        RuntimeError, match=r"during the request.*method_decorators.*put"
    ):
        client.post("/work")


def test_a_view_class_may_be_durable_by_its_decorators(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``decorators = [durable.endpoint]`` as Flask's documentation has it."""

    class Book(View):
        methods = ["POST"]
        decorators = [durable.endpoint]

        def dispatch_request(self, **values: t.Any) -> ResponseReturnValue:
            step.sleep("nap", 60)
            return step.run("book", lambda: f"{request.method} {values['seat']}")

    app.add_url_rule("/book/<seat>", view_func=Book.as_view("book"))
    assert drive.finish(client.post("/book/14A")).text == "POST 14A"


def test_a_method_view_may_be_durable_by_its_decorators(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """All its methods are."""

    class Book(MethodView):
        decorators = [durable.endpoint(retry=Retry(2))]

        def post(self) -> ResponseReturnValue:
            step.sleep("nap", 60)
            return "posted"

        def put(self) -> ResponseReturnValue:
            step.sleep("nap", 60)
            return "put"

    app.add_url_rule("/book", view_func=Book.as_view("book"))
    assert drive.finish(client.post("/book")).text == "posted"
    assert drive.finish(client.put("/book")).text == "put"


def test_a_method_of_a_class_may_be_durable(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """One method with options of its own, another plain."""

    class Book(MethodView):
        def __init__(self, name: str) -> None:
            self.name = name

        @durable.endpoint(retry=Retry(1))
        def post(self, seat: str) -> ResponseReturnValue:
            step.sleep("nap", 60)
            return step.run("book", lambda: f"{self.name} {seat}")

        def get(self, seat: str) -> ResponseReturnValue:
            return f"plain {seat}"

    app.add_url_rule("/book/<seat>", view_func=Book.as_view("book", "Ann"))
    assert drive.finish(client.post("/book/14A")).text == "Ann 14A"
    plain = client.get("/book/14A")
    assert plain.text == "plain 14A"
    assert "Durable-Execution" not in plain.headers


def test_a_view_in_nested_blueprints_may_be_durable(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """With url prefixes and url values that the blueprint takes away."""
    outer = Blueprint("outer", __name__, url_prefix="/<lang>")
    inner = Blueprint("inner", __name__, url_prefix="/trips")
    langs: list[str] = []

    @outer.url_value_preprocessor
    def pull(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
        langs.append((values or {}).pop("lang"))

    @inner.post("/<int:number>")
    @durable.endpoint
    def work(number: int) -> ResponseReturnValue:
        step.sleep("nap", 60)
        return {"number": number, "endpoint": request.endpoint}

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    final = drive.finish(client.post("/de/trips/7"))
    assert final.json == {"number": 7, "endpoint": "outer.inner.work"}
    assert langs == ["de", "de"]


def test_one_view_under_two_routes(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Defaults and several rules work as ever."""

    @app.post("/work", defaults={"seat": "any"})
    @app.post("/work/<seat>")
    @durable.endpoint
    def work(seat: str) -> str:
        step.sleep("nap", 60)
        return seat

    assert drive.finish(client.post("/work")).text == "any"
    assert drive.finish(client.post("/work/14A")).text == "14A"


def test_two_apps_with_one_object_keep_apart(
    make_app: MakeApp, tmp_path: t.Any
) -> None:
    """Each has its own journal and key: links of one are nothing to the other."""
    durable = FlaskDurable()
    trips = Blueprint("trips", __name__)

    @trips.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "awake"

    clients = []
    for name in ("one", "two"):
        app = make_app(
            name,
            SECRET_KEY=name,
            DURABLE_DATABASE_URL=f"sqlite:///{tmp_path}/{name}.db",
        )
        durable.init_app(app)
        app.register_blueprint(trips)
        clients.append(app.test_client())
    one, two = clients
    response = one.post("/work")
    assert one.get(status_link(response)).status_code == 200
    assert two.get(status_link(response)).status_code == 404
    two.post("/work")
    drive = Drive(one.application)
    drive.advance(61)
    assert drive.run_due() == 1
    assert drive.finish(response).text == "awake"


def counted(calls: list[str], name: str) -> cabc.Callable[[F], F]:
    """Decorate a view so that each call is noted."""

    def decorate(view: F) -> F:
        @functools.wraps(view)
        def wrapper(*args: t.Any, **kwargs: t.Any) -> t.Any:
            calls.append(name)
            return view(*args, **kwargs)

        return t.cast(F, wrapper)

    return decorate


def test_decorators_above_and_beneath_run_at_each_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """In their order."""
    calls: list[str] = []

    @app.post("/work")
    @counted(calls, "above")
    @durable.endpoint
    @counted(calls, "beneath")
    def work() -> str:
        step.sleep("nap", 60)
        return "awake"

    assert drive.finish(client.post("/work")).text == "awake"
    assert calls == ["above", "beneath"] * 2


def test_a_decorator_above_may_refuse_before_anything_is_stored(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """It stands in front of the endpoint: no execution begins."""

    def members_only(view: F) -> F:
        @functools.wraps(view)
        def wrapper(*args: t.Any, **kwargs: t.Any) -> t.Any:
            if "Authorization" not in request.headers:
                abort(401)
            return view(*args, **kwargs)

        return t.cast(F, wrapper)

    @app.post("/work")
    @members_only
    @durable.endpoint
    def work() -> str:
        return "done"

    refused = client.post("/work")
    assert refused.status_code == 401
    assert "Durable-Execution" not in refused.headers
    assert client.post("/work", auth=("ann", "x")).text == "done"


def test_steps_of_a_decorator_beneath_belong_to_the_view(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What it changes in the response is stored too."""
    audit = Flaky("audited")

    def audited(view: F) -> F:
        @functools.wraps(view)
        def wrapper(*args: t.Any, **kwargs: t.Any) -> t.Any:
            note = step.run("audit", audit)
            response = make_response(view(*args, **kwargs))
            response.headers["X-Audit"] = note
            return response

        return t.cast(F, wrapper)

    @app.post("/work")
    @durable.endpoint
    @audited
    def work() -> str:
        step.sleep("nap", 60)
        return "awake"

    final = drive.finish(client.post("/work"))
    assert final.headers["X-Audit"] == "audited"
    assert audit.calls == 1


def test_credentials_reach_the_replayed_view(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Authorization, cookies and the session are those of the client."""
    seen: list[tuple[t.Any, ...]] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        user = request.authorization and request.authorization.username
        seen.append((user, request.cookies["theme"], session.get("trip")))
        step.sleep("nap", 60)
        return "awake"

    client.set_cookie("theme", "dark")
    with client.session_transaction() as stored:
        stored["trip"] = 7
    drive.finish(client.post("/work", auth=("ann", "x")))
    assert seen == [("ann", "dark", 7)] * 2


def test_the_decorator_keeps_name_and_documentation(durable: FlaskDurable) -> None:
    """Flask takes the endpoint's name from the view."""

    @durable.endpoint
    def work() -> str:
        """Book a trip."""
        return "done"

    @durable.endpoint(retry=Retry(2))
    def other() -> str:
        """Book another."""
        return "done"

    assert (work.__name__, work.__doc__) == ("work", "Book a trip.")
    assert (other.__name__, other.__doc__) == ("other", "Book another.")


def test_a_failure_propagates_where_the_app_wants_that(
    make_app: MakeApp, sqlite_url: str
) -> None:
    """With ``PROPAGATE_EXCEPTIONS`` a test sees the view's own error."""
    app = make_app(PROPAGATE_EXCEPTIONS=True, DURABLE_DATABASE_URL=sqlite_url)
    durable = FlaskDurable(app)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        raise KeyError("seat")

    with pytest.raises(KeyError, match="seat"):
        app.test_client().post("/work")


def test_a_failure_in_a_later_attempt_ends_the_execution_though_errors_propagate(
    make_app: MakeApp, sqlite_url: str
) -> None:
    """Whoever replays survives it, and the client still gets an answer."""
    app = make_app(PROPAGATE_EXCEPTIONS=True, DURABLE_DATABASE_URL=sqlite_url)
    durable = FlaskDurable(app)

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> str:
        step.sleep("nap", 60)
        return step.run("charge", Failing(down))

    drive = Drive(app)
    response = app.test_client().post("/work")
    assert drive.finish(response).status_code == 500
    assert drive.status(response)["status"] == "failed"


def test_a_response_made_by_hand_is_json_on_each_way(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Bytes are stored as they are, not decoded and encoded again."""
    body = json.dumps({"b": 1, "a": "✓"}, ensure_ascii=True, indent=7).encode()

    @app.post("/work")
    @durable.endpoint
    def work() -> Response:
        step.sleep("nap", 60)
        return Response(body, mimetype="application/json")

    assert drive.finish(client.post("/work")).data == body


def test_a_session_changed_before_a_suspend_reaches_the_client(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The 202 brings the cookie, as any answer does."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        session["trip"] = 7
        step.sleep("nap", 60)
        return "done"

    assert client.post("/work").status_code == 202
    with client.session_transaction() as stored:
        assert stored["trip"] == 7


def test_an_error_that_on_does_not_name_gives_no_new_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The endpoint's ``Retry`` decides about errors outside steps too."""
    view = Failing(lambda: KeyError("seat"))

    @app.post("/work")
    @durable.endpoint(retry=Retry(3, on=ConnectionError))
    def work() -> str:
        step.run("reserve", lambda: 1)
        view()

    response = client.post("/work")
    assert response.status_code == 500
    assert drive.status(response)["status"] == "failed"
    assert view.calls == 1
