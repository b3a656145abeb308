"""Traps that ordinary Flask code sets for whoever replays its requests."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import datetime as dt
import decimal
import http
import io
import pathlib
import threading
import typing as t
import uuid

import pytest
from flask import abort
from flask import copy_current_request_context
from flask import Flask
from flask import request
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Conflict
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client
from werkzeug.wrappers import Response

from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.codec import Codec
from flask_durable.database import Database
from flask_durable.ids import new_id
from flask_durable.owner import current_owner
from flask_durable.records import RequestRecord
from flask_durable.records import StepRecord
from flask_durable.replay import replay
from flask_durable.state import get_state
from flask_durable.store import Store
from flask_durable.sweeper import Sweeper
from flask_durable.upkeep import Upkeep

from .driving import CallerHands
from .driving import Drive
from .driving import status_link
from .processes import wait_until


def test_a_thread_of_the_view_does_not_end_its_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Its copy of the request's context is torn down while the view still runs."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        thread = threading.Thread(target=copy_current_request_context(lambda: None))
        thread.start()
        thread.join()
        drive.state.heartbeat.tick()
        return step.run("after", lambda: "done")

    answer = client.post("/work")
    assert (answer.status_code, answer.text) == (200, "done")
    assert drive.status(answer)["attempt"] == 1


def test_uploads_stay_open_after_parallel_branches(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Each branch has a copy of the context, whose end would close the files."""

    @app.post("/work")
    @durable.endpoint
    def work() -> bytes:
        document = request.files["document"]
        step.parallel(lambda: None, lambda: None)
        return bytes(document.read())

    answer = client.post("/work", data={"document": (io.BytesIO(b"text"), "a.txt")})
    assert answer.data == b"text"


def test_uploads_are_closed_with_the_request(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """As in a view that is not durable."""
    seen: list[t.Any] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seen.append(request.files["document"])
        return "done"

    client.post("/work", data={"document": (io.BytesIO(b"text"), "a.txt")})
    assert seen[0].stream.closed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exit_in_a_replayed_view_costs_no_thread(
    sqlite_url: str, tmp_path: pathlib.Path
) -> None:
    """One execution calls sys.exit() at each attempt; the only thread goes on."""
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(
        DURABLE_DATABASE_URL=sqlite_url, DURABLE_REPLAY_THREADS=1, SECRET_KEY="tests"
    )
    durable = FlaskDurable(app)
    exits: list[int] = []

    @app.post("/exits")
    @durable.endpoint
    def exits_view() -> str:
        step.sleep("nap", 0.01)
        exits.append(1)
        raise SystemExit

    @app.post("/ends")
    @durable.endpoint
    def ends_view() -> str:
        step.sleep("nap", 0.01)
        return "done"

    client = app.test_client()
    client.post("/exits")
    wait_until(lambda: exits, 10)
    url = client.post("/ends").headers["Location"] + "/response"
    wait_until(lambda: client.get(url).status_code == 200, 10)
    get_state(app).close()


def test_apps_that_share_a_journal_leave_each_other_alone(
    database_url: str, tmp_path: pathlib.Path
) -> None:
    """Each replays its own executions, though both have the URL."""
    drives: list[tuple[FlaskClient, Drive]] = []

    for name in ("shop", "office"):
        app = Flask(name, instance_path=str(tmp_path))
        app.config.update(
            DURABLE_DATABASE_URL=database_url, SECRET_KEY="tests", TESTING=True
        )
        durable = FlaskDurable(app)

        @app.post("/work")
        @durable.endpoint
        def work(name: str = name) -> str:
            step.sleep("nap", 60)
            return name

        drives.append((app.test_client(), Drive(app)))

    (shop, shop_drive), (office, office_drive) = drives
    answer = shop.post("/work")
    office.post("/work")
    shop_drive.advance(61)
    assert office_drive.run_due() == 1
    assert shop_drive.status(answer)["attempt"] == 1
    assert shop_drive.finish(answer).text == "shop"

    for _, drive in drives:
        drive.state.close()


def strip_shop(app: Flask) -> None:
    """Put middleware before an app that knows it as ``/shop`` alone."""
    inner = app.wsgi_app

    def strip(environ: dict[str, t.Any], start: t.Any) -> t.Any:
        if not environ["PATH_INFO"].startswith("/shop"):
            start("404 NOT FOUND", [])
            return [b"not mine"]

        environ["SCRIPT_NAME"] = "/shop"
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/shop")
        return inner(environ, start)

    t.cast(t.Any, app).wsgi_app = strip


def test_middleware_that_strips_a_prefix_gets_it_back(
    app: Flask, durable: FlaskDurable, drive: Drive
) -> None:
    """The request is captured behind it, and enters before it again."""
    strip_shop(app)

    @app.post("/caf\u00e9")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return request.url

    app.test_client().get("/shop/")
    first = app.test_client().post("/shop/caf\u00e9")
    assert first.status_code == 202
    drive.advance(61)
    assert drive.run_due() == 1
    url = first.headers["Location"].removeprefix("http://localhost") + "/response"
    assert app.test_client().get(url).text == "http://localhost/shop/caf\u00e9"


def test_links_lead_home_where_hosts_are_matched(
    database_url: str, tmp_path: pathlib.Path
) -> None:
    """With ``host_matching`` each rule has a host, and so have the routes."""
    app = Flask(
        __name__,
        instance_path=str(tmp_path),
        host_matching=True,
        static_host="static.example.com",
    )
    app.config.update(
        DURABLE_DATABASE_URL=database_url, SECRET_KEY="tests", TESTING=True
    )
    durable = FlaskDurable(app)

    @app.post("/work", host="api.example.com")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    client = app.test_client()
    answer = client.post("/work", base_url="http://api.example.com")
    assert answer.headers["Location"].startswith("http://api.example.com/durable/")
    assert client.get(answer.headers["Location"]).status_code == 200
    get_state(app).close()


def test_a_used_ticket_opens_no_hook(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Else a hook that logs the execution's user in would do so for its thief."""
    tickets: list[str] = []
    seen: list[bool] = []

    @app.before_request
    def hook() -> None:
        tickets.extend(request.headers.getlist("Durable-Replay"))
        seen.append(durable_replay() is not None)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work"))
    seen.clear()
    again = client.post("/work", headers={"Durable-Replay": tickets[0]})
    assert again.status_code == 403
    assert not any(seen)


def test_a_client_can_not_drop_a_header_from_the_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``Connection`` names headers for the next hop, and this is the last."""

    @app.post("/work")
    @durable.endpoint
    def work() -> dict[str, str | None]:
        step.sleep("nap", 60)
        return {"type": request.content_type, "user": request.remote_user}

    answer = client.post(
        "/work",
        data="x",
        content_type="text/plain",
        headers={"Connection": "content-type"},
        environ_overrides={"REMOTE_USER": "ann"},
    )
    assert drive.finish(answer).json == {"type": "text/plain", "user": "ann"}


def test_a_body_that_ends_early_is_refused(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """A client that hung up has not sent what is to be done."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        raise AssertionError

    answer = client.post(
        "/work",
        input_stream=io.BytesIO(b"half"),
        environ_overrides={"CONTENT_LENGTH": "8", "wsgi.input_terminated": True},
    )
    assert answer.status_code == 400
    assert "Durable-Execution" not in answer.headers


class SoldOut(Conflict):
    """An error with a value of its own."""

    def __init__(self, seat: str) -> None:
        super().__init__({"seat": seat})  # type: ignore[arg-type]
        self.seat = seat


def test_an_http_error_keeps_what_it_carries(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Its class, its attributes and its description, at each attempt."""
    seen: list[t.Any] = []

    def fail() -> None:
        raise SoldOut("14A")

    @app.post("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        try:
            step.run("reserve", fail)
        except SoldOut as error:
            seen.append((error.seat, error.description, error.code))

        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work"))
    assert seen == [("14A", {"seat": "14A"}, 409)] * 2


def test_an_http_errors_answer_without_a_type_gets_none(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """At each attempt; werkzeug would add its default."""
    seen: list[t.Any] = []

    def fail() -> None:
        response = Response(b"raw", 409)
        del response.headers["Content-Type"]
        abort(response)

    @app.post("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        try:
            step.run("reserve", fail)
        except HTTPException as error:
            seen.append(error.get_response().content_type)

        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work"))
    assert seen == [None] * 2


@dataclasses.dataclass
class Seat:
    """A class that an app registers."""

    row: int


CARRIED = {
    "at": dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
    "price": decimal.Decimal("1.50"),
    "ids": (uuid.UUID(int=1), {2}),
    "seat": Seat(7),
    "status": http.HTTPStatus.CONFLICT,
}


@pytest.fixture
def carrier(app: Flask, durable: FlaskDurable, drive: Drive) -> type[SoldOut]:
    """Make a view whose step raises an error with attributes, and a handler of it."""

    @app.errorhandler(SoldOut)
    def handle(error: SoldOut) -> ResponseReturnValue:
        names = [*CARRIED, "lock"]
        found = {name: getattr(error, name, None) for name in names}
        return {name: str(value) for name, value in found.items()}, 409

    def fail() -> None:
        error = SoldOut("14A")
        vars(error).update(CARRIED, lock=threading.Lock())
        raise error

    @app.post("/carry")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)

        try:
            step.run("reserve", fail)
        except SoldOut:
            step.sleep("again", 60)
            raise

        return "never"

    return SoldOut


def test_an_http_error_carries_what_steps_may_return(
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    carrier: type[SoldOut],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The app's handler finds it at each attempt; what it can't find is logged."""
    durable.register_type(Seat)
    answer = drive.finish(client.post("/carry"))
    wanted = {name: str(value) for name, value in CARRIED.items()} | {"lock": "None"}
    assert (answer.status_code, answer.json) == (409, wanted | {"status": "409"})
    assert 'Step "reserve" of execution' in caplog.text
    assert 'a SoldOut whose attribute "lock" can\'t be stored' in caplog.text
    assert caplog.text.count("can't be stored") == 1


def test_an_http_error_whose_type_is_gone(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    carrier: type[SoldOut],
) -> None:
    """The view hears of it as of any value."""
    durable.register_type(Seat)
    answer = client.post("/carry")
    drive.advance(61)
    drive.run_due()
    app.extensions["durable"].codec = Codec()
    assert drive.finish(answer).status_code == 500
    assert drive.status(answer)["error_type"].endswith("StoredValueError")


def test_an_app_called_in_process_has_executions_of_its_own(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    sqlite_url: str,
    tmp_path: pathlib.Path,
) -> None:
    """A view or a step of one app calls another durable app through WSGI."""
    other = Flask("other", instance_path=str(tmp_path))
    other.config.update(
        DURABLE_DATABASE_URL=sqlite_url, SECRET_KEY="tests", TESTING=True
    )
    other_durable = FlaskDurable(other)

    @other.post("/inner")
    @other_durable.endpoint
    def inner() -> str:
        return step.run("inner", lambda: "inner")

    def call() -> list[str]:
        answer = other.test_client().post("/inner")
        return [answer.text, answer.headers["Durable-Execution"]]

    @app.post("/outer")
    @durable.endpoint
    def outer() -> list[str]:
        return step.run("outer", call)

    answer = client.post("/outer")
    assert answer.json is not None and answer.json[0] == "inner"
    assert answer.json[1] != answer.headers["Durable-Execution"]
    get_state(other).close()


def test_a_renewal_after_the_look_saves_the_lease(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A takeover compares with what was seen, not with what it finds later."""
    taken: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        state = drive.state
        sweeper = Sweeper(state, CallerHands(app))
        drive.advance(3600)
        (seen,) = state.upkeep.sweep(1, 0.0, 0.0)
        drive.advance(1)
        (seen,) = state.upkeep.sweep(1, 0.0, 0.0)
        assert seen.looks == 2
        state.upkeep.renew(current_owner(), [seen.id], 60.0)
        state.heartbeat._leases.clear()
        sweeper._began -= 3600
        sweeper._look_at_lapsed(seen)
        taken.append(state.store.execution(seen.id).status)
        return "done"

    assert client.post("/work").status_code == 200
    assert taken == ["running"]


def test_a_replay_of_what_is_gone_is_passed_over(
    app: Flask, durable: FlaskDurable
) -> None:
    """A row that somebody deleted is no crash."""
    app.test_client().get("/")
    assert "has no such execution" in replay(app, "0" * 36, 2)


@pytest.mark.parametrize("warm", [False, True])
def test_a_mounted_app_with_middleware_is_replayed(
    app: Flask, durable: FlaskDurable, drive: Drive, warm: bool
) -> None:
    """The mount point was cut off outside, so it must not be given back.

    The first request of all comes before the path's note-taker is in place.
    """
    t.cast(t.Any, app).wsgi_app = ProxyFix(app.wsgi_app)
    client = Client(DispatcherMiddleware(Flask("root"), {"/shop": app}))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return request.url

    if warm:
        client.get("/shop/")

    answer = client.post("/shop/work")
    drive.advance(61)
    assert drive.run_due() == 1
    url = status_link(answer).removeprefix("http://localhost")
    assert client.get(f"{url}/response").text == "http://localhost/shop/work"


def test_the_first_request_behind_a_prefix_is_replayed_at_the_second_try(
    app: Flask, durable: FlaskDurable, drive: Drive
) -> None:
    """Nobody noted its path; as captured it leads nowhere, as received it does."""
    strip_shop(app)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    answer = app.test_client().post("/shop/work")
    drive.advance(61)
    drive.run_due()
    drive.advance(5)
    drive.run_due()
    url = status_link(answer).removeprefix("http://localhost")
    assert app.test_client().get(f"{url}/response").text == "done"


def test_a_link_that_can_not_be_made_leaks_no_lease(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """An app's own url_defaults may raise; then nothing has begun."""

    @app.url_defaults
    def fail(endpoint: str, values: dict[str, t.Any]) -> None:
        raise RuntimeError("no locale")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return "done"

    assert client.post("/work").status_code == 500
    assert drive.state.heartbeat._leases == {}
    assert drive.state.upkeep.held(current_owner()) == []


def test_a_group_of_tasks_may_be_suspended(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """asyncio.TaskGroup wraps what ends it in a group of exceptions."""

    @app.post("/work")
    @durable.endpoint
    async def work() -> str:
        async def nap() -> None:
            step.sleep("nap", 60)

        async with asyncio.TaskGroup() as group:
            group.create_task(nap())

        return "done"

    answer = client.post("/work")
    assert answer.status_code == 202
    assert drive.finish(answer).text == "done"
    assert drive.status(answer)["attempt"] == 2


def test_a_teardown_function_that_raises_leaks_no_attempt(
    database_url: str, tmp_path: pathlib.Path
) -> None:
    """Where errors propagate, as in debug mode, the app's own comes before ours."""
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(
        DURABLE_DATABASE_URL=database_url, SECRET_KEY="tests", TESTING=True
    )
    durable = FlaskDurable(app)

    @app.teardown_request
    def fail(error: BaseException | None) -> None:
        raise RuntimeError("teardown")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        raise ValueError("view")

    # A group in later versions of Flask.
    with pytest.raises((RuntimeError, ValueError, ExceptionGroup)):
        app.test_client().post("/work")

    state = get_state(app)
    assert state.heartbeat._leases == {}
    assert state.upkeep.held(current_owner()) == []
    state.close()


def test_an_owner_that_nobody_understands_stops_no_sweep(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Whoever wrote it, the others go on."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    client.post("/work")
    second = drive.status(client.post("/work"))["id"]
    request = drive.state.store.outgoing(second).request
    drive.state.store.begin(new_id(), "work", "?", 60.0, request, None)
    drive.advance(61)
    hands = CallerHands(app)
    assert Sweeper(drive.state, hands).look() == 0.0
    assert hands.sent == 1


def test_one_response_object_for_all_has_one_link(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """A client must not get the signed links of others."""
    shared = Response("done")

    @app.post("/work")
    @durable.endpoint
    def work() -> Response:
        return shared

    client.post("/work")
    assert len(client.post("/work").headers.getlist("Link")) == 1


def test_what_waits_is_told_among_many_steps(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The document has the newest 100 steps, and those that are not done."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.parallel(
            lambda: step.sleep("nap", 60), lambda: step.map("many", str, range(150))
        )
        return "done"

    document = drive.status(client.post("/work"))
    assert document["waiting_for"]["step"] == "nap"
    assert len(document["steps"]) == 100


def test_a_forgotten_return_is_not_tried_again(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The next attempt would forget it as well."""

    @app.post("/work")
    @durable.endpoint
    def work() -> t.Any:
        step.run("first", str)

    answer = client.post("/work")
    assert answer.status_code == 500
    document = drive.status(answer)
    assert (document["status"], document["error_type"]) == ("failed", "TypeError")


def test_a_suspension_and_a_slow_step_do_not_deadlock(postgres_url: str) -> None:
    """Both lock the execution first, then the step."""
    store = Store(Database.open(postgres_url))
    record = RequestRecord(b"{}", None, b"", "digest")
    ids = [new_id() for _ in range(60)]

    def step_record(status: t.Literal["retrying", "running"]) -> StepRecord:
        return StepRecord("pay", "run", status, 1, 0, 1, 1.0)

    for one in ids:
        store.begin(one, "view", "ada:1:1", 60.0, record, None)

    def mark() -> None:
        for one in ids:
            Upkeep(store).mark_running(one, 1, step_record("running"))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        marks = [pool.submit(mark), pool.submit(mark)]

        for one in ids:
            store.suspend(one, 1, 1.0, step_record("retrying"))

        for done in marks:
            done.result(30)

    assert store.database.troubled_at is None
    assert {line.status for one in ids for line in store.journal(one)} == {"retrying"}
    store.database.close()
