"""``step.run``: values, ids, nesting, arguments, async."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import datetime as dt
import decimal
import functools
import re
import threading
import typing as t
import uuid

import pytest
from flask import Flask
from flask import request
from flask import Response
from flask import stream_with_context
from flask.testing import FlaskClient

from flask_durable import current_execution
from flask_durable import current_step
from flask_durable import DurableError
from flask_durable import FlaskDurable
from flask_durable import NestedStepError
from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError

from ..driving import Drive
from .helpers import down
from .helpers import Failing
from .helpers import Flaky

OUTSIDE = re.escape("put `@durable.endpoint` under the route")
CET = dt.timezone(dt.timedelta(hours=1, minutes=30), "CET")

VALUES: dict[str, t.Any] = {
    "none": None,
    "true": True,
    "int": 7,
    "big-int": 2**80,
    "float": 0.1,
    "text": "Grüße, ✓ 💺",
    "text-nul": "a\x00b",
    "text-lone-surrogate": "\ud800",
    "list": [1, [2, []], {}],
    "tuple": (1, 2),
    "empty-tuple": (),
    "nested-tuple": [(1, (2, [3])), {"a": (4,)}],
    "set": {1, 2, 3},
    "set-of-tuples": {(1, "a"), (2, "b")},
    "bytes": b"\x00\xff\x80seat",
    "empty-bytes": b"",
    "datetime-naive": dt.datetime(2026, 3, 1, 12, 30, 15, 123456),
    "datetime-utc": dt.datetime(2026, 3, 1, 12, 30, tzinfo=dt.UTC),
    "datetime-offset": dt.datetime(2026, 3, 1, 12, 30, tzinfo=CET),
    "date": dt.date(2026, 3, 1),
    "time": dt.time(23, 59, 59, 1),
    "timedelta": dt.timedelta(days=3, microseconds=7),
    "timedelta-negative": dt.timedelta(seconds=-1),
    "uuid": uuid.UUID("0198c0de-0000-7000-8000-000000000001"),
    "decimal": decimal.Decimal("12.340"),
    "dict-mixed": {"price": decimal.Decimal("9.90"), "when": dt.date(2026, 3, 1)},
    "dict-like-a-tag": {" t": [1, 2]},
    "dict-like-flask-tag": {" b": "c2VhdA=="},
    "dict-like-dollar-tag": {"$tuple": [1, 2]},
    "dict-like-type-tag": {"__type__": "set", "value": [1]},
    "dict-like-tag-nested": {" di": {" di__": "x"}},
    "dict-odd-keys": {"": 1, " ": 2, "\x00": 3, "a.b": 4},
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_the_same_at_once_and_on_a_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, name: str
) -> None:
    """Each type of the contract keeps value and type, at once and later."""
    value = VALUES[name]
    seen: list[t.Any] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seen.append(step.run("make", lambda: value))
        step.sleep("nap", 60)
        return "done"

    assert drive.finish(client.post("/work")).text == "done"
    assert seen == [value, value]
    assert [type(one) for one in seen] == [type(value), type(value)]


@pytest.mark.parametrize("value", [VALUES["datetime-utc"], VALUES["datetime-offset"]])
def test_an_aware_datetime_keeps_its_offset(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    value: dt.datetime,
) -> None:
    """The moment alone isn't enough: what it prints must stay the same."""
    seen: list[dt.datetime] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seen.append(step.run("make", lambda: value))
        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work"))
    assert [one.isoformat() for one in seen] == [value.isoformat()] * 2


@pytest.mark.parametrize(
    "value", [{1: "a", 2: "b"}, {None: 1}, {(1, 2): 3}, {True: 1, "true": 2}]
)
def test_a_dict_with_other_keys_than_text_is_never_changed_in_silence(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    value: dict[t.Any, t.Any],
) -> None:
    """It comes back equal, or the step says that it can't be stored."""
    seen: list[t.Any] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            seen.append(step.run("make", lambda: value))
        except DurableError as error:
            assert "can't be stored" in str(error)
            seen.append(value)
        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work"))
    assert seen == [value, value]


def test_a_frozenset_is_never_changed_in_silence(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """It comes back as a set of the same values, or the step says that it can't."""
    seen: list[t.Any] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            seen.append(step.run("make", lambda: frozenset({1, 2})))
        except DurableError as error:
            assert "can't be stored" in str(error)
            seen.append({1, 2})
        return "done"

    client.post("/work")
    assert seen == [{1, 2}]


def test_the_first_attempt_gets_the_decoded_copy(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The caller never shares an object with the step, so attempts can't differ."""
    mine: dict[str, list[int]] = {"seats": []}

    @app.post("/work")
    @durable.endpoint
    def work() -> dict[str, t.Any]:
        copy = step.run("make", lambda: mine)
        copy["seats"].append(1)
        return {"same": copy is mine}

    assert client.post("/work").json == {"same": False}
    assert mine == {"seats": []}


def test_what_a_view_changes_in_a_value_is_gone_on_a_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The journal keeps the value as the function returned it."""

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        seats = step.run("make", lambda: [1])
        seats.append(2)
        step.sleep("nap", 60)
        return seats

    assert drive.finish(client.post("/work")).json == [1, 2]


class Invoice:
    """A class that no codec knows."""

    id = 7


def test_a_value_that_cant_be_stored_says_what_to_do(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The sentence names the step and the class, and says that the function ran."""
    create = Flaky(Invoice())
    said: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.run("create", create)
        except DurableError as error:
            said.append(str(error))
        return "done"

    client.post("/work")
    assert 'Step "create" returned an Invoice.' in said[0]
    assert "It ran, but its result can't be stored: return invoice.id" in said[0]
    assert create.calls == 1


def test_a_value_that_cant_be_stored_fails_the_step_for_good(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The function isn't called again, neither as a retry nor on a replay."""
    create = Flaky(Invoice())
    errors: list[DurableError] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.run("create", create)
        except DurableError as error:
            errors.append(error)
        step.sleep("nap", 60)
        return "done"

    assert drive.finish(client.post("/work")).text == "done"
    assert create.calls == 1
    assert [str(error) for error in errors] == [str(errors[0])] * 2
    assert type(errors[0]) is type(errors[1])


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,)])
def test_a_value_that_cant_be_stored_is_found_deep_inside(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    wrap: cabc.Callable[[t.Any], t.Any],
) -> None:
    """An unknown object within a list, dict or tuple fails the step as well."""
    create = Flaky(wrap(object()))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("create", create)
        return "done"

    response = client.post("/work")
    assert response.status_code == 500
    assert drive.status(response)["status"] == "failed"
    assert create.calls == 1


def test_a_value_that_holds_itself_fails_the_step_for_good(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """A circle ends as an error, not as an endless recursion or a retry."""
    circle: list[t.Any] = []
    circle.append(circle)
    create = Flaky(circle)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("create", create)
        return "done"

    assert client.post("/work").status_code == 500
    assert create.calls == 1


@pytest.mark.config(DURABLE_MAX_OUTPUT_BYTES=1000)
def test_a_value_over_the_limit_fails_the_step_for_good(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It isn't cut and isn't dropped: the step fails, and its function ran once."""
    create = Flaky("x" * 2000)
    said: list[str] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        try:
            step.run("create", create)
        except DurableError as error:
            said.append(str(error))
        step.sleep("nap", 60)
        return "done"

    assert drive.finish(client.post("/work")).text == "done"
    assert '"create"' in said[0]
    assert said[0] == said[1]
    assert create.calls == 1


@pytest.mark.config(DURABLE_MAX_OUTPUT_BYTES=1000)
def test_a_value_under_the_limit_is_stored(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The limit is in bytes of the encoded value."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("create", lambda: "x" * 900)

    assert client.post("/work").text == "x" * 900


def test_a_step_runs_once_however_often_its_view_runs(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """On later attempts the committed value comes back without a call."""
    reserve = Flaky("14A")
    attempts: list[int] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        attempts.append(current_execution.attempt)
        seat = step.run("reserve", reserve)
        step.sleep("nap", 60)
        step.sleep("nap again", 60)
        return seat

    assert drive.finish(client.post("/work")).text == "14A"
    assert attempts == [1, 2, 3]
    assert reserve.calls == 1


def test_a_step_that_returns_nothing_runs_once_as_well(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``None`` is a value, not the lack of one."""
    notify = Flaky(None)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("notify", notify)
        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work"))
    assert notify.calls == 1


def test_the_same_id_again_is_numbered(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The second and third call of an id are steps of their own."""

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        made = [step.run("seat", "seat {}".format, n) for n in range(3)]
        step.sleep("nap", 60)
        return made

    response = client.post("/work")
    ids = [one["id"] for one in drive.status(response)["steps"]]
    assert sorted(ids) == ["nap", "seat", "seat#2", "seat#3"]
    assert drive.finish(response).json == ["seat 0", "seat 1", "seat 2"]


def test_an_id_that_looks_like_a_numbered_one_is_a_step_of_its_own(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A step named ``a#2`` never gets the outcome of the second ``a``."""
    calls: list[str] = []

    def call(name: str) -> str:
        calls.append(name)
        return name

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        made = [step.run("a", call, "1"), step.run("a#2", call, "x")]
        made.append(step.run("a", call, "2"))
        step.sleep("nap", 60)
        return made

    response = drive.finish(client.post("/work"))
    if response.status_code == 200:
        assert response.json == ["1", "x", "2"]
        assert calls == ["1", "x", "2"]
    else:
        assert response.status_code == 500


@pytest.mark.parametrize("letter", ["x", "ü", "💺"])
def test_an_id_may_have_200_characters(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive, letter: str
) -> None:
    """Characters, not bytes; and there is room for the number of a second call."""
    call = Flaky("ok")

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        made = [step.run(letter * 200, call), step.run(letter * 200, call)]
        made += step.map(letter * 200, lambda n: str(n), [1])
        step.sleep("nap", 60)
        return made

    assert drive.finish(client.post("/work")).json == ["ok", "ok", "1"]
    assert call.calls == 2


def test_an_id_of_201_characters_is_refused(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The function doesn't run, and the error names the limit."""
    call = Flaky("ok")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        with pytest.raises((ValueError, DurableError), match="200"):
            step.run("x" * 201, call)
        return "refused"

    assert client.post("/work").text == "refused"
    assert call.calls == 0


def test_ids_are_compared_as_they_are_written(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Case, blanks and accents tell ids apart in every database."""
    ids = ["pay", "Pay", "pay ", " pay", "páy", "pa\u0301y", "p%y", "p_y"]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        made = [step.run(id, str, n) for n, id in enumerate(ids)]
        step.sleep("nap", 60)
        return made

    response = drive.finish(client.post("/work"))
    assert response.json == [str(n) for n in range(len(ids))]


def test_the_same_id_in_two_parallel_branches_is_an_error(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Their order wouldn't be stable, so they can't be numbered."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        with pytest.raises((ValueError, DurableError), match="same-seat"):
            step.parallel(
                lambda: step.run("same-seat", lambda: 1),
                lambda: step.run("same-seat", lambda: 2),
            )
        return "refused"

    assert client.post("/work").text == "refused"


def test_lambdas_of_a_loop_hear_why_their_ids_are_one(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Each id looks like one of its own where it is written."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        with pytest.raises(DurableError, match=r'"s2".*lambda i=i: .*step\.map'):
            step.parallel(*[lambda: step.run(f"s{i}", str) for i in range(3)])  # noqa: B023
        return "refused"

    assert client.post("/work").text == "refused"


def test_the_same_id_twice_in_one_branch_is_numbered(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Within a branch the order of calls is stable."""

    def branch() -> list[int]:
        return [step.run("seat", lambda: 1), step.run("seat", lambda: 2)]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[int]:
        (made, other) = step.parallel(branch, lambda: step.run("car", lambda: 3))
        step.sleep("nap", 60)
        return [*made, other]

    assert drive.finish(client.post("/work")).json == [1, 2, 3]


@pytest.mark.parametrize(
    "inner",
    [
        lambda: step.run("inner", lambda: 1),
        lambda: step.sleep("inner", 1),
        lambda: step.map("inner", str, [1]),
        lambda: step.parallel(lambda: step.run("inner", lambda: 1)),
        lambda: step.options(retry=Retry(2)).run("inner", lambda: 1),
    ],
    ids=["run", "sleep", "map", "parallel", "options"],
)
def test_a_step_within_a_step_raises_at_once(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    inner: cabc.Callable[[], t.Any],
) -> None:
    """The function itself gets the error, at the line that is wrong."""

    def outer() -> str:
        with pytest.raises(NestedStepError):
            inner()
        return "refused"

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("outer", outer)

    assert client.post("/work").text == "refused"


def test_a_nested_step_ends_the_execution_without_retries(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """A mistake of the programmer is not tried again."""
    calls: list[str] = []

    def outer() -> str:
        calls.append("outer")
        return step.run("inner", lambda: "x")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("outer", outer)

    response = client.post("/work")
    assert response.status_code == 500
    assert drive.status(response)["status"] == "failed"
    assert calls == ["outer"]


def test_a_step_after_a_nested_one_works(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The refused call leaves no trace in the attempt."""

    def outer() -> None:
        with pytest.raises(NestedStepError):
            step.run("inner", lambda: 1)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("outer", outer)
        return step.run("next", lambda: "went on")

    assert client.post("/work").text == "went on"


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("run", ("seat", int)),
        ("sleep", ("seat", 1)),
        ("map", ("seat", int, [1])),
        ("parallel", (int,)),
    ],
)
def test_a_step_outside_of_any_app_says_what_to_do(
    verb: str, given: tuple[t.Any, ...]
) -> None:
    """The sentence is an instruction."""
    with pytest.raises(RuntimeError, match=OUTSIDE):
        getattr(step, verb)(*given)


def test_a_step_in_a_plain_view_says_what_to_do(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """A view without ``@durable.endpoint`` has no execution."""

    @app.post("/work")
    def work() -> str:
        with pytest.raises(RuntimeError, match=OUTSIDE):
            step.run("seat", lambda: 1)
        return "refused"

    assert client.post("/work").text == "refused"


def test_a_plain_view_after_a_durable_one_has_no_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Nothing of an attempt stays behind in its thread."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("seat", lambda: "14A")

    client.post("/work")
    with pytest.raises(RuntimeError, match=OUTSIDE):
        step.run("seat", lambda: 1)


@pytest.mark.parametrize("with_context", [False, True])
def test_steps_in_the_generator_of_a_streamed_response_raise(
    app: Flask, durable: FlaskDurable, client: FlaskClient, with_context: bool
) -> None:
    """The view has ended by then; the generator gets the error, no function runs."""
    call = Flaky("never")
    errors: list[Exception] = []

    def rows() -> cabc.Iterator[str]:
        yield "a"
        try:
            step.run("late", call)
        except Exception as error:
            errors.append(error)
        yield "b"

    @app.get("/rows")
    @durable.endpoint
    def stream() -> Response:
        step.run("early", lambda: 1)
        return Response(stream_with_context(rows()) if with_context else rows())

    assert client.get("/rows").text == "ab"
    assert len(errors) == 1
    assert call.calls == 0


def test_arguments_are_passed_on(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Positional and keyword arguments reach the function as they were given."""

    def book(*args: t.Any, **kwargs: t.Any) -> list[t.Any]:
        return [list(args), kwargs]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        return step.run("book", book, 1, "b", seat="14A")

    assert client.post("/work").json == [[1, "b"], {"seat": "14A"}]


def test_the_functions_own_keywords_may_be_named_like_the_verbs(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """``id``, ``fn``, ``self``, ``retry`` belong to the function."""

    def book(**kwargs: t.Any) -> dict[str, t.Any]:
        return kwargs

    names = {"id": 1, "fn": 2, "self": 3, "retry": 4, "args": 5, "at_most_once": 6}

    @app.post("/work")
    @durable.endpoint
    def work() -> dict[str, t.Any]:
        step.options(retry=Retry(2)).run("first", book, **names)
        return step.run("book", book, **names)

    assert client.post("/work").json == names


def test_arguments_need_not_be_storable(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Only what a function returns is stored."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("name", lambda thing: type(thing).__name__, Invoice())

    assert client.post("/work").text == "Invoice"


@pytest.mark.config(DURABLE_INLINE_RETRY=0)
def test_options_hold_for_their_own_call_alone(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """A call after ``step.options(…)`` has the usual options again."""
    first, second = Failing(down), Failing(down)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        with pytest.raises(StepError):
            step.options(retry=Retry(1)).run("first", first)
        step.run("second", second)
        return "never"

    assert client.post("/work").status_code == 202
    assert (first.calls, second.calls) == (1, 1)


def test_options_have_the_other_verbs(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """``step.options(…)`` gives the same verbs."""
    lazy = Flaky("b", down())

    @app.post("/work")
    @durable.endpoint
    def work() -> list[str]:
        quick = step.options(retry=Retry(2, initial=0.01))
        return [*quick.map("each", lambda item: lazy(item) + item, ["1"])]

    assert client.post("/work").json == ["b1"]
    assert lazy.calls == 2


def test_options_refuse_a_keyword_that_is_none(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """A typo in an option is a ``TypeError``, not ignored."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        options: t.Any = step.options
        with pytest.raises(TypeError):
            options(retries=3)
        return "refused"

    assert client.post("/work").text == "refused"


async def fetch(value: str) -> str:
    """Answer like a provider that is called with ``await``."""
    await asyncio.sleep(0)
    return f"{value} in {request.path}"


def test_an_async_function_may_be_a_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The verb is a plain call, and gives the value, not an awaitable."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("fetch", fetch, "seat")

    assert client.post("/work").text == "seat in /work"


def test_an_async_view_may_be_durable(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Async and plain functions are steps of an ``async def`` view alike."""
    call = Flaky("14A")

    @app.post("/work")
    @durable.endpoint
    async def work() -> list[str]:
        await asyncio.sleep(0)
        made = [step.run("fetch", fetch, "seat"), step.run("call", call)]
        step.sleep("nap", 60)
        await asyncio.sleep(0)
        return [*made, step.run("late", fetch, "car")]

    response = client.post("/work")
    assert response.status_code == 202
    final = drive.finish(response)
    assert final.json == ["seat in /work", "14A", "car in /work"]
    assert call.calls == 1


def test_an_async_step_is_retried_and_knows_its_try(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """An error after an ``await`` counts like any other."""
    tries: list[int] = []

    async def fetch() -> str:
        await asyncio.sleep(0)
        tries.append(current_step.attempt)
        if len(tries) < 3:
            raise ConnectionError("down")
        return "up"

    @app.post("/work")
    @durable.endpoint(retry=Retry(3, initial=0.01))
    async def work() -> str:
        return step.run("fetch", fetch)

    assert client.post("/work").text == "up"
    assert tries == [1, 2, 3]


def test_async_steps_may_be_parallel(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Each branch has a loop of its own."""

    @app.post("/work")
    @durable.endpoint
    async def work() -> list[str]:
        (a, b) = step.parallel(
            lambda: step.run("a", fetch, "a"), lambda: step.run("b", fetch, "b")
        )
        return [a, b, *step.map("each", fetch, ["c", "d"])]

    expected = [f"{name} in /work" for name in "abcd"]
    assert client.post("/work").json == expected


def test_the_status_document_never_shows_a_value(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Steps are listed with their times and tries, without outputs."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("reserve", lambda: "my secret seat")
        step.sleep("nap", 60)
        return "done"

    document = drive.status(client.post("/work"))
    (reserve,) = (one for one in document["steps"] if one["id"] == "reserve")
    assert reserve["status"] == "completed"
    assert reserve["tries"] == 1
    assert "my secret seat" not in repr(document)


def test_two_executions_of_one_endpoint_share_nothing(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Ids of steps belong to an execution."""
    call = Flaky("x")

    @app.post("/work/<name>")
    @durable.endpoint
    def work(name: str) -> str:
        value = step.run("call", lambda: call() + name)
        step.sleep("nap", 60)
        return value

    first, second = client.post("/work/1"), client.post("/work/2")
    assert drive.finish(first).text == "x1"
    assert drive.finish(second).text == "x2"
    assert call.calls == 2


@pytest.mark.parametrize(
    "call",
    [functools.partial(fetch, "seat"), lambda: fetch("seat")],
    ids=["partial", "lambda"],
)
def test_whatever_gives_a_coroutine_is_awaited(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    call: cabc.Callable[[], cabc.Coroutine[t.Any, t.Any, str]],
) -> None:
    """The verbs return values, never awaitables."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return step.run("fetch", call)

    assert client.post("/work").text == "seat in /work"


def test_a_thread_of_the_views_own_has_no_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Only ``step.parallel`` and ``step.map`` bring theirs along."""
    errors: list[str] = []

    def late() -> None:
        try:
            step.run("late", lambda: 1)
        except RuntimeError as error:
            errors.append(str(error))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
        return "done"

    assert client.post("/work").text == "done"
    assert "put `@durable.endpoint` under the route" in errors[0]


@pytest.mark.config(DURABLE_MAX_JOURNAL_BYTES=10_000)
def test_a_journal_over_its_limit_fails_the_execution(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """It ends, with no function run twice."""
    call = Flaky("x" * 3000)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        for n in range(10):
            step.run(f"step {n}", call)
        return "never"

    response = client.post("/work")
    assert drive.finish(response).status_code == 500
    assert drive.status(response)["status"] == "failed"
    assert call.calls <= 4
