"""Retries: when, how often, with which options, and what is raised at the end."""

from __future__ import annotations

import collections.abc as cabc
import functools
import inspect
import logging
import typing as t

import pytest
import sqlalchemy as sa
from flask import abort
from flask import Flask
from flask import jsonify
from flask import Response
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Conflict
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.exceptions import NotFound
from werkzeug.exceptions import TooManyRequests
from werkzeug.exceptions import Unauthorized

from flask_durable import current_step
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import RetryAfterError
from flask_durable import step
from flask_durable import StepError

from ..driving import Drive
from .conftest import MakeApp
from .helpers import down
from .helpers import Failing
from .helpers import Flaky

pytestmark = pytest.mark.config(DURABLE_INLINE_RETRY=0)


class SeatTakenError(Exception):
    """An error of the user's own."""


def test_a_failed_step_is_tried_again_on_a_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A try that failed suspends the execution; the next one may succeed."""
    charge = Flaky("paid", down(), down())

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    response = client.post("/work")
    assert response.status_code == 202
    assert charge.calls == 1
    assert drive.finish(response).text == "paid"
    assert charge.calls == 3


def test_other_steps_never_run_again_for_it(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What is done stays done, what comes later waits."""
    search, charge, confirm = Flaky(1), Flaky(2, down(), down()), Flaky(3)

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        return [
            step.run("search", search),
            step.run("charge", charge),
            step.run("confirm", confirm),
        ]

    response = client.post("/work")
    assert (search.calls, charge.calls, confirm.calls) == (1, 1, 0)
    assert drive.finish(response).json == [1, 2, 3]
    assert (search.calls, charge.calls, confirm.calls) == (1, 3, 1)


def test_delays_grow_by_the_factor_up_to_the_maximum(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The wait before try n+1 is min(maximum, initial x factor^(n-1))."""
    charge = Failing(down)
    retry = Retry(4, initial=100, factor=4, maximum=1000, jitter=0)

    @app.post("/work")
    @durable.endpoint(retry=retry)
    def work() -> str:
        return step.run("charge", charge)

    response = client.post("/work")
    for tries, delay in ((1, 100), (2, 400), (3, 1000)):
        assert charge.calls == tries
        drive.advance(delay - 50)
        assert drive.run_due() == 0
        drive.advance(51)
        assert drive.run_due() == 1
    assert charge.calls == 4
    assert drive.status(response)["status"] == "failed"


def test_jitter_moves_a_delay_by_its_share_at_most(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """With jitter 0.1, a delay of 1000 s is between 900 and 1100 s."""
    charge = Flaky("paid", down())

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=1000, maximum=1000, jitter=0.1))
    def work() -> str:
        return step.run("charge", charge)

    client.post("/work")
    drive.advance(850)
    assert drive.run_due() == 0
    drive.advance(251)
    assert drive.run_due() == 1
    assert charge.calls == 2


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_there_are_max_attempts_tries_in_all(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, attempts: int
) -> None:
    """The first call counts."""
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint(retry=Retry(attempts))
    def work() -> str:
        return step.run("charge", charge)

    assert drive.finish(client.post("/work")).status_code == 500
    assert charge.calls == attempts


def test_by_default_there_are_five_tries(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``Retry()`` is what holds where nothing was said."""
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    drive.finish(client.post("/work"))
    assert charge.calls == 5


ON: list[t.Any] = [
    ConnectionError,
    OSError,
    (KeyError, ConnectionError),
    lambda error: "down" in str(error),
]


@pytest.mark.parametrize("on", ON, ids=["class", "base class", "tuple", "predicate"])
def test_on_says_which_errors_are_retried(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, on: t.Any
) -> None:
    """A class, a tuple of classes or a predicate that matches gives a new try."""
    charge = Flaky("paid", down())

    @app.post("/work")
    @durable.endpoint(retry=Retry(on=on))
    def work() -> str:
        return step.run("charge", charge)

    assert drive.finish(client.post("/work")).text == "paid"
    assert charge.calls == 2


@pytest.mark.parametrize("on", ON, ids=["class", "base class", "tuple", "predicate"])
def test_an_error_that_on_does_not_name_ends_the_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient, on: t.Any
) -> None:
    """It is a ``StepError`` after one try."""
    charge = Failing(lambda: SeatTakenError("taken"))

    @app.post("/work")
    @durable.endpoint(retry=Retry(on=on))
    def work() -> dict[str, t.Any]:
        with pytest.raises(StepError) as caught:
            step.run("charge", charge)
        return {"tries": caught.value.tries}

    assert client.post("/work").json == {"tries": 1}
    assert charge.calls == 1


class CardRefusedError(NonRetryableError):
    """A user's error that no further try can mend."""


@pytest.mark.parametrize("error", [NonRetryableError, CardRefusedError])
def test_a_non_retryable_error_ends_the_step(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    error: type[NonRetryableError],
) -> None:
    """No more tries, whatever ``Retry`` says."""
    charge = Failing(lambda: error("card refused"))

    @app.post("/work")
    @durable.endpoint(retry=Retry(5, on=Exception))
    def work() -> ResponseReturnValue:
        try:
            step.run("charge", charge)
        except StepError as failed:
            return {"tries": failed.tries, "message": failed.error_message}
        return "never"

    assert client.post("/work").json == {"tries": 1, "message": "card refused"}
    assert charge.calls == 1


def test_a_retry_after_error_sets_the_earliest_time(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The next try is not before then, however short the usual delay."""
    charge = Flaky("paid", RetryAfterError(600))

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=0.01))
    def work() -> str:
        return step.run("charge", charge)

    response = client.post("/work")
    drive.advance(500)
    assert drive.run_due() == 0
    assert charge.calls == 1
    assert drive.finish(response).text == "paid"
    assert charge.calls == 2


def test_a_retry_after_error_may_wait_longer_than_maximum(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The provider knows better than the policy."""
    charge = Flaky("paid", RetryAfterError(5000))

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=1, maximum=10))
    def work() -> str:
        return step.run("charge", charge)

    client.post("/work")
    drive.advance(4000)
    assert drive.run_due() == 0
    drive.advance(1001)
    assert drive.run_due() == 1


def test_a_retry_after_error_counts_as_a_try(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It can't keep an execution going for ever."""
    charge = Failing(lambda: RetryAfterError(10))

    @app.post("/work")
    @durable.endpoint(retry=Retry(3))
    def work() -> str:
        return step.run("charge", charge)

    assert drive.finish(client.post("/work")).status_code == 500
    assert charge.calls == 3


def test_an_abort_within_a_step_is_the_answer(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """``abort(404)`` is not retried, and its description reaches the client."""
    find = Failing(lambda: NotFound("no flight to Atlantis"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("find", find)

    response = client.post("/work")
    assert response.status_code == 404
    assert "no flight to Atlantis" in response.text
    assert find.calls == 1


def test_an_abort_within_a_step_is_the_stored_answer(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """After a suspend, whoever asks for the response gets the same 404."""

    def find() -> t.NoReturn:
        abort(404, "no flight to Atlantis")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return step.run("find", find)

    response = drive.finish(client.post("/work"))
    assert response.status_code == 404
    assert "no flight to Atlantis" in response.text


def test_an_abort_with_a_response_gives_that_response(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Status, headers and body are those that the function made."""

    def find() -> t.NoReturn:
        abort(Response("short and stout", 418, {"X-Pot": "tea"}))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return step.run("find", find)

    response = drive.finish(client.post("/work"))
    assert (response.status_code, response.text) == (418, "short and stout")
    assert response.headers["X-Pot"] == "tea"


def test_the_apps_error_handler_makes_the_answer_of_an_abort(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """An ``HTTPException`` goes the way of Flask, within a step as well."""

    @app.errorhandler(404)
    def not_found(error: HTTPException) -> ResponseReturnValue:
        return jsonify(error=error.description), 404

    def find() -> t.NoReturn:
        abort(404, "no flight")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return step.run("find", find)

    response = drive.finish(client.post("/work"))
    assert (response.status_code, response.json) == (404, {"error": "no flight"})


def test_a_view_may_catch_an_abort_of_a_step_on_each_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The outcome is journaled, so the function isn't called again."""
    find = Failing(lambda: Conflict("seat is taken"))
    caught: list[tuple[int | None, str | None]] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.run("find", find)
        except HTTPException as error:
            caught.append((error.code, error.description))
        step.sleep("nap", 60)
        return "another seat"

    assert drive.finish(client.post("/work")).text == "another seat"
    assert caught == [(409, "seat is taken")] * 2
    assert find.calls == 1


def test_a_step_error_says_what_happened(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Step, tries, type and message of the last error."""
    charge = Failing(lambda: SeatTakenError("14A is taken"))

    @app.post("/work")
    @durable.endpoint(retry=Retry(3))
    def work() -> ResponseReturnValue:
        try:
            step.run("charge", charge)
        except StepError as error:
            return [error.step, error.tries, error.error_type, error.error_message]
        return "never"

    response = drive.finish(client.post("/work"))
    step_id, tries, error_type, message = t.cast("list[t.Any]", response.json)
    assert (step_id, tries, message) == ("charge", 3, "14A is taken")
    assert error_type.endswith("SeatTakenError")


def test_a_step_error_is_the_same_on_each_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It is an outcome like any other, and the function isn't called again."""
    charge = Failing(lambda: SeatTakenError("taken"))
    seen: list[tuple[t.Any, ...]] = []

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> str:
        try:
            step.run("charge", charge)
        except StepError as e:
            seen.append((e.step, e.tries, e.error_type, e.error_message, str(e)))
        step.sleep("nap", 60)
        step.sleep("another", 60)
        return "done"

    drive.finish(client.post("/work"))
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert charge.calls == 1


def test_a_view_compensates_with_further_steps(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The reservation is given back, once, though that takes a retry as well."""
    reserve, charge = Flaky("14A"), Failing(down)
    release = Flaky("free", down())

    @app.post("/work")
    @durable.endpoint(retry=Retry(2))
    def work() -> ResponseReturnValue:
        step.run("reserve", reserve)
        try:
            step.run("charge", charge)
        except StepError:
            return jsonify(seat=step.run("release", release)), 402
        return "paid"

    response = drive.finish(client.post("/work"))
    assert (response.status_code, response.json) == (402, {"seat": "free"})
    assert (reserve.calls, charge.calls, release.calls) == (1, 2, 2)
    assert drive.status(response_of(app, response))["status"] == "completed"


def response_of(app: Flask, response: t.Any) -> str:
    """Give the status url that belongs to a response url."""
    path: str = response.request.path
    return path.removesuffix("/response")


def test_an_uncaught_step_error_ends_the_execution_as_failed(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The answer is 500, and the status document names the step's error."""

    @app.post("/work")
    @durable.endpoint(retry=Retry(1))
    def work() -> str:
        return step.run("charge", Failing(lambda: SeatTakenError("secret")))

    response = client.post("/work")
    document = drive.status(response)
    assert response.status_code == 500
    assert document["status"] == "failed"
    assert document["steps"][0]["status"] == "failed"
    assert document["steps"][0]["error_type"].endswith("SeatTakenError")


@pytest.mark.config(DURABLE_RETRY=Retry(2))
def test_the_configs_retry_holds_where_nothing_else_is_said(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``DURABLE_RETRY`` is for all endpoints."""
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    drive.finish(client.post("/work"))
    assert charge.calls == 2


@pytest.mark.config(DURABLE_RETRY=Retry(2))
def test_the_endpoints_retry_goes_before_the_configs(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """And it belongs to that endpoint alone."""
    charge, other = Failing(down), Failing(down)

    @app.post("/work")
    @durable.endpoint(retry=Retry(3))
    def work() -> str:
        return step.run("charge", charge)

    @app.post("/other")
    @durable.endpoint
    def view() -> str:
        return step.run("charge", other)

    drive.finish(client.post("/work"))
    drive.finish(client.post("/other"))
    assert (charge.calls, other.calls) == (3, 2)


@pytest.mark.config(DURABLE_RETRY=Retry(2))
def test_the_steps_retry_goes_before_the_endpoints(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The nearest word counts."""
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint(retry=Retry(3))
    def work() -> str:
        return step.options(retry=Retry(4)).run("charge", charge)

    drive.finish(client.post("/work"))
    assert charge.calls == 4


@pytest.mark.parametrize("error", [NameError, TypeError, AttributeError, ImportError])
def test_in_debug_a_typo_is_not_retried(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    error: type[Exception],
) -> None:
    """Who develops sees the mistake at once."""
    app.debug = True
    charge = Failing(lambda: error("oops"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    response = client.post("/work")
    assert response.status_code == 500
    assert charge.calls == 1
    assert drive.status(response)["status"] == "failed"


def test_in_debug_other_errors_are_retried(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A provider that is down isn't a typo."""
    app.debug = True
    charge = Flaky("paid", down())

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    assert drive.finish(client.post("/work")).text == "paid"


def test_in_production_a_type_error_is_retried(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A new release may have mended it by the next try."""
    charge = Flaky("paid", TypeError("None"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    assert drive.finish(client.post("/work")).text == "paid"


def pay(amount: int, card: str = "") -> int:
    """Take no other arguments."""
    return amount


@functools.wraps(pay)
def pay_by_card(amount: int) -> int:
    """Give an argument, and fail for another reason."""
    raise TypeError(amount)


@pytest.mark.parametrize(
    ("fn", "options", "message"),
    [
        (pay, {"retry": 2}, "keyword argument 'retry'. Trying again would not help: "),
        (pay, {"retry": 2}, 'write step.options(retry=…).run("charge", …).'),
        (pay, {"crad": "1"}, "'crad'. Trying again would not help: correct the arg"),
    ],
)
def test_a_call_that_can_not_succeed_is_not_tried_again(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    fn: t.Any,
    options: dict[str, t.Any],
    message: str,
) -> None:
    """What the step is given has to be corrected."""

    @app.post("/work")
    @durable.endpoint
    def work() -> dict[str, t.Any]:
        return failure_of(lambda: step.run("charge", fn, 1, **options))

    answer = client.post("/work").json or {}
    assert answer["tries"] == 1
    assert message in answer["message"]


def failure_of(call: cabc.Callable[[], t.Any]) -> dict[str, t.Any]:
    """Say how a step failed."""
    with pytest.raises(StepError) as caught:
        call()

    return {"tries": caught.value.tries, "message": caught.value.error_message}


def write(connection: sa.Connection, amount: int) -> None:
    """Take one argument besides the connection."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": 2}, 'write step.options(retry=…).transaction("book", …).'),
        ({"at_most_once": True}, "help: correct the arguments"),
        ({}, "'amount'. Trying again would not help: correct the arguments"),
    ],
)
def test_a_transaction_that_can_not_succeed_is_not_tried_again(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    options: dict[str, t.Any],
    message: str,
) -> None:
    """Its function gets the connection besides."""

    @app.post("/work")
    @durable.endpoint
    def work() -> dict[str, t.Any]:
        args = [1] if options else []
        fn = t.cast(t.Any, write)
        return failure_of(lambda: step.transaction("book", fn, *args, **options))

    answer = client.post("/work").json or {}
    assert answer["tries"] == 1
    assert message in answer["message"]


def pay_cash(amount: int) -> int:
    """Say that one takes other arguments, and fail for another reason."""
    raise TypeError(amount)


t.cast(t.Any, pay_cash).__signature__ = inspect.signature(lambda: None)


class Remote:
    """Takes no arguments, and asks elsewhere for all that it has."""

    def __call__(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> t.Any:
        """Find nobody there."""
        raise ConnectionError(name)


@pytest.mark.parametrize(
    "fn", [pay_by_card, pay_cash, Remote(), max], ids=["wraps", "lies", "asks", "max"]
)
def test_a_call_that_may_be_right_is_tried_again(
    app: Flask, durable: FlaskDurable, client: FlaskClient, fn: t.Any
) -> None:
    """A function may not tell what it takes, or tell something else."""

    @app.post("/work")
    @durable.endpoint
    def work() -> t.Any:
        return step.run("charge", fn, 1)

    assert client.post("/work").status_code == 202


@pytest.mark.config(DURABLE_INLINE_RETRY=1.0)
def test_a_short_delay_is_slept_through_in_place(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The client gets the view's own answer; the view ran once."""
    charge, attempts = Flaky("paid", down(), down()), Flaky(None)

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=0.01))
    def work() -> str:
        attempts()
        return step.run("charge", charge)

    response = client.post("/work")
    assert (response.status_code, response.text) == (200, "paid")
    assert (attempts.calls, charge.calls) == (1, 3)
    assert drive.status(response)["steps"][0]["tries"] == 3


@pytest.mark.config(DURABLE_INLINE_RETRY=1.0)
def test_a_short_retry_after_is_slept_through_in_place(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """It is a delay like any other."""
    charge = Flaky("paid", RetryAfterError(0.01))

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=0.01))
    def work() -> str:
        return step.run("charge", charge)

    assert client.post("/work").text == "paid"


@pytest.mark.config(DURABLE_INLINE_RETRY=1.0)
def test_a_long_delay_suspends(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """What doesn't fit into the budget holds no thread."""
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=1.5, jitter=0))
    def work() -> str:
        return step.run("charge", charge)

    assert client.post("/work").status_code == 202
    assert charge.calls == 1


@pytest.mark.config(DURABLE_INLINE_RETRY=0.3)
def test_the_inline_budget_is_for_the_whole_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What one step slept is gone for the next; each attempt has a new budget."""
    first, second = Flaky(1, down()), Flaky(2, down())

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=0.2, jitter=0))
    def work() -> list[int]:
        return [step.run("first", first), step.run("second", second)]

    response = client.post("/work")
    assert response.status_code == 202
    assert (first.calls, second.calls) == (2, 1)
    assert drive.finish(response).json == [1, 2]
    assert (first.calls, second.calls) == (2, 2)


@pytest.mark.config(DURABLE_INLINE_RETRY=1.0)
def test_inline_tries_count_towards_max_attempts(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """All tries in one request: the answer comes at once."""
    charge = Failing(down)

    @app.post("/work")
    @durable.endpoint(retry=Retry(3, initial=0.01, factor=1))
    def work() -> str:
        return step.run("charge", charge)

    assert client.post("/work").status_code == 500
    assert charge.calls == 3


def test_the_try_and_the_key_are_known_within_the_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The number grows, the key and the id stay, over suspends."""
    seen: list[tuple[str, int, str]] = []

    def charge() -> str:
        seen.append(
            (current_step.id, current_step.attempt, current_step.idempotency_key)
        )
        if len(seen) < 3:
            raise down()
        return "paid"

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    drive.finish(client.post("/work"))
    assert [one[:2] for one in seen] == [("charge", n) for n in (1, 2, 3)]
    assert len({one[2] for one in seen}) == 1


@pytest.mark.config(DURABLE_INLINE_RETRY=1.0)
def test_the_key_stays_the_same_inline(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Tries within one attempt are tries of the same step."""
    seen: list[tuple[int, str]] = []

    def charge() -> str:
        seen.append((current_step.attempt, current_step.idempotency_key))
        if len(seen) < 3:
            raise down()
        return "paid"

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=0.01))
    def work() -> str:
        return step.run("charge", charge)

    client.post("/work")
    assert [attempt for attempt, _ in seen] == [1, 2, 3]
    assert len({key for _, key in seen}) == 1


def test_each_step_of_each_execution_has_a_key_of_its_own(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The same id again, items of a map and other executions differ."""

    def key(*_: t.Any) -> str:
        return current_step.idempotency_key

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        keys = [step.run("pay", key), step.run("pay", key), step.run("fee", key)]
        return keys + step.map("each", key, [1, 2])

    keys = [*client.post("/work").get_json(), *client.post("/work").get_json()]
    assert len(set(keys)) == 10


def test_each_failed_try_logs_its_traceback(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who reads the log sees why, even when a later try succeeds."""
    charge = Flaky("paid", ConnectionError("down 1"), ConnectionError("down 2"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("charge", charge)

    with caplog.at_level(logging.INFO):
        assert drive.finish(client.post("/work")).text == "paid"
    infos = [one.exc_info for one in caplog.records if one.exc_info]
    assert [str(info[1]) for info in infos] == ["down 1", "down 2"]


def test_status_shows_a_step_that_waits_for_its_next_try(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Its status is ``retrying``, with the number of tries and the error's type."""

    @app.post("/work")
    @durable.endpoint(retry=Retry(initial=100))
    def work() -> str:
        return step.run("charge", Failing(lambda: SeatTakenError("secret")))

    document = drive.status(client.post("/work"))
    (charge,) = document["steps"]
    assert document["status"] == "suspended"
    assert (charge["status"], charge["tries"]) == ("retrying", 1)
    assert charge["error_type"].endswith("SeatTakenError")
    assert document["waiting_for"]["step"] == "charge"
    assert "secret" not in repr(document)


class UnprintableError(Exception):
    """An error that fails once more when it is printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\x00b"),
        ValueError("\ud800"),
        ValueError("x" * 3_000_000),
        UnprintableError(),
        KeyError(),
        ExceptionGroup("two", [ValueError("a"), ValueError("b")]),
    ],
    ids=["nul", "surrogate", "huge", "unprintable", "empty", "group"],
)
def test_an_error_with_an_odd_message_is_recorded_like_any_other(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    error: Exception,
) -> None:
    """No database refuses it, and no text of it keeps the view from going on."""
    charge = Flaky("never", error, error, error)
    types: list[str] = []

    @app.post("/work")
    @durable.endpoint(retry=Retry(2))
    def work() -> str:
        try:
            step.run("charge", charge)
        except StepError as failed:
            types.append(failed.error_type)
        step.sleep("nap", 60)
        return "done"

    assert drive.finish(client.post("/work")).text == "done"
    assert charge.calls == 2
    assert [one.rpartition(".")[2] for one in types] == [type(error).__name__] * 2


def test_an_endpoints_options_stay_with_its_app(
    make_app: MakeApp, sqlite_url: str
) -> None:
    """Two endpoints of two apps keep their own policies."""
    durable = FlaskDurable()
    calls: dict[str, int] = {"one": 0, "two": 0}
    for name, tries in (("one", 1), ("two", 2)):
        app = make_app(
            name,
            DURABLE_INLINE_RETRY=1,
            DURABLE_RETRY=Retry(tries, initial=0.01),
            DURABLE_DATABASE_URL=sqlite_url + name,
        )
        durable.init_app(app)

        def charge(name: str = name) -> str:
            calls[name] += 1
            raise down()

        @durable.endpoint
        def work(charge: cabc.Callable[[], str] = charge) -> str:
            return step.run("charge", charge)

        app.add_url_rule("/work", view_func=work, methods=["POST"])
        assert app.test_client().post("/work").status_code == 500
    assert calls == {"one": 1, "two": 2}


def test_an_uncaught_step_error_is_not_followed_by_another_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The step's tries are used up; a new run of the view couldn't change that."""
    charge, attempts = Failing(down), Flaky(None)

    @app.post("/work")
    @durable.endpoint(retry=Retry(3))
    def work() -> str:
        attempts()
        step.run("reserve", lambda: 1)
        return step.options(retry=Retry(1)).run("charge", charge)

    response = client.post("/work")
    assert response.status_code == 500
    assert drive.status(response)["status"] == "failed"
    assert (attempts.calls, charge.calls) == (1, 1)


class SoldOut(Conflict):
    """A user's own ``HTTPException``."""

    description = "sold out"


def test_an_abort_is_caught_by_the_same_clause_on_each_attempt(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What a view does about it can't depend on which attempt this is."""
    caught: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.run("find", Failing(SoldOut))
        except SoldOut:
            caught.append("SoldOut")
        except Conflict:
            caught.append("Conflict")
        except HTTPException:
            caught.append("HTTPException")
        step.sleep("nap", 60)
        return "done"

    assert drive.finish(client.post("/work")).text == "done"
    assert len(caught) == 2
    assert len(set(caught)) == 1


@pytest.mark.parametrize(
    "error",
    [
        lambda: Unauthorized("who?", www_authenticate=WWWAuthenticate("basic")),
        lambda: TooManyRequests("slowly", retry_after=17),
        lambda: MethodNotAllowed(["PUT"], "not so"),
        lambda: HTTPException("tea", Response("pot", 418, {"X-Pot": "tea"})),
        SoldOut,
    ],
    ids=["401", "429", "405", "response", "own class"],
)
def test_an_abort_that_is_raised_again_later_is_the_same_answer(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    error: cabc.Callable[[], HTTPException],
) -> None:
    """Status, description and headers come out of the journal."""
    find = Failing(error)

    @app.get("/plain")
    def plain() -> str:
        raise error()

    @app.get("/work")
    @durable.endpoint
    def work() -> str:
        try:
            return step.run("find", find)
        except HTTPException:
            step.sleep("nap", 60)
            raise

    final, expected = drive.finish(client.get("/work")), client.get("/plain")
    assert (final.status_code, final.text) == (expected.status_code, expected.text)
    for name in ("WWW-Authenticate", "Retry-After", "Allow", "X-Pot"):
        assert final.headers.get(name) == expected.headers.get(name)
    assert find.calls == 1
