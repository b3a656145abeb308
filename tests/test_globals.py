"""What a view reaches without passing it around."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import threading
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import current_execution
from flask_durable import current_step
from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.steps import Steps

from .driving import Drive
from .driving import status_link


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.mark.parametrize(
    "use",
    [
        lambda: current_execution.id,
        lambda: step.run("a", print),
        lambda: step.transaction("a", print),
        lambda: step.parallel(print),
        lambda: step.map("a", print, []),
        lambda: step.sleep("a", 1),
        lambda: step.sleep_until("a", dt.datetime.now(dt.UTC)),
        lambda: step.wait_for_event("a", "paid"),
        lambda: step.callback("a"),
        lambda: step.poll("a", print),
        lambda: step.invoke("a", "other"),
        lambda: step.progress("a"),
        lambda: step.options(at_most_once=True).run("a", print),
    ],
)
def test_outside_of_an_execution_the_error_says_what_to_do(use: t.Any) -> None:
    """It is the same for all."""
    with pytest.raises(RuntimeError, match="put `@durable.endpoint` under the route"):
        use()


def test_options_can_be_kept_outside_of_an_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """As a constant of a module, say."""
    once = step.options(at_most_once=True)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return once.run("a", lambda: "done")

    assert client.post("/work").text == "done"


def test_outside_of_a_step_the_error_says_what_to_do() -> None:
    """Also where there is no execution at all."""
    with pytest.raises(RuntimeError, match="in the function that you gave to step.run"):
        assert current_step.id


def test_outside_of_a_request_there_is_no_replay() -> None:
    """A shell or a command may run the same code."""
    assert durable_replay() is None


def test_outside_of_an_execution_names_can_be_asked_for() -> None:
    """Documentation tools and debuggers look at module globals."""
    assert "Steps" in repr(step)
    assert not current_execution
    assert not current_step


def test_in_an_execution_all_is_known(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The execution in the view, the step in its function."""
    seen: dict[str, t.Any] = {}

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seen["id"] = current_execution.id
        seen["attempt"] = current_execution.attempt
        seen["url"] = current_execution.status_url
        seen["steps"] = isinstance(step, Steps)
        return str(step.run("a", lambda: [current_step.id, current_step.attempt]))

    answer = client.post("/work")
    assert answer.text == "['a', 1]"
    assert seen["id"] == answer.headers["Durable-Execution"]
    assert (seen["attempt"], seen["steps"]) == (1, True)
    assert seen["url"] == status_link(answer)


def test_after_a_step_there_is_none(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Also after one that failed."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("a", str)

        try:
            step.run("b", app.aborter, 404)
        except Exception:
            pass

        return str(bool(current_step))

    assert client.post("/work").text == "False"


def test_each_thread_has_its_own_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Two requests at the same moment don't see each other."""
    both = threading.Barrier(2)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        both.wait(10)
        name = str(step.run("name", lambda: current_execution.id))
        both.wait(10)
        return f"{name} {current_execution.id}"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(app.test_client().post, "/work") for _ in range(2)]
        answers = [each.result(20) for each in sent]

    ids = [answer.headers["Durable-Execution"] for answer in answers]
    assert [answer.text for answer in answers] == [f"{each} {each}" for each in ids]
    assert ids[0] != ids[1]


def test_in_a_replay_the_execution_is_known_to_hooks(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """In the client's own request there is none."""
    seen: list[str | None] = []

    @app.before_request
    def look() -> None:
        replay = durable_replay()
        seen.append(None if replay is None else replay.execution_id)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    answer = client.post("/work")
    drive.advance(61)
    drive.run_due()
    assert seen == [None, answer.headers["Durable-Execution"]]
