"""Replays: the whole stack, tickets, identity, rejections, checks of the journal."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import pytest
from flask import abort
from flask import Flask
from flask import g
from flask import request
from flask import session
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_login import login_required
from flask_login import login_user
from flask_login import LoginManager
from flask_login import UserMixin
from flask_wtf.csrf import CSRFProtect
from flask_wtf.csrf import generate_csrf

from flask_durable import current_execution
from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import NonDeterminismError
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError

from ..driving import Drive
from .conftest import MakeApp
from .helpers import down
from .helpers import Failing
from .helpers import Flaky

pytestmark = pytest.mark.config(DURABLE_INLINE_RETRY=0)


@pytest.fixture
def napping(app: Flask, durable: FlaskDurable) -> list[int]:
    """Register a view that sleeps twice; give the list of its attempts."""
    attempts: list[int] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        attempts.append(current_execution.attempt)
        step.sleep("nap", 60)
        step.sleep("again", 60)
        return f"awake {request.get_data(as_text=True)}"

    return attempts


class Tap:
    """Middleware that sees each request, and may answer in the app's place."""

    def __init__(self, app: Flask) -> None:
        self.wsgi_app = app.wsgi_app
        self.tickets: list[str] = []
        self.answer: str | None = None
        self.paths: list[str] = []
        app.wsgi_app = self  # type: ignore[method-assign]

    def __call__(self, environ: t.Any, start_response: t.Any) -> t.Any:
        ticket = environ.get("HTTP_DURABLE_REPLAY")
        self.paths.append(environ["PATH_INFO"])
        if ticket is None:
            return self.wsgi_app(environ, start_response)
        self.tickets.append(ticket)
        if self.answer is None:
            return self.wsgi_app(environ, start_response)
        start_response(self.answer, [("Content-Type", "text/plain")])
        return [b"kept back"]


def test_a_replay_passes_through_hooks(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """Before, after and teardown, once for each attempt."""
    seen: list[str] = []

    @app.before_request
    def before() -> None:
        if request.endpoint == "work":
            seen.append("before")

    @app.after_request
    def after(response: t.Any) -> t.Any:
        if request.endpoint == "work":
            seen.append("after")
        return response

    @app.teardown_request
    def teardown(_: BaseException | None) -> None:
        if request.endpoint == "work":
            seen.append("teardown")

    drive.finish(client.post("/work"))
    assert seen == ["before", "after", "teardown"] * 3


def test_a_replay_passes_through_middleware(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """It bears the ticket there; a new one each time."""
    tap = Tap(app)
    drive.finish(client.post("/work"))
    assert tap.paths.count("/work") == 3
    assert len(set(tap.tickets)) == 2


def test_a_replay_starts_in_an_empty_context(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """``g`` of an attempt is new, also when replays are run within a context."""
    seen: list[bool] = []

    @app.before_request
    def before() -> None:
        seen.append("mark" in g)
        g.mark = True

    client.post("/work")
    drive.advance(61)
    with app.app_context():
        g.mark = True
        assert drive.run_due() == 1
    assert seen == [False, False]


def test_after_request_runs_for_whoever_fetches_the_response(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """Its headers aren't stored, they are made again, once."""

    @app.after_request
    def after(response: t.Any) -> t.Any:
        response.headers.add("X-Served", request.endpoint or "")
        return response

    final = drive.finish(client.post("/work"))
    served = final.headers.getlist("X-Served")
    assert len(served) == 1
    assert served != ["work"]


def test_outside_of_a_replay_there_is_none(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """In the client's own request, in a plain view, without any request."""
    seen: list[t.Any] = []

    @app.before_request
    def before() -> None:
        seen.append(durable_replay())

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seen.append(durable_replay())
        return "done"

    @app.get("/plain")
    def plain() -> str:
        seen.append(durable_replay())
        return "done"

    client.post("/work")
    client.get("/plain")
    with app.app_context():
        seen.append(durable_replay())
    assert seen == [None] * 5


def test_in_a_replay_hooks_and_views_know_the_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The ticket was verified before any hook ran."""
    seen: list[tuple[str, str]] = []

    def note(where: str) -> None:
        replay = durable_replay()
        if replay is not None:
            seen.append((where, replay.execution_id))

    @app.before_request
    def before() -> None:
        note("hook")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        note("view")
        step.sleep("nap", 60)
        return "done"

    response = client.post("/work")
    drive.finish(response)
    id = response.headers["Durable-Execution"]
    assert seen == [("hook", id), ("view", id)]


def test_the_identity_is_taken_when_the_execution_begins(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Any JSON; the function isn't asked again."""
    asked: list[str] = []
    seen: list[t.Any] = []

    @durable.identity
    def identity() -> dict[str, t.Any]:
        asked.append(request.path)
        return {"user": request.headers["X-User"], "roles": [1]}

    @app.before_request
    def before() -> None:
        if replay := durable_replay():
            seen.append(replay.identity)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work", headers={"X-User": "ann"}))
    assert asked == ["/work"]
    assert seen == [{"user": "ann", "roles": [1]}]


def test_without_a_login_the_identity_is_none(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """No function, no Flask-Login."""
    seen: list[t.Any] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        if replay := durable_replay():
            seen.append(replay.identity)
        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work"))
    assert seen == [None]


class User(UserMixin):  # type: ignore[misc]
    """Whoever has this id."""

    def __init__(self, id: str) -> None:
        self.id = id


@pytest.fixture
def login(app: Flask) -> LoginManager:
    """Set up Flask-Login with a view that logs in."""
    manager = LoginManager(app)
    app.config["LOGINS"] = "valid"

    @manager.user_loader  # type: ignore[untyped-decorator]
    def load(id: str) -> User | None:
        return User(id) if app.config["LOGINS"] == "valid" else None

    @app.post("/login/<id>")
    def log_in(id: str) -> str:
        login_user(User(id))
        return "hello"

    return manager


def test_the_default_identity_is_the_user_of_flask_login(
    app: Flask,
    login: LoginManager,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
) -> None:
    """Its id, which ``user_loader`` takes."""
    seen: list[t.Any] = []

    @app.post("/work")
    @login_required  # type: ignore[untyped-decorator]
    @durable.endpoint
    def work() -> str:
        if replay := durable_replay():
            seen.append(replay.identity)
        step.sleep("nap", 60)
        return str(current_user.get_id())

    client.post("/login/7")
    assert drive.finish(client.post("/work")).text == "7"
    assert seen == ["7"]


def test_a_hook_may_log_in_for_a_replay(
    app: Flask,
    login: LoginManager,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
) -> None:
    """A login that has expired by then doesn't stop the execution."""

    @app.before_request
    def log_in() -> None:
        if (replay := durable_replay()) and replay.identity:
            login_user(User(replay.identity))

    @app.post("/work")
    @login_required  # type: ignore[untyped-decorator]
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return f"hello {current_user.get_id()}"

    client.post("/login/7")
    response = client.post("/work")
    app.config["LOGINS"] = "expired"
    assert client.post("/work").status_code == 401
    assert drive.finish(response).text == "hello 7"


def test_a_csrf_token_may_have_expired_by_the_time_of_a_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A hook skips the check for a replay, and for nothing else."""
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False
    csrf = CSRFProtect(app)

    @app.before_request
    def protect() -> None:
        if not durable_replay():
            csrf.protect()

    @app.get("/token")
    def token() -> str:
        return str(generate_csrf())

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return request.form["seat"]

    form = {"seat": "14A", "csrf_token": client.get("/token").text}
    response = client.post("/work", data=form)
    assert response.status_code == 202
    app.config["WTF_CSRF_TIME_LIMIT"] = -1
    assert client.post("/work", data=form).status_code == 400
    assert drive.finish(response).text == "14A"


def test_flask_wtfs_own_hook_leaves_the_body_to_the_view(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Its hook reads the form; while the token is valid, replays pass it too."""
    CSRFProtect(app)

    @app.get("/token")
    def token() -> str:
        return str(generate_csrf())

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return request.form["seat"]

    form = {"seat": "14A", "csrf_token": client.get("/token").text}
    assert drive.finish(client.post("/work", data=form)).text == "14A"


@pytest.mark.parametrize("ticket", ["forged", "", "a.b.c", "0198c0de-0000-7000-8000"])
@pytest.mark.parametrize("path", ["/work", "/plain"])
def test_a_forged_ticket_is_refused_and_nothing_runs(
    app: Flask, napping: list[int], client: FlaskClient, path: str, ticket: str
) -> None:
    """403 on each route, before hooks and views."""
    ran: list[str] = []

    @app.before_request
    def before() -> None:
        ran.append("hook")

    @app.post("/plain")
    def plain() -> str:
        ran.append("view")
        return "done"

    response = client.post(path, headers={"Durable-Replay": ticket})
    assert response.status_code == 403
    assert ran == []
    assert napping == []


def test_a_ticket_is_good_once(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """Sent again, it is refused and nothing runs."""
    tap = Tap(app)
    response = client.post("/work", data="x")
    drive.advance(61)
    assert drive.run_due() == 1
    (ticket,) = tap.tickets
    again = client.post("/work", data="x", headers={"Durable-Replay": ticket})
    assert again.status_code == 403
    assert napping == [1, 2]
    assert drive.finish(response).text == "awake x"


def test_a_ticket_is_for_its_own_body(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """With another body it is refused, and the execution goes on as it was."""
    tap = Tap(app)
    response = client.post("/work", data="mine")
    tap.answer = "503 SERVICE UNAVAILABLE"
    drive.advance(61)
    drive.run_due()
    tap.answer = None
    headers = {"Durable-Replay": tap.tickets[0]}
    forged = client.post("/work", data="yours", headers=headers)
    assert forged.status_code == 403
    assert napping == [1]
    assert drive.finish(response).text == "awake mine"


def test_a_ticket_is_for_its_own_endpoint(
    app: Flask,
    napping: list[int],
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
) -> None:
    """At another durable view it is refused, though the body is the same."""
    other = Flaky("other")

    @app.post("/other")
    @durable.endpoint
    def another() -> str:
        return other()

    tap = Tap(app)
    response = client.post("/work", data="mine")
    tap.answer = "503 SERVICE UNAVAILABLE"
    drive.advance(61)
    drive.run_due()
    tap.answer = None
    headers = {"Durable-Replay": tap.tickets[0]}
    assert client.post("/other", data="mine", headers=headers).status_code == 403
    assert other.calls == 0
    assert drive.finish(response).text == "awake mine"


def test_a_ticket_signed_with_another_key_is_refused(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """After the key changed without a fallback, old tickets are forged ones."""
    tap = Tap(app)
    client.post("/work")
    tap.answer = "503 SERVICE UNAVAILABLE"
    drive.advance(61)
    drive.run_due()
    tap.answer = None
    app.secret_key = "new"
    headers = {"Durable-Replay": tap.tickets[0]}
    assert client.post("/work", headers=headers).status_code == 403
    assert napping == [1]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 302])
def test_a_replay_that_is_rejected_ten_times_fails_the_execution(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive, code: int
) -> None:
    """With what was answered; the view wasn't reached, no attempt was lost."""
    rejected: list[int] = []

    @app.before_request
    def reject() -> ResponseReturnValue | None:
        if durable_replay() is None:
            return None
        rejected.append(code)
        return f"rejected {len(rejected)}", code, {"X-Why": "expired"}

    response = client.post("/work")
    final = drive.finish(response)
    assert (final.status_code, final.text) == (code, "rejected 10")
    assert drive.status(response)["status"] == "failed"
    assert len(rejected) == 10
    assert napping == [1]


@pytest.mark.parametrize("code", [500, 502, 503, 429])
def test_a_replay_that_meets_a_server_error_is_sent_as_long_as_it_takes(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive, code: int
) -> None:
    """More often than ten times; then it goes on."""
    answers = [code] * 14

    @app.before_request
    def reject() -> None:
        if durable_replay() and answers:
            abort(answers.pop())

    assert drive.finish(client.post("/work")).text == "awake "
    assert answers == []
    assert napping == [1, 2, 3]


def test_a_hook_that_raises_is_a_server_error(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """A database of the app that is away for a while, say."""
    hook = Flaky(None, *[ConnectionError("away") for _ in range(12)])

    @app.before_request
    def connect() -> None:
        if durable_replay():
            hook()

    assert drive.finish(client.post("/work")).text == "awake "
    assert napping == [1, 2, 3]


def test_rejected_replays_back_off(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """They aren't sent again at once."""

    @app.before_request
    def reject() -> None:
        if durable_replay():
            abort(503)

    client.post("/work")
    drive.advance(61)
    assert drive.run_due() == 1
    assert drive.run_due() == 0


def test_a_session_that_the_app_wants_is_there_in_a_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A hook that checks the session passes without help."""

    @app.before_request
    def check() -> None:
        if request.endpoint == "work" and session.get("user") != "ann":
            abort(401)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    assert client.post("/work").status_code == 401
    with client.session_transaction() as stored:
        stored["user"] = "ann"
    assert drive.finish(client.post("/work")).text == "done"


def test_a_route_that_is_gone_fails_the_execution(
    app: Flask, napping: list[int], client: FlaskClient, make_app: MakeApp
) -> None:
    """A new release dropped the view: its 404 is what was answered."""
    response = client.post("/work")
    release = make_app(app.name)
    FlaskDurable(release)
    drive = Drive(release)
    assert drive.finish(response).status_code == 404
    assert drive.status(response)["status"] == "failed"


def test_a_replay_never_runs_a_plain_view(
    app: Flask, napping: list[int], client: FlaskClient, drive: Drive
) -> None:
    """A new release made the view an ordinary one, which isn't safe to repeat."""
    response = client.post("/work")
    plain = Flaky("ran")
    app.view_functions["work"] = plain
    assert drive.finish(response).status_code == 403
    assert drive.status(response)["status"] == "failed"
    assert plain.calls == 0


def changing(
    app: Flask,
    durable: FlaskDurable,
    *attempts: cabc.Callable[[], t.Any],
    retry: Retry | None = None,
) -> None:
    """Register a view whose code is another one at each attempt."""
    left = list(attempts)

    @app.post("/work")
    @durable.endpoint(retry=retry)
    def work() -> ResponseReturnValue:
        view = left.pop(0) if len(left) > 1 else left[0]
        view()
        step.sleep("nap", 60)
        return "done"


def test_a_step_that_changed_its_kind_is_an_error_with_its_place(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The message names the step, the file and the line."""
    said: list[str] = []

    def second() -> None:
        try:
            step.sleep("wait-for-bank", 1)
        except NonDeterminismError as error:
            said.append(str(error))

    changing(app, durable, lambda: step.run("wait-for-bank", lambda: 1), second)
    assert drive.finish(client.post("/work")).text == "done"
    line = second.__code__.co_firstlineno + 2
    assert "wait-for-bank" in said[0]
    assert "test_replay.py" in said[0]
    assert str(line) in said[0]


def test_a_step_that_changed_its_kind_fails_the_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Where the view doesn't catch it."""
    changing(
        app,
        durable,
        lambda: step.run("wait", lambda: 1),
        lambda: step.sleep("wait", 1),
        retry=Retry(2),
    )
    response = client.post("/work")
    assert drive.finish(response).status_code == 500
    assert drive.status(response)["status"] == "failed"


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    """Join all warnings of the log."""
    return "\n".join(
        one.getMessage() for one in caplog.records if one.levelname == "WARNING"
    )


def two_steps() -> None:
    """Run two steps."""
    step.run("reserve-seat", lambda: 1)
    step.run("charge-card", lambda: 2)


def turned() -> None:
    """Run the same steps the other way round."""
    step.run("charge-card", lambda: 2)
    step.run("reserve-seat", lambda: 1)


def removed() -> None:
    """Run one of them."""
    step.run("charge-card", lambda: 2)


def refused() -> None:
    """Be turned away, as by a decorator beneath the endpoint, before any of them."""
    abort(429)


@pytest.mark.parametrize(
    ("later", "status"), [(removed, 200), (refused, 429)], ids=["removed", "refused"]
)
def test_a_step_that_is_gone_is_a_warning(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
    later: cabc.Callable[[], None],
    status: int,
) -> None:
    """The view finished without a step of the journal, or raised its answer."""
    changing(app, durable, two_steps, later)
    assert drive.finish(client.post("/work")).status_code == status
    assert "reserve-seat" in warnings_of(caplog)


def test_an_http_error_of_a_step_is_no_warning(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The view asked for all that the journal has."""

    @app.post("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        step.parallel(
            lambda: step.run("reserve-seat", abort, 409),
            lambda: step.sleep("nap", 60),
        )
        return "done"

    assert drive.finish(client.post("/work")).status_code == 409
    assert "without asking" not in warnings_of(caplog)


def test_the_warning_tells_of_what_and_what_to_do(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever reads it need not know whose execution it is."""
    changing(app, durable, two_steps, removed)
    drive.finish(client.post("/work"))
    said = warnings_of(caplog)
    assert 'endpoint "work", execution' in said
    assert "Each attempt must ask for the same step ids" in said
    assert "deployment" in said


def test_another_order_is_a_warning(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Outcomes are found by id all the same."""
    changing(app, durable, two_steps, turned)
    assert drive.finish(client.post("/work")).text == "done"
    assert "charge-card" in warnings_of(caplog) or "reserve-seat" in warnings_of(caplog)


@pytest.mark.config(DURABLE_STRICT_REPLAY=True)
@pytest.mark.parametrize(
    "later", [removed, turned, refused], ids=["removed", "turned", "refused"]
)
def test_in_strict_mode_another_journal_is_an_error(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    later: cabc.Callable[[], None],
) -> None:
    """The execution fails."""
    changing(app, durable, two_steps, later, retry=Retry(2))
    response = client.post("/work")
    assert drive.finish(response).status_code == 500
    assert drive.status(response)["status"] == "failed"


@pytest.mark.config(DURABLE_STRICT_REPLAY=True)
def test_in_strict_mode_an_error_handler_sees_what_is_wrong(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The error is a ``NonDeterminismError`` that names the step."""

    @app.errorhandler(NonDeterminismError)
    def sorry(error: NonDeterminismError) -> ResponseReturnValue:
        return str(error), 500

    changing(app, durable, two_steps, removed, retry=Retry(2))
    assert "reserve-seat" in drive.finish(client.post("/work")).text


@pytest.mark.config(DURABLE_STRICT_REPLAY=True)
def test_new_steps_between_old_ones_are_fine(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Code between steps may change, also in strict mode."""

    def more() -> None:
        step.run("reserve-seat", lambda: 1)
        step.run("new", lambda: 1)
        step.run("charge-card", lambda: 2)

    changing(app, durable, two_steps, more)
    assert drive.finish(client.post("/work")).text == "done"


@pytest.mark.config(DURABLE_STRICT_REPLAY=True)
def test_branches_may_end_in_any_order(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Parallel steps have no order that could change; retries have neither."""
    charge, hotel = Flaky(1, down(), down()), Flaky(2, down())

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        (a, b, _) = step.parallel(
            lambda: step.run("charge", charge),
            lambda: step.run("hotel", hotel),
            lambda: step.sleep("nap", 60),
        )
        return [a, b, *step.map("each", lambda n: n, [3, 4])]

    assert drive.finish(client.post("/work")).json == [1, 2, 3, 4]


@pytest.mark.config(DURABLE_STRICT_REPLAY=True)
def test_compensation_is_the_same_on_each_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A failed step is asked for like any other."""
    charge, release = Failing(down), Flaky("free", down())

    @app.post("/work")
    @durable.endpoint(retry=Retry(2))
    def work() -> str:
        try:
            step.run("charge", charge)
        except StepError:
            step.run("release", release)
            step.sleep("nap", 60)
        return "done"

    assert drive.finish(client.post("/work")).text == "done"
    assert (charge.calls, release.calls) == (2, 2)


def test_steps_without_change_warn_of_nothing(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A log that cries wolf isn't read."""
    changing(app, durable, two_steps)
    assert drive.finish(client.post("/work")).text == "done"
    assert warnings_of(caplog) == ""


def test_a_new_step_wont_run_in_place_of_one_that_is_done(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Outcomes are found by id, whatever else the view does."""
    seats: list[str] = []

    def first() -> None:
        seats.append(step.run("seat", lambda: "14A"))

    def second() -> None:
        step.run("new", lambda: "x")
        seats.append(step.run("seat", lambda: "15B"))

    changing(app, durable, first, second)
    drive.finish(client.post("/work"))
    assert seats == ["14A", "14A"]
