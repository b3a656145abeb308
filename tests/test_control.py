"""Children, and what operators do: start, cancel, resume, rerun, purge."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import Blueprint
from flask import Flask
from flask import jsonify
from flask import request
from flask import Response
from flask.testing import FlaskClient
from werkzeug.exceptions import NotFound

from flask_durable import ControlError
from flask_durable import current_execution
from flask_durable import DeadlineExceeded
from flask_durable import durable_replay
from flask_durable import ExecutionInfo
from flask_durable import ExecutionNotFound
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import purge
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError
from flask_durable import StepInterruptedError
from flask_durable.lines import follows_a_step
from flask_durable.records import Failure
from flask_durable.replay import replay
from flask_durable.tables import events
from flask_durable.tables import executions

from .driving import Drive


def after(error: Exception, before: Exception) -> Exception:
    """Give an error as one that was raised while another one was handled."""
    error.__context__ = before
    return error


class Shop:
    """Durable views whose work a test may change."""

    def __init__(self, app: Flask, durable: FlaskDurable) -> None:
        self.app = app
        self.durable = durable
        self.calls: list[str] = []
        self.failed: list[ExecutionInfo] = []
        self.work: cabc.Callable[[], t.Any] = lambda: "done"
        self.child: cabc.Callable[[int], t.Any] = lambda number: {"number": number}

        @app.post("/work")
        @durable.endpoint(on_failure=self.after, retry=Retry(2, initial=60))
        def work() -> t.Any:
            return self.work()

        @app.put("/children/<int:number>")
        @durable.endpoint
        def child(number: int) -> t.Any:
            return self.child(number)

        @app.post("/hurried")
        @durable.endpoint(deadline=dt.timedelta(minutes=2))
        def hurried() -> t.Any:
            return self.work()

        @app.get("/plain")
        def plain() -> str:
            return "plain"

    def after(self, failed: ExecutionInfo) -> None:
        """Follow a failure, with a step."""
        self.failed.append(failed)
        step.run("tell", self.call, f"after {failed.status}")

    def call(self, name: str) -> str:
        """Count a call."""
        self.calls.append(name)
        return name

    def fail(self, name: str) -> str:
        """Fail for good."""
        self.calls.append(name)
        raise NonRetryableError("no")


@pytest.fixture
def shop(app: Flask, durable: FlaskDurable) -> Shop:
    """Set up the views."""
    return Shop(app, durable)


@pytest.fixture
def context(app: Flask, shop: Shop) -> cabc.Iterator[None]:
    """Be in the app's context."""
    with app.app_context():
        yield


def invoke(number: int = 7, **options: t.Any) -> t.Any:
    """Run a child."""
    return step.invoke(f"child-{number}", "child", values={"number": number}, **options)


def finish(drive: Drive, answer: t.Any) -> t.Any:
    """Replay what is due, and give the final response."""
    for _ in range(4):
        drive.run_due()

    return drive.app.test_client().get(drive.status(answer)["response_url"])


# Children


def test_a_child_gives_its_json_back(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """By the rule's own method, with a body, a query and headers."""

    def child(number: int) -> t.Any:
        assert (request.method, request.args["x"]) == ("PUT", "a b")
        assert request.headers["X-Mood"] == "good"
        step.sleep("nap", 60)
        return {"number": number, "got": request.json, "url": request.url}

    shop.child = child
    shop.work = lambda: invoke(json=[1], query={"x": "a b"}, headers={"X-Mood": "good"})
    answer = client.post("/work")
    waits = drive.status(answer)["waiting_for"]
    assert (waits["kind"], waits["step"]) == ("invoke", "child-7")
    drive.run_due()
    drive.advance(61)
    url = "http://localhost/children/7?x=a+b"
    assert finish(drive, answer).json == {"number": 7, "got": [1], "url": url}


def test_a_child_is_begun_once(shop: Shop, client: FlaskClient, drive: Drive) -> None:
    """Whatever wakes its parent meanwhile."""

    def child(number: int) -> t.Any:
        shop.call("child")
        step.sleep("nap", 60)
        return {}

    def work() -> t.Any:
        def nap() -> None:
            step.sleep("nap", 30)

        return list(step.parallel(invoke, nap))

    shop.child, shop.work = child, work
    answer = client.post("/work")
    drive.run_due()
    drive.advance(31)
    drive.run_due()
    drive.advance(31)
    assert finish(drive, answer).json == [{}, None]
    assert shop.calls.count("child") == 2
    assert len(drive.state.control.find(None, "child", None, 9)) == 1


@pytest.mark.parametrize(
    ("child", "message"),
    [
        (lambda number: 1 / 0, "division by zero"),
        (lambda number: ("no", 404), "it answered 404"),
        (lambda number: "text", "it answered text/html, not JSON"),
        (
            lambda number: Response("oops", mimetype="application/json"),
            "it answered JSON that can't be read: Expecting value",
        ),
        (
            lambda number: Response("[" * 100_000, mimetype="application/json"),
            "it answered JSON that can't be read: ",
        ),
    ],
)
def test_a_failed_child_fails_its_step(
    shop: Shop, client: FlaskClient, drive: Drive, child: t.Any, message: str
) -> None:
    """The parent may catch it, now and on each replay."""

    def work() -> t.Any:
        try:
            return invoke()
        except StepError as error:
            step.sleep("nap", 60)
            return error.error_message

    shop.child, shop.work = child, work
    answer = client.post("/work")
    drive.run_due()
    drive.run_due()
    drive.advance(61)
    assert finish(drive, answer).text.startswith(message)


@pytest.mark.usefixtures("context")
def test_a_map_begins_no_children(shop: Shop, client: FlaskClient) -> None:
    """Its items are steps themselves, and the error says what to use."""
    shop.work = lambda: step.map("each", invoke, [1, 2])
    mine = client.post("/work").headers["Durable-Execution"]
    message = shop.durable.get(mine).error_message
    assert message is not None
    assert "several items at once, use step.parallel" in message


def test_an_empty_answer_is_none(shop: Shop, client: FlaskClient, drive: Drive) -> None:
    """204 has nothing to give."""
    shop.child = lambda number: ("", 204)
    shop.work = lambda: jsonify(invoke())
    assert finish(drive, client.post("/work")).json is None


def test_children_side_by_side(shop: Shop, client: FlaskClient, drive: Drive) -> None:
    """Each in its branch."""
    branches = [lambda n=n: invoke(n) for n in range(3)]
    shop.work = lambda: [each["number"] for each in step.parallel(*branches)]
    assert finish(drive, client.post("/work")).json == [0, 1, 2]


def test_a_child_has_its_parents_identity(
    shop: Shop, client: FlaskClient, drive: Drive, durable: FlaskDurable
) -> None:
    """Hooks log the same user in."""
    durable.identity(lambda: "ada")

    def child(number: int) -> t.Any:
        replay = durable_replay()
        return {"who": replay.identity if replay else None}

    shop.child, shop.work = child, invoke
    assert finish(drive, client.post("/work")).json == {"who": "ada"}


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [("nowhere", 'no endpoint "nowhere"'), ("plain", "is not durable")],
)
def test_only_durable_endpoints_are_invoked(
    shop: Shop, client: FlaskClient, endpoint: str, message: str
) -> None:
    """The view hears of it at once."""

    def work() -> t.Any:
        with pytest.raises(ValueError, match=message):
            step.invoke("child", endpoint)

        return "refused"

    shop.work = work
    assert client.post("/work").text == "refused"


def test_a_blueprints_endpoint_may_be_relative(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """As for url_for."""
    blueprint = Blueprint("pages", __name__, url_prefix="/pages")

    @blueprint.post("/parent")
    @durable.endpoint
    def parent() -> t.Any:
        return step.invoke("child", ".child")

    @blueprint.post("/child")
    @durable.endpoint
    def child() -> t.Any:
        return {"path": request.path}

    app.register_blueprint(blueprint)
    assert finish(drive, client.post("/pages/parent")).json == {"path": "/pages/child"}


@pytest.mark.parametrize("root", ["", "/app"])
@pytest.mark.parametrize("by", ["host", "subdomain"])
def test_a_child_goes_to_the_host_of_its_endpoint(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    by: str,
    root: str,
) -> None:
    """As for url_for: a tenant's view runs for that tenant."""
    app.config["SERVER_NAME"] = "shop.test"
    app.url_map.host_matching = by == "host"
    app.subdomain_matching = by == "subdomain"
    end = ".shop.test" if by == "host" else ""
    domain: t.Any = {by: "<tenant>"}
    seen: list[str] = []

    @app.post("/child", **domain)
    @durable.endpoint
    def child(tenant: str) -> t.Any:
        seen.append(f"{tenant} {request.url}")
        return {}

    @app.post("/parent", **{by: f"www{end}"})
    @durable.endpoint
    def parent() -> t.Any:
        return step.invoke("child", "child", values={"tenant": "ann" + end})

    client.post("/parent", base_url=f"http://www.shop.test{root}")
    assert (drive.run_due(), drive.run_due()) == (2, 0)
    assert seen == [f"ann{end} http://ann.shop.test{root}/child"]


# Start


@pytest.mark.usefixtures("context")
def test_an_execution_is_started_without_a_client(shop: Shop, drive: Drive) -> None:
    """It runs when a dispatcher comes to it."""
    shop.child = lambda number: {"number": number, "got": request.json}
    started = shop.durable.start("child", values={"number": 3}, json={"a": 1})
    assert shop.durable.get(started).status == "pending"
    assert drive.run_due() == 1
    found = shop.durable.get(started)
    assert (found.status, found.attempt, found.endpoint) == ("completed", 1, "child")


def test_an_execution_is_started_on_the_subdomain_of_its_endpoint(
    app: Flask, durable: FlaskDurable, drive: Drive
) -> None:
    """Outside of a request, with the app's scheme, port and root."""
    app.config |= {"SERVER_NAME": "shop.test:5000", "APPLICATION_ROOT": "/app"}
    app.config["PREFERRED_URL_SCHEME"] = "https"
    app.subdomain_matching = True
    seen: list[str] = []

    @app.post("/orders", subdomain="<tenant>")
    @durable.endpoint
    def order(tenant: str) -> str:
        seen.append(f"{tenant} {request.url}")
        return "done"

    with app.app_context():
        durable.start("order", values={"tenant": "ann"}, query={"x": 1})

    assert drive.run_due() == 1
    assert seen == ["ann https://ann.shop.test:5000/app/orders?x=1"]


def test_what_a_request_starts_has_its_identity(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """A client's own request, and a replay, whose user may be logged out by then."""
    users = ["ada"]
    seen: list[t.Any] = []
    shop.durable.identity(lambda: users.pop())

    def child(number: int) -> t.Any:
        seen.append((number, getattr(durable_replay(), "identity", None)))
        return {}

    def work() -> str:
        step.sleep("nap", 60)
        return step.run("start", shop.durable.start, "child", values={"number": 2})

    @shop.app.post("/kick")
    def kick() -> str:
        return shop.durable.start("child", values={"number": 1})

    shop.child, shop.work = child, work
    client.post("/kick")
    users.append("bob")
    client.post("/work")
    drive.advance(61)
    drive.run_due()
    drive.run_due()
    assert sorted(seen) == [(1, "ada"), (2, "bob")]


def test_an_async_view_starts_what_an_async_hook_tells_the_user_of(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """The view's loop runs already when the hook is asked."""
    seen: list[t.Any] = []

    @shop.durable.identity
    async def who() -> str:
        return "ada"

    def child(number: int) -> t.Any:
        seen.append(getattr(durable_replay(), "identity", None))
        return {}

    @shop.app.post("/kick")
    async def kick() -> str:
        return shop.durable.start("child", values={"number": 1})

    shop.child = child
    assert client.post("/kick").status_code == 200
    drive.run_due()
    assert seen == ["ada"]


@pytest.mark.usefixtures("context")
def test_what_no_request_starts_has_no_identity(shop: Shop, drive: Drive) -> None:
    """There is nobody to ask for."""
    seen: list[t.Any] = []

    @shop.durable.identity
    def who() -> t.Any:
        return request.headers["User"]

    def child(number: int) -> t.Any:
        replay = durable_replay()
        seen.append(replay and replay.identity)
        return {}

    shop.child = child
    shop.durable.start("child", values={"number": 1})
    assert (drive.run_due(), seen) == (1, [None])


@pytest.mark.usefixtures("context")
def test_only_durable_endpoints_are_started(shop: Shop) -> None:
    """Nothing is stored of others."""
    with pytest.raises(ValueError, match='"plain" is not durable'):
        shop.durable.start("plain")

    view: t.Any = shop.app.view_functions["child"]

    with pytest.raises(TypeError, match='as for url_for, such as "child", not'):
        shop.durable.start(view)

    assert shop.durable.executions() == []


# Cancel


@pytest.mark.usefixtures("context")
def test_a_suspended_execution_is_cancelled_at_once(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Its response is gone, and what follows a failure runs."""
    shop.work = lambda: step.wait_for_event("wait", "never")
    answer = client.post("/work")
    mine = answer.headers["Durable-Execution"]
    shop.durable.cancel(mine)
    assert shop.durable.get(mine).status == "cancelled"
    assert finish(drive, answer).status_code == 410
    assert shop.calls == ["after cancelled"]

    with pytest.raises(ControlError, match="has ended already"):
        shop.durable.cancel(mine)


def test_a_running_execution_is_cancelled_at_its_next_step(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """The outcome in flight is recorded."""

    def cancel() -> str:
        shop.durable.cancel(current_execution.id)
        return "cancelled"

    def work() -> t.Any:
        step.run("first", cancel)
        return step.run("second", shop.call, "second")

    shop.work = work
    answer = client.post("/work")
    assert answer.status_code == 410
    status = drive.status(answer)
    assert status["status"] == "cancelled"
    assert [line["status"] for line in status["steps"]] == ["completed"]
    drive.run_due()
    assert shop.calls == ["after cancelled"]


def test_a_bare_except_does_not_outlive_a_cancel(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """The attempt counts as cancelled in any case."""

    def work() -> t.Any:
        step.run("first", lambda: shop.durable.cancel(current_execution.id))

        try:
            step.run("second", str)
        except:  # noqa: E722
            pass

        return "survived"

    shop.work = work
    assert client.post("/work").status_code == 410


def test_a_suspension_meets_a_cancel(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """It goes on at once, to end."""

    def work() -> t.Any:
        cancel = threading.Thread(target=in_context, args=(current_execution.id,))
        branches = [
            lambda: step.wait_for_event("wait", "never"),
            lambda: step.run("slow", slowly, cancel),
        ]
        return list(step.parallel(*branches, max_workers=1))

    def slowly(cancel: threading.Thread) -> None:
        cancel.start()
        cancel.join()

    def in_context(mine: str) -> None:
        with shop.app.app_context():
            shop.durable.cancel(mine)

    shop.work = work
    answer = client.post("/work")
    drive.run_due()
    assert drive.status(answer)["status"] == "cancelled"


@pytest.mark.usefixtures("context")
def test_children_are_cancelled_with_their_parent(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """And theirs with them."""
    shop.child = lambda number: invoke(number - 1) if number > 5 else step.sleep("s", 9)
    shop.work = invoke
    answer = client.post("/work")

    for _ in range(3):
        drive.run_due()

    shop.durable.cancel(answer.headers["Durable-Execution"])
    found = {one.status for one in shop.durable.executions(endpoint="child")}
    assert found == {"cancelled"}
    drive.run_due()
    assert drive.status(answer)["status"] == "cancelled"


@pytest.mark.usefixtures("context")
def test_a_cancelled_child_fails_its_step(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Its parent goes on."""

    def work() -> t.Any:
        try:
            return invoke()
        except StepError as error:
            return error.error_message

    shop.child, shop.work = lambda number: step.sleep("s", 60), work
    answer = client.post("/work")
    drive.run_due()
    (child,) = shop.durable.executions(endpoint="child")
    shop.durable.cancel(child.id)
    assert finish(drive, answer).text == "It was cancelled."


# Deadline


def test_after_its_deadline_nothing_is_begun(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """It is woken for it, and fails."""

    def work() -> t.Any:
        step.run("first", shop.call, "first")
        step.sleep("nap", 86_400)
        return step.run("second", shop.call, "second")

    shop.work = work
    answer = client.post("/hurried")
    drive.advance(121)
    assert finish(drive, answer).status_code == 500
    status = drive.status(answer)
    assert status["error_type"] == "flask_durable.errors.DeadlineExceeded"
    assert shop.calls == ["first"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda: step.sleep("nap", 86_400),
        lambda: step.wait_for_event("paid", "paid", timeout=86_400),
        lambda: step.wait_for_event("paid", "paid"),
    ],
    ids=["sleep", "event", "endless"],
)
def test_who_waits_beyond_a_deadline_goes_on_at_it(
    shop: Shop, client: FlaskClient, drive: Drive, wait: cabc.Callable[[], t.Any]
) -> None:
    """The status document names the earlier one of the two times."""
    shop.work = wait
    status = drive.status(client.post("/hurried"))
    until = dt.datetime.fromisoformat(status["waiting_for"]["until"])
    created = dt.datetime.fromisoformat(status["created_at"])
    assert dt.timedelta(minutes=1) < until - created <= dt.timedelta(minutes=2)


@pytest.mark.parametrize("verb", ["resume", "rerun"])
def test_who_goes_on_after_its_deadline_has_none(
    shop: Shop, app: Flask, client: FlaskClient, drive: Drive, verb: str
) -> None:
    """Nor has one that is run again."""

    def work() -> t.Any:
        step.sleep("nap", 180)
        return step.run("last", shop.call, "last")

    shop.work = work
    mine = client.post("/hurried").headers["Durable-Execution"]
    drive.advance(121)
    drive.run_due()

    with app.app_context():
        mine = getattr(shop.durable, verb)(mine) or mine
        drive.run_due()
        drive.advance(181)
        drive.run_due()
        assert shop.durable.get(mine).status == "completed"


def test_after_its_deadline_no_view_is_begun_again(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """One that raises meanwhile has one more attempt, at that moment."""

    def work() -> t.Any:
        step.run("first", shop.call, "first")
        raise LookupError("it stays away")

    shop.work = work
    config = dataclasses.replace(drive.state.config, retry=Retry(9, initial=600))
    drive.state.config = config
    answer = client.post("/hurried")
    drive.advance(121)
    assert finish(drive, answer).status_code == 500
    found = drive.status(answer)
    assert (found["attempt"], found["error_type"]) == (2, "LookupError")


def test_a_quick_execution_has_no_trouble_with_its_deadline(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Steps that are done are given back afterwards as well."""

    def work() -> t.Any:
        step.sleep("nap", 60)
        return step.run("second", shop.call, "second")

    shop.work = work
    answer = client.post("/hurried")
    drive.advance(61)
    assert finish(drive, answer).text == "second"


# After a failure


def test_what_follows_a_failure_runs_once(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """With the execution as the journal has it."""

    def work() -> t.Any:
        step.run("first", shop.call, "first")
        return step.run("second", shop.fail, "second")

    shop.work = work
    answer = client.post("/work")
    assert answer.status_code == 500

    for _ in range(3):
        drive.run_due()

    assert shop.calls == ["first", "second", "after failed"]
    (failed,) = shop.failed
    assert failed.id == answer.headers["Durable-Execution"]
    assert failed.error_type == "flask_durable.errors.StepError"
    assert [line.status for line in failed.steps] == ["completed", "failed"]


@pytest.mark.usefixtures("context")
def test_each_failure_is_followed(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """One that is resumed may fail, or be cancelled, once more."""
    shop.work = lambda: step.run("pay", shop.fail, "pay")
    mine = client.post("/work").headers["Durable-Execution"]
    drive.run_due()
    shop.durable.resume(mine)

    for _ in range(3):
        drive.run_due()

    assert shop.calls == ["pay", "after failed", "pay", "after failed"]
    shop.durable.resume(mine)
    shop.durable.cancel(mine)
    drive.run_due()
    assert shop.calls[-1] == "after cancelled"
    handlers = {one.id for one in shop.durable.executions() if one.parent_id == mine}
    assert len(handlers) == 3


@pytest.mark.usefixtures("context")
def test_what_is_seen_to_is_not_resumed_meanwhile(
    shop: Shop, client: FlaskClient, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows a failure goes by what had failed; and it has no second chance."""
    shop.work = lambda: step.run("pay", shop.fail, "pay")
    answer = client.post("/work")
    mine = answer.headers["Durable-Execution"]
    handler = shop.durable.executions()[0].id

    with pytest.raises(ControlError, match=f"wait for execution {handler}, or cancel"):
        shop.durable.resume(mine)

    with monkeypatch.context() as broken:
        broken.setattr(shop, "call", shop.fail)
        drive.run_due()

    assert shop.durable.get(handler).status == "failed"
    assert shop.failed[0].error_type == "flask_durable.errors.StepError"
    shop.durable.resume(mine)

    with pytest.raises(ControlError, match=f"a failure of execution {mine}, which was"):
        shop.durable.resume(handler)


@pytest.mark.usefixtures("context")
def test_what_is_seen_to_is_resumed_by_force(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Then both go on."""
    shop.work = lambda: step.run("pay", shop.fail, "pay")
    mine = client.post("/work").headers["Durable-Execution"]
    handler = shop.durable.executions()[0].id
    shop.work = lambda: step.run("pay", shop.call, "pay")
    shop.durable.resume(mine, force=True)
    drive.run_due()
    assert shop.durable.get(mine).status == "completed"
    assert shop.durable.get(handler).status == "completed"


@pytest.mark.usefixtures("context")
def test_who_resumes_by_force_is_told_what_is_done_again(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Also where it is for what follows the failure that it takes force."""
    Slip(shop)
    answer = client.post("/work")
    drive.advance(61)
    mine = answer.headers["Durable-Execution"]
    replay(shop.app, mine, 2)
    drive.advance(100)
    replay(shop.app, mine, 3)
    assert shop.durable.get(mine).status == "failed"

    with pytest.raises(
        ControlError, match='--force, which also does "letter", "charge", "nap" again'
    ):
        shop.durable.resume(mine)


def test_a_success_is_followed_by_nothing(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Neither is an error's answer."""
    shop.work = lambda: ("no", 402)
    client.post("/work")
    assert drive.run_due() == 0
    assert shop.failed == []


# Resume and rerun


@pytest.mark.usefixtures("context")
def test_a_failed_execution_goes_on_where_it_failed(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """What was done before is not done again."""
    broken = [True]

    def pay() -> str:
        return shop.fail("pay") if broken.pop() else shop.call("pay")

    broken.insert(0, False)

    def work() -> t.Any:
        return [step.run("reserve", shop.call, "reserve"), step.run("pay", pay)]

    shop.work = work
    answer = client.post("/work")
    drive.run_due()
    assert answer.status_code == 500
    shop.durable.resume(answer.headers["Durable-Execution"])
    assert finish(drive, answer).json == ["reserve", "pay"]
    assert [c for c in shop.calls if "after" not in c] == ["reserve", "pay", "pay"]


@pytest.mark.usefixtures("context")
def test_a_view_that_went_on_is_resumed_by_force_only(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Its compensation would be done again."""
    broken = [False, True]

    def work() -> t.Any:
        try:
            step.run("pay", lambda: broken.pop() and shop.fail("pay"))
        except StepError:
            step.run("release", shop.call, "release")
            raise

        return "paid"

    shop.work = work
    answer = client.post("/work")
    drive.run_due()
    mine = answer.headers["Durable-Execution"]

    with pytest.raises(ControlError, match='recorded "release"'):
        shop.durable.resume(mine)

    shop.durable.resume(mine, force=True)
    assert finish(drive, answer).text == "paid"
    assert [line.id for line in shop.durable.get(mine).steps] == ["pay"]


@pytest.mark.usefixtures("context")
def test_what_failed_side_by_side_is_resumed_at_once(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Whatever the others recorded stays, also if they began after the failure."""
    broken = ["0", "2"]

    def charge(item: str) -> str:
        return shop.fail(item) if item in broken else shop.call(item)

    shop.work = lambda: list(step.map("charge", charge, "0123", max_workers=1))
    answer = client.post("/work")
    drive.run_due()
    broken.clear()
    shop.durable.resume(answer.headers["Durable-Execution"])
    assert finish(drive, answer).json == ["0", "1", "2", "3"]
    calls = sorted(call for call in shop.calls if call.isdigit())
    assert calls == ["0", "0", "1", "2", "2", "3"]


@pytest.mark.usefixtures("context")
def test_force_keeps_what_was_done_beside_the_failure(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """What a branch or the view did after its own failure is done again."""
    broken = [True]

    def pay() -> t.Any:
        try:
            return step.run("pay", shop.fail if broken else shop.call, "pay")
        except StepError:
            step.run("release", shop.call, "release")
            raise

    def pack() -> list[str]:
        return [step.run(name, shop.call, name) for name in ("wrap", "label")]

    def work() -> t.Any:
        try:
            return list(step.parallel(pay, pack, max_workers=1))
        except StepError:
            step.run("sorry", shop.call, "sorry")
            raise

    shop.work = work
    answer = client.post("/work")
    drive.run_due()
    mine = answer.headers["Durable-Execution"]

    with pytest.raises(ControlError, match='recorded "release", "sorry". A resume'):
        shop.durable.resume(mine)

    broken.clear()
    shop.durable.resume(mine, force=True)
    assert finish(drive, answer).json == ["pay", ["wrap", "label"]]
    names = [line.id for line in shop.durable.get(mine).steps]
    assert sorted(names) == ["label", "pay", "wrap"]
    assert shop.calls.count("wrap") == 1


@pytest.mark.usefixtures("context")
def test_a_failure_that_a_branch_saw_to_stays(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """The one that ended another branch is tried anew."""
    broken = [True]

    def mail() -> str:
        try:
            return step.run("mail", shop.fail, "mail")
        except StepError:
            return step.run("letter", shop.call, "letter")

    def pay() -> str:
        return step.run("pay", shop.fail if broken else shop.call, "pay")

    shop.work = lambda: list(step.parallel(mail, pay, max_workers=1))
    answer = client.post("/work")
    drive.run_due()
    broken.clear()
    shop.durable.resume(answer.headers["Durable-Execution"])
    assert finish(drive, answer).json == ["letter", "pay"]
    assert shop.calls.count("mail") == shop.calls.count("letter") == 1


class Slip:
    """A view that sees to a failed step, goes on, and fails by something else."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.broken = [True]
        shop.work = self.work

    def work(self) -> str:
        """Mail, charge, and stumble."""
        try:
            step.run("mail", self.shop.fail, "mail")
        except StepError:
            step.run("letter", self.shop.call, "letter")

        step.run("charge", self.shop.call, "charge")

        if self.broken:
            step.sleep("nap", 60)

            raise LookupError("a slip")

        return "charged"

    def fail(self, client: FlaskClient, drive: Drive, path: str = "/work") -> t.Any:
        """Fail, by its own code or, where it is hurried, at its deadline."""
        answer = client.post(path)
        drive.advance(61 if path == "/work" else 121)
        drive.run_due()
        drive.advance(100)
        assert finish(drive, answer).status_code == 500
        self.broken.clear()
        return answer

    @property
    def calls(self) -> list[str]:
        """The calls of its steps, without those of what follows its failure."""
        return [call for call in self.shop.calls if "after" not in call]


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("path", ["/work", "/hurried"])
def test_what_a_view_saw_to_stays_where_it_failed_otherwise(
    shop: Shop, client: FlaskClient, drive: Drive, path: str
) -> None:
    """By its own code, or at its deadline: nothing is done again."""
    slip = Slip(shop)
    answer = slip.fail(client, drive, path)
    shop.durable.resume(answer.headers["Durable-Execution"])
    assert finish(drive, answer).text == "charged"
    assert slip.calls == ["mail", "letter", "charge"]


@pytest.mark.usefixtures("context")
def test_what_a_view_saw_to_stays_where_its_replays_were_turned_away(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """It was not its view that failed."""
    slip = Slip(shop)
    answer = client.post("/work")
    mine = answer.headers["Durable-Execution"]
    drive.advance(61)
    error = Failure("flask_durable.errors.ReplayRejected", "401").encode()
    assert drive.state.upkeep.refuse(mine, 1, None, error)
    drive.run_due()
    slip.broken.clear()
    shop.durable.resume(mine)
    assert finish(drive, answer).text == "charged"
    assert slip.calls == ["mail", "letter", "charge"]


@pytest.mark.usefixtures("context")
def test_what_a_view_saw_to_is_done_again_by_force(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Whoever resumes it may know better why it failed."""
    answer = Slip(shop).fail(client, drive)
    shop.durable.resume(answer.headers["Durable-Execution"], force=True)
    assert finish(drive, answer).text == "charged"
    assert shop.calls.count("charge") == 2


@pytest.mark.parametrize(
    ("error", "follows"),
    [
        (StepError("pay", 1, "E", "no"), True),
        (ExceptionGroup("two", [StepError("pay", 1, "E", "no")]), True),
        (after(LookupError(), StepError("pay", 1, "E", "no")), True),
        (after(LookupError(), after(KeyError(), NotFound())), True),
        (LookupError(), False),
        (DeadlineExceeded(), False),
        (after(DeadlineExceeded(), StepError("pay", 1, "E", "no")), False),
        (StepInterruptedError("pay", 1, "E", "no"), False),
    ],
)
def test_what_a_view_failed_by(error: Exception, follows: bool) -> None:
    """The chain of its errors tells whether a failed step is among them."""
    error.__cause__ = error.__cause__ or error
    assert follows_a_step(error) is follows


class Payment:
    """A child that fails in its second step, until that is mended."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.broken = [True]
        shop.child, shop.work = self.child, lambda: jsonify(invoke())

    def child(self, number: int) -> str:
        """Pay, and go on later."""
        step.run("reserve", self.shop.call, "reserve")
        step.run("pay", self.shop.fail if self.broken else self.shop.call, "pay")
        step.sleep("settle", 60)
        return t.cast(str, jsonify("paid"))

    def fail(self, client: FlaskClient, drive: Drive) -> tuple[t.Any, str, str]:
        """Fail once, and give an answer of the parent, its id and its child's."""
        answer = client.post("/work")
        assert finish(drive, answer).status_code == 500
        self.broken.clear()
        (parent,) = self.shop.durable.executions(endpoint="work", status="failed")
        (child,) = self.shop.durable.executions(endpoint="child")
        return answer, parent.id, child.id


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("order", ["parent", "child, parent"])
def test_a_failed_child_goes_on_with_its_parent(
    shop: Shop, client: FlaskClient, drive: Drive, order: str
) -> None:
    """What it did is kept; its parent waits for its second end."""
    answer, parent, child = Payment(shop).fail(client, drive)

    for who in order.split(", "):
        shop.durable.resume({"parent": parent, "child": child}[who])

    assert finish(drive, answer).status_code == 202
    assert drive.run_due() == 0
    drive.advance(61)
    assert finish(drive, answer).json == "paid"
    assert [c for c in shop.calls if "after" not in c] == ["reserve", "pay", "pay"]


@pytest.mark.usefixtures("context")
def test_what_a_child_gave_before_its_parent_is_resumed_is_taken(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """It was resumed by itself, and is done by then: nothing of it is done again."""
    answer, parent, child = Payment(shop).fail(client, drive)
    shop.durable.resume(child)
    drive.run_due()
    drive.advance(61)
    drive.run_due()
    assert shop.durable.get(child).status == "completed"
    shop.durable.resume(parent)
    assert finish(drive, answer).json == "paid"
    assert len(shop.durable.executions(endpoint="child")) == 1
    assert [c for c in shop.calls if "after" not in c] == ["reserve", "pay", "pay"]


@pytest.mark.usefixtures("context")
def test_a_child_that_is_resumed_at_once_has_not_failed_its_parent(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Nobody has taken the news of its first end by then."""
    payment = Payment(shop)
    answer = client.post("/work")
    (child,) = shop.durable.executions(endpoint="child")
    replay(shop.app, child.id, 1)
    payment.broken.clear()
    shop.durable.resume(child.id)
    assert finish(drive, answer).status_code == 202
    drive.advance(61)
    assert finish(drive, answer).json == "paid"


@pytest.mark.usefixtures("context")
def test_a_child_that_did_not_fail_is_begun_anew(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """It was cancelled, or answered with an error: it has ended for good."""
    shop.child, shop.work = lambda number: ("no", 404), invoke
    answer = client.post("/work")
    mine = answer.headers["Durable-Execution"]
    assert finish(drive, answer).status_code == 500
    shop.child = lambda number: step.sleep("nap", 600)
    shop.durable.resume(mine)
    assert finish(drive, answer).status_code == 202
    shop.durable.cancel(shop.durable.executions(endpoint="child")[0].id)
    assert finish(drive, answer).status_code == 500
    shop.child = lambda number: {"number": number}
    shop.durable.resume(mine)
    assert finish(drive, answer).json == {"number": 7}
    assert len(shop.durable.executions(endpoint="child")) == 3


@pytest.mark.usefixtures("context")
def test_only_failed_executions_are_resumed(shop: Shop, client: FlaskClient) -> None:
    """Others have ended well, or go on by themselves."""
    mine = client.post("/work").headers["Durable-Execution"]

    with pytest.raises(ControlError, match="is completed: only one that failed"):
        shop.durable.resume(mine)


@pytest.mark.usefixtures("context")
def test_a_request_is_run_once_more(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """From a step on: what came before is kept."""

    def work() -> t.Any:
        names = ("a", "b", "c")
        return [step.run(name, shop.call, name) for name in names]

    shop.work = work
    mine = client.post("/work").headers["Durable-Execution"]
    again = shop.durable.rerun(mine, from_step="c")
    drive.run_due()
    assert shop.durable.get(again).status == "completed"
    assert shop.calls == ["a", "b", "c", "c"]
    shop.durable.rerun(mine)
    drive.run_due()
    assert shop.calls == ["a", "b", "c", "c", "a", "b", "c"]

    with pytest.raises(ControlError, match='no step "d"'):
        shop.durable.rerun(mine, from_step="d")


@pytest.mark.usefixtures("context")
def test_what_follows_a_failure_is_resumed_and_not_run_again(
    shop: Shop, client: FlaskClient, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is the view's, which would be done once more."""
    shop.work = lambda: step.run("pay", shop.fail, "pay")
    client.post("/work")

    with monkeypatch.context() as broken:
        broken.setattr(shop, "call", shop.fail)
        drive.run_due()

    (handler, failed) = shop.durable.executions()
    assert (handler.role, handler.status) == ("on_failure", "failed")

    with pytest.raises(ControlError, match=f"if it failed, or rerun {failed.id}"):
        shop.durable.rerun(handler.id)

    shop.durable.resume(handler.id)
    drive.run_due()
    assert shop.durable.get(handler.id).status == "completed"
    assert shop.calls == ["pay", "after failed", "after failed"]


# Reading and deleting


def nap_and_wait() -> t.Any:
    """Come to a wait for an event after twenty days."""
    step.sleep("nap", dt.timedelta(days=20))
    return step.wait_for_event("e", "e")


@pytest.mark.usefixtures("context")
def test_executions_are_listed_newest_first(shop: Shop, client: FlaskClient) -> None:
    """By status and endpoint, page by page."""
    mine = [client.post("/work").headers["Durable-Execution"] for _ in range(3)]
    shop.work = lambda: step.sleep("nap", 60)
    waiting = client.post("/work").headers["Durable-Execution"]
    durable = shop.durable
    assert [one.id for one in durable.executions()] == [waiting, *reversed(mine)]
    assert [one.id for one in durable.executions(status="suspended")] == [waiting]
    assert durable.executions(endpoint="child") == []
    page = durable.executions(before=mine[2], limit=1)
    assert [one.id for one in page] == [mine[1]]


@pytest.mark.usefixtures("context")
def test_an_unknown_execution_is_an_error(shop: Shop) -> None:
    """Whatever is asked of it."""
    calls = (shop.durable.get, shop.durable.cancel, shop.durable.resume)

    for call in (*calls, shop.durable.rerun):
        with pytest.raises(ExecutionNotFound, match="no execution gone"):
            call("gone")


@pytest.mark.usefixtures("context")
def test_what_ended_long_ago_is_deleted(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """With its steps; what goes on stays, with the events that it may wait for."""
    durable = shop.durable
    shop.work = lambda: step.run("a", shop.call, "a")
    old = client.post("/work").headers["Durable-Execution"]
    shop.work = nap_and_wait
    goes_on = client.post("/work")
    durable.send_event("e", data="kept")
    drive.advance(8 * 86_400)
    shop.work = lambda: step.run("a", shop.call, "a")
    new = client.post("/work").headers["Durable-Execution"]
    shop.work = nap_and_wait
    assert durable.purge() == 1

    with pytest.raises(ExecutionNotFound):
        durable.get(old)

    assert drive.state.store.journal(old) == []
    assert durable.get(new).steps
    drive.advance(13 * 86_400)
    assert finish(drive, goes_on).text == "kept"
    assert durable.purge(older_than=0) == 2


@pytest.mark.usefixtures("context")
def test_a_child_stays_as_long_as_its_parent(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Who resumes the parent goes on with it, and repeats nothing of it."""

    def work() -> t.Any:
        try:
            return jsonify(invoke())
        except StepError:
            step.sleep("regret", dt.timedelta(days=8))
            raise

    payment = Payment(shop)
    shop.work = work
    answer = client.post("/work")
    finish(drive, answer)
    drive.advance(8 * 86_400 + 1)
    assert finish(drive, answer).status_code == 500
    assert shop.durable.purge() == 0
    payment.broken.clear()
    shop.durable.resume(answer.headers["Durable-Execution"], force=True)
    finish(drive, answer)
    drive.advance(61)
    assert finish(drive, answer).json == "paid"
    assert len(shop.durable.executions(endpoint="child")) == 1
    assert [c for c in shop.calls if "after" not in c] == ["reserve", "pay", "pay"]
    drive.advance(8 * 86_400)
    assert shop.durable.purge() == 3


@pytest.mark.usefixtures("context")
def test_children_of_a_child_stay_as_long_as_its_parent(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Who resumes that goes on with them all."""

    def work() -> t.Any:
        try:
            return jsonify(invoke(1))
        except StepError:
            step.sleep("regret", dt.timedelta(days=8))
            raise

    payment = Payment(shop)
    shop.child = lambda n: jsonify(invoke(2)) if n == 1 else payment.child(n)
    shop.work = work
    answer = client.post("/work")
    finish(drive, answer)
    drive.advance(8 * 86_400 + 1)
    assert finish(drive, answer).status_code == 500
    assert shop.durable.purge() == 0
    payment.broken.clear()
    shop.durable.resume(answer.headers["Durable-Execution"], force=True)
    finish(drive, answer)
    drive.advance(61)
    assert finish(drive, answer).json == "paid"
    assert [c for c in shop.calls if "after" not in c] == ["reserve", "pay", "pay"]
    drive.advance(8 * 86_400)
    assert shop.durable.purge() == 4


@pytest.mark.usefixtures("context")
def test_a_parent_stays_as_long_as_what_follows_its_failure(
    shop: Shop, client: FlaskClient, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resumes that reads what had failed."""
    shop.work = lambda: step.run("pay", shop.fail, "pay")
    client.post("/work")
    drive.advance(8 * 86_400)

    with monkeypatch.context() as broken:
        broken.setattr(shop, "call", shop.fail)
        drive.run_due()

    assert shop.durable.purge() == 0
    handler = shop.durable.executions()[0].id
    shop.durable.resume(handler)
    drive.run_due()
    assert shop.durable.get(handler).status == "completed"


def fail_beside_a_callback(shop: Shop, client: FlaskClient, drive: Drive) -> t.Any:
    """Fail days after the callback was completed and a child ended."""
    tokens = []

    def work() -> t.Any:
        callback = step.callback("paid")
        tokens.append(callback.token)
        step.progress("on its way")
        invoke()
        step.sleep("nap", dt.timedelta(days=8))
        step.run("send", shop.fail if len(tokens) < 4 else shop.call, "send")
        return jsonify(callback.wait())

    shop.work = work
    answer = client.post("/work")
    shop.durable.complete_callback(tokens[0], {"sum": 7})
    finish(drive, answer)
    drive.advance(8 * 86_400)
    finish(drive, answer)
    return answer


@pytest.mark.usefixtures("context")
def test_what_came_for_an_execution_stays_as_long_as_it(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """It may be resumed, and read what was accepted."""
    answer = fail_beside_a_callback(shop, client, drive)
    mine = answer.headers["Durable-Execution"]
    assert shop.durable.get(mine).status == "failed"
    shop.durable.purge()
    assert len(drive.state.progress.lines(mine, 0)) == 1
    shop.durable.resume(mine)
    assert finish(drive, answer).json == {"sum": 7}


@pytest.mark.usefixtures("context")
def test_what_came_for_an_execution_goes_with_it(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Callbacks, ends of children, lines of progress; others' stay."""
    fail_beside_a_callback(shop, client, drive)
    kept = fail_beside_a_callback(shop, client, drive).headers["Durable-Execution"]
    drive.advance(8 * 86_400)
    fresh = sa.update(executions).where(executions.c.id == kept)
    now = fresh.values(finished_at=executions.c.finished_at + 8 * 86_400)
    drive.state.store.database.run(lambda c: c.execute(now))
    assert count(drive, events) == 2 * 3
    shop.durable.purge()
    assert count(drive, events) == 3
    assert len(drive.state.progress.lines(kept, 0)) == 1


@pytest.mark.usefixtures("context")
def test_what_waits_without_an_end_finds_what_was_sent(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """It is due at no time, and has not ended: no purge takes an event from it."""
    tokens = []

    def work() -> str:
        approval = step.callback("approval")
        tokens.append(approval.token)
        approval.wait()
        return t.cast(str, step.wait_for_event("e", "e"))

    shop.work = work
    answer = client.post("/work")
    shop.durable.send_event("e", data="kept")
    drive.advance(8 * 86_400)
    shop.durable.purge()
    shop.durable.complete_callback(tokens[0], True)
    assert finish(drive, answer).text == "kept"


@pytest.mark.usefixtures("context")
def test_a_new_event_is_no_old_one(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Its number is none that an event had which was deleted."""
    broken = [True]

    def work() -> t.Any:
        first = step.wait_for_event("first", "e")
        step.sleep("nap", dt.timedelta(days=8))
        step.run("pay", shop.fail if broken else shop.call, "pay")
        return [first, step.wait_for_event("second", "e")]

    shop.work = work
    answer = client.post("/work")
    shop.durable.send_event("e", data=1)
    drive.run_due()
    drive.advance(8 * 86_400 + 1)
    assert finish(drive, answer).status_code == 500
    shop.durable.purge()
    assert count(drive, events) == 0
    broken.clear()
    shop.durable.resume(answer.headers["Durable-Execution"])
    drive.run_due()
    shop.durable.send_event("e", data=2)
    assert finish(drive, answer).json == [1, 2]


@pytest.mark.usefixtures("context")
def test_children_of_what_waits_without_an_end_stay(
    shop: Shop, client: FlaskClient, drive: Drive
) -> None:
    """Their parent has not ended, though it is due at no time."""

    def work() -> t.Any:
        return jsonify(step.parallel(invoke, step.callback("approval").wait))

    shop.work = work
    client.post("/work")
    drive.run_due()
    (child,) = shop.durable.executions(endpoint="child")
    drive.advance(8 * 86_400)
    shop.durable.purge()
    assert shop.durable.get(child.id).status == "completed"


@pytest.mark.usefixtures("context")
def test_an_app_deletes_nothing_of_another_one(shop: Shop, drive: Drive) -> None:
    """They may share a journal, and keep what they have for other times."""
    other = Flask("other")
    other.config.update(shop.app.config)
    durable = FlaskDurable(other)
    shop.durable.send_event("e")

    with other.app_context():
        durable.send_event("e")
        drive.advance(1)
        durable.purge(older_than=0)

    assert count(drive, events) == 1
    other.extensions["durable"].close()


@pytest.mark.parametrize("verb", ["get", "cancel", "resume", "rerun"])
def test_an_app_does_nothing_to_executions_of_another_one(
    shop: Shop, client: FlaskClient, drive: Drive, verb: str
) -> None:
    """It does not know their endpoints, and nobody would find what it begins."""
    shop.work = lambda: step.run("pay", shop.fail, "pay")
    mine = client.post("/work").headers["Durable-Execution"]
    drive.run_due()
    other = Flask("other")
    other.config.update(shop.app.config)
    durable = FlaskDurable(other)

    with (
        other.app_context(),
        pytest.raises(ExecutionNotFound, match=f"There is no execution {mine}"),
    ):
        getattr(durable, verb)(mine)

    other.extensions["durable"].close()


@pytest.mark.usefixtures("context")
def test_events_are_deleted_in_batches(
    shop: Shop, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them; what is sent meanwhile need not wait for that."""
    monkeypatch.setattr(purge, "EVENTS_BATCH", 2)

    for _ in range(5):
        shop.durable.send_event("e")

    drive.advance(8 * 86_400)
    shop.durable.send_event("e")
    shop.durable.purge()
    assert count(drive, events) == 1


def count(drive: Drive, table: sa.Table) -> int:
    """Count a table's rows."""
    rows = sa.select(sa.func.count()).select_from(table)
    return drive.state.store.database.run(lambda c: c.execute(rows).scalar_one())
