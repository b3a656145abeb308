"""``step.parallel`` and ``step.map``: order, contexts, and how they end."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import io
import threading
import time
import typing as t

import pytest
from flask import abort
from flask import after_this_request
from flask import current_app
from flask import Flask
from flask import g
from flask import jsonify
from flask import request
from flask import Response
from flask import url_for
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy

from flask_durable import current_execution
from flask_durable import current_step
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError

from ..driving import Drive
from .helpers import down
from .helpers import Failing
from .helpers import Flaky

pytestmark = pytest.mark.config(DURABLE_INLINE_RETRY=0)


def slow(value: str, seconds: float = 0.15) -> str:
    """Return the value late."""
    time.sleep(seconds)
    return value


def test_results_come_in_the_order_of_the_branches(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A tuple, whichever branch ends first, at once and on a replay."""
    kinds: list[type] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        made = step.parallel(
            lambda: step.run("flight", slow, "flight"),
            lambda: step.run("hotel", lambda: "hotel"),
            lambda: step.run("car", lambda: "car"),
        )
        kinds.append(type(made))
        step.sleep("nap", 60)
        return [*made]

    assert drive.finish(client.post("/work")).json == ["flight", "hotel", "car"]
    assert kinds == [tuple, tuple]


def test_branches_run_at_once(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Each branch may wait for another: all have begun."""
    barrier = threading.Barrier(3, timeout=10)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.parallel(
            lambda: step.run("a", barrier.wait),
            lambda: step.run("b", barrier.wait),
            lambda: step.run("c", barrier.wait),
        )
        return "met"

    assert client.post("/work").text == "met"


def test_a_branch_may_hold_any_code_and_any_steps(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Several steps, none at all, and parallel branches within branches."""

    def inner() -> list[str]:
        first = step.run("first", lambda: "1")
        (a, b) = step.parallel(
            lambda: step.run("a", lambda: first + "a"),
            lambda: step.run("b", lambda: first + "b"),
        )
        return [a, b, *step.map("c", lambda n: f"c{n}", [1, 2])]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        (nested, plain) = step.parallel(inner, lambda: "plain")
        step.sleep("nap", 60)
        return [*nested, plain]

    final = drive.finish(client.post("/work"))
    assert final.json == ["1a", "1b", "c1", "c2", "plain"]


def test_no_branches_give_an_empty_tuple(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Branches may come from a list that happens to be empty."""
    seen: list[t.Any] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seen.append(step.parallel(*[]))
        seen.append(step.map("none", str, []))
        return "done"

    assert client.post("/work").text == "done"
    assert seen == [(), []]


def test_one_worker_runs_all_branches(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """With ``max_workers=1`` there is never more than one at a time."""
    running = Peak()

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        branches = [
            lambda n=n: step.run(f"step {n}", running, str(n)) for n in range(4)
        ]
        return [*step.parallel(*branches, max_workers=1)]

    assert client.post("/work").json == ["0", "1", "2", "3"]
    assert running.peak == 1


class Peak:
    """A step function that counts how many of it run at the same moment."""

    def __init__(self) -> None:
        self.peak = self.now = 0
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        time.sleep(0.02)
        with self._lock:
            self.now -= 1
        return value


def test_more_items_than_workers(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """All items are done, at most ``max_workers`` at once, in the items' order."""
    running = Peak()

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        return step.map("each", running, map(str, range(20)), max_workers=3)

    assert client.post("/work").json == [str(n) for n in range(20)]
    assert 2 <= running.peak <= 3


def test_a_map_of_a_hundred_items(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Many more items than threads or connections, and each runs once."""
    calls: list[int] = []

    def double(n: int) -> int:
        calls.append(n)
        return n * 2

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        made = step.map("double", double, range(100))
        step.sleep("nap", 60)
        return made

    final = drive.finish(client.post("/work"))
    assert final.json == [n * 2 for n in range(100)]
    assert sorted(calls) == list(range(100))


def test_each_item_of_a_map_is_a_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Their ids are ``id[0]``, ``id[1]`` …, and a second map of that id differs."""

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        first = step.map("book", lambda name: name.upper(), ("hotel", "car"))
        return first + step.map("book", lambda name: name * 2, ["x", "y"])

    response = client.post("/work")
    assert response.json == ["HOTEL", "CAR", "xx", "yy"]
    ids = [one["id"] for one in drive.status(response)["steps"]]
    assert {"book[0]", "book[1]"} <= set(ids)
    assert len(set(ids)) == 4


def test_only_the_item_that_failed_is_tried_again(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Each item is retried by itself."""
    calls: list[int] = []

    def book(n: int) -> int:
        calls.append(n)
        if n == 1 and calls.count(1) < 3:
            raise down()
        return n

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        return step.map("book", book, [0, 1, 2])

    response = client.post("/work")
    assert response.status_code == 202
    assert drive.finish(response).json == [0, 1, 2]
    assert sorted(calls) == [0, 1, 1, 1, 2]


def test_items_of_a_map_need_not_be_storable(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Only results are stored."""

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        return step.map("name", lambda one: type(one).__name__, [object(), {}, [[]]])

    assert client.post("/work").json == ["object", "dict", "list"]


def test_a_suspend_leaves_only_after_all_branches_are_done(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What a slow branch did is recorded before the answer, and isn't done again."""
    calls: list[str] = []

    def late() -> str:
        calls.append(slow("late"))
        return "late"

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        made = step.parallel(
            lambda: step.sleep("nap", 60), lambda: step.run("late", late)
        )
        return str(made[1])

    response = client.post("/work")
    assert response.status_code == 202
    steps = {one["id"]: one["status"] for one in drive.status(response)["steps"]}
    assert steps == {"nap": "sleeping", "late": "completed"}
    assert drive.finish(response).text == "late"
    assert calls == ["late"]


def test_an_error_leaves_only_after_all_branches_are_done(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The view that catches it finds the other branches recorded."""
    done: list[str] = []
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> str:
        try:
            step.parallel(
                lambda: step.run("charge", charge),
                lambda: step.run("late", lambda: done.append(slow("late"))),
            )
        except StepError as error:
            return f"{error.step} failed, {done}"
        return "never"

    response = client.post("/work")
    assert response.text == "charge failed, ['late']"
    steps = {one["id"]: one["status"] for one in drive.status(response)["steps"]}
    assert steps == {"charge": "failed", "late": "completed"}


def test_an_error_of_a_branchs_own_code_leaves_the_call(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """An exception outside a step is raised as it is."""
    done: list[str] = []

    def wrong() -> t.NoReturn:
        raise KeyError("seat")

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        with pytest.raises(KeyError, match="seat"):
            step.parallel(
                wrong, lambda: step.run("late", lambda: done.append(slow("late")))
            )
        return done

    assert client.post("/work").json == ["late"]


def test_a_suspend_goes_before_an_error(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """While a branch is still pending, the view can't know how the call ends."""
    caught: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.parallel(
                lambda: step.options(retry=Retry(1)).run("charge", Failing(down)),
                lambda: step.sleep("nap", 60),
            )
        except StepError as error:
            caught.append(error.step)
        return "compensated"

    response = client.post("/work")
    assert response.status_code == 202
    assert caught == []
    assert drive.finish(response).text == "compensated"
    assert caught == ["charge"]


def test_return_exceptions_gives_errors_in_their_places(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """As in ``asyncio.gather``: results and errors side by side."""
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> list[str]:
        made = step.parallel(
            lambda: step.run("charge", charge),
            lambda: step.run("hotel", lambda: "hotel"),
            return_exceptions=True,
        )
        return [type(made[0]).__name__, str(made[1])]

    assert client.post("/work").json == ["StepError", "hotel"]


def test_return_exceptions_of_a_map(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """A list with the error of the item that failed."""

    def book(n: int) -> int:
        if n == 1:
            raise down()
        return n

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> list[t.Any]:
        made = step.map("book", book, [0, 1, 2], return_exceptions=True)
        return [one.step if isinstance(one, StepError) else one for one in made]

    assert client.post("/work").json == [0, "book[1]", 2]


def test_return_exceptions_does_not_hold_back_a_suspend(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A pending branch is no error: the execution suspends and goes on later."""
    charge = Flaky("paid", down())

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        return [
            *step.parallel(lambda: step.run("charge", charge), return_exceptions=True)
        ]

    response = client.post("/work")
    assert response.status_code == 202
    assert drive.finish(response).json == ["paid"]


def test_an_abort_in_a_branch_is_the_answer(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Within a step of the branch or beside it."""

    @app.post("/work/<where>")
    @durable.endpoint
    def work(where: str) -> ResponseReturnValue:
        def branch() -> t.NoReturn:
            if where == "step":
                step.run("find", lambda: abort(404, "no flight"))
            abort(404, "no flight")

        return jsonify(step.parallel(branch, lambda: 1))

    for where in ("step", "view"):
        response = client.post(f"/work/{where}")
        assert response.status_code == 404
        assert "no flight" in response.text


def test_branches_see_the_request_and_the_app(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Body, url and config, though the view itself never looked at them."""

    def look() -> list[t.Any]:
        return [
            request.get_json()["seat"],
            request.args["q"],
            url_for("work"),
            current_app.name == app.name,
        ]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        made = step.parallel(*[look] * 8)
        step.sleep("nap", 60)
        return [*made, *step.map("look", lambda _: look(), [1])]

    response = drive.finish(client.post("/work?q=1", json={"seat": "14A"}))
    assert response.json == [["14A", "1", "/work", True]] * 9


def test_each_branch_has_its_own_g(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """What a branch puts there is seen neither by others nor by the view."""
    barrier = threading.Barrier(2, timeout=10)

    def branch(name: str) -> str:
        g.name = name
        barrier.wait()
        return str(g.name)

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        g.name = "view"
        made = step.parallel(lambda: branch("a"), lambda: branch("b"))
        return [*made, g.name]

    assert client.post("/work").json == ["a", "b", "view"]


def test_the_app_context_of_a_branch_is_torn_down(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """What extensions close at the end of a context is closed for each branch."""
    closed: list[t.Any] = []

    @app.teardown_appcontext
    def close(_: BaseException | None) -> None:
        closed.append(g.pop("name", None))

    def branch(name: str) -> None:
        g.name = name

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        step.parallel(lambda: branch("a"), lambda: branch("b"), max_workers=2)
        return sorted(filter(None, closed))

    assert client.post("/work").json == ["a", "b"]


def test_the_request_of_a_branch_is_torn_down_once(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """It is the view's: what follows it sees what branches left for it."""
    seen: list[str] = []

    @app.teardown_request
    def close(_: BaseException | None) -> None:
        seen.append("torn down")

    def branch() -> None:
        @after_this_request
        def mark(response: Response) -> Response:
            seen.append("after")
            return response

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.parallel(branch, lambda: step.parallel(branch))
        seen.append("view")
        return "done"

    assert client.post("/work").text == "done"
    assert seen == ["view", "after", "after", "torn down"]


def test_each_branch_has_its_own_session_of_flask_sqlalchemy(
    app: Flask, durable: FlaskDurable, client: FlaskClient, tmp_path: t.Any
) -> None:
    """A session isn't safe for threads, so none is shared."""
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/app.db"
    db = SQLAlchemy(app)
    sessions: list[t.Any] = []

    def use(_: object = None) -> int | None:
        sessions.append(db.session())
        return db.session.execute(db.text("SELECT 1")).scalar()

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        made = step.parallel(
            lambda: step.run("a", use), lambda: step.run("b", use), use
        )
        return [use(), *made, *step.map("each", use, [1, 2])]

    assert client.post("/work").json == [1] * 6
    assert len({id(session) for session in sessions}) == 6


def test_branches_know_their_execution_and_their_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Each thread is bound to the same execution and to its own step."""

    def look(_: object = None) -> list[str]:
        return [current_step.id, current_execution.id]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        made = step.parallel(
            lambda: step.run("a", look), lambda: step.run("b", look), max_workers=2
        )
        return [*made, *step.map("each", look, [1])]

    response = client.post("/work")
    ids = [step_id for step_id, _ in response.get_json()]
    assert ids == ["a", "b", "each[0]"]
    assert {execution for _, execution in response.get_json()} == {
        response.headers["Durable-Execution"]
    }


def test_branches_wake_for_the_earliest_of_them(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Each sleep keeps its own end; the call returns when the last one is over."""
    done: list[str] = []

    def nap(name: str, seconds: float) -> None:
        step.sleep(f"nap {name}", seconds)
        step.run(f"wake {name}", lambda: done.append(name))

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        step.parallel(lambda: nap("long", 600), lambda: nap("short", 200))
        return done

    response = client.post("/work")
    drive.advance(150)
    assert drive.run_due() == 0
    drive.advance(51)
    assert drive.run_due() == 1
    assert done == ["short"]
    drive.advance(350)
    assert drive.run_due() == 0
    drive.advance(51)
    assert drive.finish(response).json == ["short", "long"]


def test_branches_that_fail_together_are_retried_together(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Flight, hotel and car each by itself, then one confirmation."""
    book = {
        "flight": Flaky("f", down()),
        "hotel": Flaky("h", down(), down()),
        "car": Flaky("c"),
    }
    confirm = Flaky("confirmed")

    def branch(name: str) -> cabc.Callable[[], str]:
        return lambda: step.run(f"book-{name}", book[name])

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=10, factor=1))
    def work() -> list[str]:
        made = step.parallel(*[branch(name) for name in book])
        return [*made, step.run("confirm", confirm)]

    final = drive.finish(client.post("/work"))
    assert final.json == ["f", "h", "c", "confirmed"]
    assert [one.calls for one in book.values()] == [2, 3, 1]
    assert confirm.calls == 1


def test_max_workers_of_nothing_is_refused(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Zero workers would never end; that is said, or taken as one, but never hangs."""

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        try:
            return step.map("each", lambda n: n, [1], max_workers=0)
        except ValueError:
            return [1]

    assert client.post("/work").json == [1]


def test_a_suspend_within_a_nested_call_leaves_both(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The inner pending step suspends the whole execution, and all resume."""
    charge, hotel = Flaky("paid", down()), Flaky("hotel")

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        (inner, outer) = step.parallel(
            lambda: step.parallel(lambda: step.run("charge", charge)),
            lambda: step.run("hotel", hotel),
        )
        return [*inner, outer]

    response = client.post("/work")
    assert response.status_code == 202
    assert drive.finish(response).json == ["paid", "hotel"]
    assert (charge.calls, hotel.calls) == (2, 1)


def test_deeply_nested_calls_never_wait_for_each_other(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """More calls at once than any pool has threads still end."""

    def level(name: str, depth: int) -> int:
        if depth == 0:
            return step.run(f"leaf {name}", lambda: 1)
        return sum(
            step.parallel(
                lambda: level(f"{name}0", depth - 1),
                lambda: level(f"{name}1", depth - 1),
                max_workers=1 + depth % 2,
            )
        )

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        return [level("", 4)]

    assert client.post("/work").json == [16]


class Slow(io.BytesIO):
    """A body whose first reader finds another one beside it, if there is any."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._barrier = threading.Barrier(2)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and meet whoever reads at the same time."""
        part = super().read(size)

        with contextlib.suppress(threading.BrokenBarrierError):
            self._barrier.wait(0.2)

        return part


READ_BODY: dict[str, tuple[cabc.Callable[[], t.Any], dict[str, t.Any]]] = {
    "json": (lambda: request.get_json()["item"], {"json": {"item": "flight"}}),
    "form": (lambda: request.form["item"], {"data": {"item": "flight"}}),
    "multipart": (
        lambda: request.form["item"],
        {"data": {"item": "flight"}, "content_type": "multipart/form-data"},
    ),
}


@pytest.mark.parametrize("kind", READ_BODY)
def test_branches_may_read_the_body_at_the_same_moment(
    app: Flask, durable: FlaskDurable, client: FlaskClient, kind: str
) -> None:
    """They share one stream, and each gets all of it."""
    read, body = READ_BODY[kind]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        t.cast(t.Any, request).stream = Slow(request.stream.read())
        nested = step.parallel(
            lambda: step.run("a", read),
            lambda: step.parallel(lambda: step.run("b", read))[0],
        )
        return [*nested, read()]

    answer = client.post("/work", **body)
    assert (answer.status_code, answer.json) == (200, ["flight"] * 3)
