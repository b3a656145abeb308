"""Arguments of the verbs that can't be meant, and what is said of them."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import decimal
import os
import typing as t

import pytest
from flask import Flask
from werkzeug.datastructures import Headers

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import RetryAfterError
from flask_durable import step
from flask_durable.checks import caller
from flask_durable.checks import PACKAGE

from .driving import Drive

Call = cabc.Callable[[], t.Any]

steps: t.Any = step
"""Without types, which would refuse the same."""

LATE = dt.datetime.max.replace(tzinfo=dt.UTC)
PAIRS = [["X-A", "1"]]

NO_ARGUMENTS: dict[str, tuple[Call, type[Exception], str]] = {
    "parallel, a list": (
        lambda: steps.parallel([str, str]),
        TypeError,
        r"functions without arguments, not list: .*step.parallel\(\*functions\)",
    ),
    "parallel, a result": (
        lambda: steps.parallel(str, None),
        TypeError,
        "functions without arguments, not NoneType",
    ),
    "map": (
        lambda: steps.map("m", [1], int),
        TypeError,
        'Step "m" needs a function, not list: write step.map',
    ),
    "workers, none": (
        lambda: steps.parallel(str, max_workers=None),
        TypeError,
        "max_workers is a whole number, not None",
    ),
    "workers, a text": (
        lambda: steps.map("m", int, [1], max_workers="3"),
        TypeError,
        "max_workers is a whole number, not '3'",
    ),
    "sleep, none": (
        lambda: steps.sleep("z", None),
        TypeError,
        'Step "z" can\'t sleep: A duration is seconds or a timedelta, not None',
    ),
    "sleep, a text": (
        lambda: steps.sleep("z", "5"),
        TypeError,
        "seconds or a timedelta, not '5'",
    ),
    "sleep, for ever": (
        lambda: steps.sleep("z", float("inf")),
        ValueError,
        'Step "z" can\'t sleep: .*at most a hundred years',
    ),
    "sleep until, a late date": (
        lambda: steps.sleep_until("z", LATE),
        ValueError,
        'Step "z" can\'t sleep until 9999-12-31 .*: that is over a hundred years away',
    ),
    "sleep until, a text": (
        lambda: steps.sleep_until("z", "9999"),
        TypeError,
        "\"z\" sleeps until a datetime, not '9999'",
    ),
    "time-out": (
        lambda: steps.wait_for_event("w", "paid", timeout="x"),
        TypeError,
        "Step \"w\" can't wait.*seconds or a timedelta, not 'x'",
    ),
    "poll, at once": (
        lambda: steps.poll("p", int, every=0),
        ValueError,
        'Step "p" can\'t poll every 0: let some time pass',
    ),
    "poll, none": (
        lambda: steps.poll("p", int, every=None),
        TypeError,
        'Step "p" can\'t poll: A duration is seconds or a timedelta, not None',
    ),
    "id, NUL": (
        lambda: steps.run("a\0b", str),
        ValueError,
        "can't be called 'a.x00b': a name with NUL or half of a surrogate pair can't",
    ),
    "id, a surrogate": (
        lambda: steps.run("a\ud800", str),
        ValueError,
        "a name with NUL or half of a surrogate pair can't be stored",
    ),
    "id, nothing": (lambda: steps.run("", str), ValueError, "with no characters"),
    "query": (
        lambda: steps.invoke("i", "work", query="a=1"),
        TypeError,
        "query is a mapping, as {name: value}, not 'a=1'",
    ),
    "headers": (
        lambda: steps.invoke("i", "work", headers=PAIRS),
        TypeError,
        "headers is a mapping, as {name: value}, not ..'X-A', '1'..",
    ),
    "values": (
        lambda: steps.invoke("i", "work", values=5),
        TypeError,
        "values is a mapping",
    ),
    "retry after": (
        lambda: RetryAfterError(t.cast(t.Any, None)),
        TypeError,
        "seconds or a timedelta, not None",
    ),
}


@pytest.mark.parametrize("name", NO_ARGUMENTS)
def test_what_can_not_be_meant_is_refused(
    app: Flask, durable: FlaskDurable, name: str
) -> None:
    """At the call, and no step is recorded."""
    call, error, message = NO_ARGUMENTS[name]

    @app.post("/work")
    @durable.endpoint
    def work() -> t.Any:
        with pytest.raises(error, match=message):
            call()

        return [line.id for line in durable.get(current_execution.id).steps]

    assert app.test_client().post("/work").json == []


def test_numbers_of_all_kinds_are_seconds(
    app: Flask, durable: FlaskDurable, drive: Drive
) -> None:
    """As a price list may have them."""

    @app.post("/work")
    @durable.endpoint
    def work() -> t.Any:
        steps.sleep("nap", decimal.Decimal("0.001"))
        return step.run("after", lambda: "slept")

    answer = app.test_client().post("/work")
    drive.advance(1)
    assert drive.finish(answer).text == "slept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "a=1"}, "query is a mapping, as {name: value}, not 'a=1'"),
        ({"headers": PAIRS}, "headers is a mapping"),
        ({"values": [1]}, "values is a mapping"),
    ],
)
def test_a_start_takes_mappings(
    app: Flask, durable: FlaskDurable, options: t.Any, message: str
) -> None:
    """As step.invoke does; the headers of werkzeug are one."""
    app.add_url_rule("/work", "work", durable.endpoint(lambda: "done"))

    with app.app_context():
        durable.start("work", headers=t.cast(t.Any, Headers({"X-A": "1"})))

        with pytest.raises(TypeError, match=message):
            durable.start("work", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": "complete"}, "status is one of pending, .*, not 'complete'"),
        ({"limit": -1}, "limit is a whole number of at least 1, not -1"),
        ({"limit": "5"}, "limit is a whole number of at least 1, not '5'"),
        ({"before": "zz"}, "before is the id of an execution, not 'zz'"),
        ({"before": 5}, "before is the id of an execution, not 5"),
    ],
)
def test_a_page_that_can_not_be_is_refused(
    app: Flask, durable: FlaskDurable, options: t.Any, message: str
) -> None:
    """Instead of an empty one."""
    with app.app_context(), pytest.raises(ValueError, match=message):
        durable.executions(**options)


def test_a_caller_is_not_taken_for_this_package_by_its_name() -> None:
    """Its folder may be called ``flask_durable_shop``."""
    path = PACKAGE.rstrip(os.sep) + "_shop.py"
    names: dict[str, t.Any] = {"caller": caller}
    exec(compile("found = caller()", path, "exec"), names)
    assert names["found"] == f"{path}:1"
