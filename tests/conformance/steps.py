"""Steps, their failures, and what depends on them."""

from __future__ import annotations

import datetime as dt
import decimal
import typing as t

from flask import abort

from flask_durable import step
from flask_durable import StepError

from .scenarios import Family
from .scenarios import wait
from .scenarios import World

steps = Family()
failures = Family()
conditions = Family()
sleeps = Family()


@steps.add(result=["a"], attempts=1, calls={"a": 1})
def one_step(w: World) -> t.Any:
    return [w.do("a")]


@steps.add(result=["a", "b", "c"], attempts=1, calls={"a": 1, "b": 1, "c": 1})
def three_steps(w: World) -> t.Any:
    return [w.do(name) for name in "abc"]


@steps.add(result={}, attempts=1, calls={})
def no_step(w: World) -> t.Any:
    return {}


@steps.add(wait(), result=["a", "b"], attempts=2, calls={"a": 1, "b": 1})
def done_steps_are_not_run_again(w: World) -> t.Any:
    first = w.do("a")
    step.sleep("nap", 60)
    return [first, w.do("b")]


@steps.add(result=["a", "a"], attempts=1, calls={"a": 2})
def the_same_id_twice_is_two_steps(w: World) -> t.Any:
    return [w.do("a"), w.do("a")]


@steps.add(wait(), result=["a", "a", "a"], attempts=2, calls={"a": 3})
def repeated_ids_keep_their_order_in_a_replay(w: World) -> t.Any:
    found = [w.do("a"), w.do("a")]
    step.sleep("nap", 60)
    return [*found, w.do("a")]


@steps.add(result=[None], attempts=1)
def none_is_a_result(w: World) -> t.Any:
    return [step.run("a", lambda: None)]


@steps.add(wait(), result=[None, 1], attempts=2, calls={"a": 1})
def none_is_not_run_again(w: World) -> t.Any:
    def count() -> None:
        w.call("a")

    found = step.run("a", count)
    step.sleep("nap", 60)
    return [found, 1]


@steps.add(wait(), result=["2030-01-01", "1.50", 3], attempts=2)
def types_come_back_in_a_replay(w: World) -> t.Any:
    value = step.run("a", lambda: (dt.date(2030, 1, 1), decimal.Decimal("1.50"), {3}))
    step.sleep("nap", 60)
    return [value[0].isoformat(), str(value[1]), value[2].pop()]


@steps.add(result=[[1, 2]], attempts=1)
def the_first_attempt_gets_a_copy(w: World) -> t.Any:
    kept = [1, 2]
    found = step.run("a", lambda: kept)
    kept.append(3)
    return [found]


@steps.add(wait(), wait(), wait(), result=[0, 1, 2], attempts=4)
def each_attempt_goes_one_step_further(w: World) -> t.Any:
    found = []

    for number in range(3):
        found.append(step.run(f"s{number}", int, number))
        step.sleep(f"nap{number}", 60)

    return found


@steps.add(result=[99], attempts=1)
def a_hundred_steps(w: World) -> t.Any:
    return [[step.run(f"s{n}", int, n) for n in range(100)][-1]]


@steps.add(
    wait(), result=["outer", "inner"], attempts=2, calls={"outer": 1, "inner": 1}
)
def steps_in_a_function_of_the_view(w: World) -> t.Any:
    def inner() -> t.Any:
        step.sleep("nap", 60)
        return w.do("inner")

    return [w.do("outer"), inner()]


@steps.add(result=["ä/ö #2"], attempts=1)
def ids_of_any_text(w: World) -> t.Any:
    return [w.do("ä/ö #2")]


@steps.add(result=[1], attempts=1, calls={"once": 1})
def at_most_once(w: World) -> t.Any:
    return [step.options(at_most_once=True).run("once", w.call, "once", 1)]


@steps.add(wait(), result=[1], attempts=2, calls={"once": 1})
def at_most_once_is_given_back(w: World) -> t.Any:
    found = step.options(at_most_once=True).run("once", w.call, "once", 1)
    step.sleep("nap", 60)
    return [found]


@steps.add(result=["in one"], attempts=1)
def a_transaction(w: World) -> t.Any:
    return [step.transaction("t", lambda connection: "in one")]


@steps.add(wait(), result=["in one"], attempts=2, calls={"t": 1})
def a_transaction_is_given_back(w: World) -> t.Any:
    found = step.transaction("t", lambda connection: w.call("t", "in one"))
    step.sleep("nap", 60)
    return [found]


# Failures


@failures.add(wait(), result=["a"], attempts=2, calls={"a": 2})
def a_failed_step_is_tried_later(w: World) -> t.Any:
    return [w.fail("a")]


@failures.add(wait(), wait(), result=["a"], attempts=3, calls={"a": 3})
def twice(w: World) -> t.Any:
    return [w.fail("a", times=2)]


@failures.add(wait(), wait(), result=500, attempts=3, calls={"a": 3})
def until_its_tries_are_used_up(w: World) -> t.Any:
    return [w.fail("a", times=3)]


@failures.add(wait(), result=["b", "a"], attempts=2, calls={"b": 1, "a": 2})
def others_are_not_run_again_for_it(w: World) -> t.Any:
    return [w.do("b"), w.fail("a")]


@failures.add(result=500, attempts=1, calls={"a": 1})
def for_good(w: World) -> t.Any:
    return [w.give_up("a")]


@failures.add(result=["undo"], attempts=1, calls={"a": 1, "undo": 1})
def a_caught_failure_is_compensated(w: World) -> t.Any:
    try:
        w.give_up("a")
    except StepError:
        return [w.do("undo")]


@failures.add(wait(), result=["undo", "a"], attempts=2, calls={"a": 1, "undo": 1})
def a_caught_failure_is_raised_again_not_run_again(w: World) -> t.Any:
    try:
        w.give_up("a")
    except StepError as error:
        step.sleep("nap", 60)
        return [w.do("undo"), error.step]


@failures.add(wait(), wait(), wait(), result=["undo", 3], attempts=4)
def a_failure_of_several_tries_is_raised_again(w: World) -> t.Any:
    try:
        w.fail("a", times=3)
    except StepError as error:
        step.sleep("nap", 60)
        return [w.do("undo"), error.tries]


@failures.add(wait(), result=["a", "b"], attempts=2, calls={"a": 2, "b": 2})
def a_failure_within_the_attempt_is_hidden(w: World) -> t.Any:
    from flask_durable import Retry

    quick = step.options(retry=Retry(2, initial=0.0))
    found = quick.run("a", w.flaky, "a", 1)
    return [found, w.fail("b")]


@failures.add(result=404, attempts=1, calls={"a": 1})
def an_abort_is_the_answer(w: World) -> t.Any:
    def missing() -> None:
        w.call("a")
        abort(404)

    return [step.run("a", missing)]


@failures.add(wait(), result=["caught 404"], attempts=2, calls={"a": 1})
def an_abort_is_raised_again(w: World) -> t.Any:
    from werkzeug.exceptions import NotFound

    def missing() -> None:
        w.call("a")
        abort(404)

    try:
        step.run("a", missing)
    except NotFound as error:
        step.sleep("nap", 60)
        return [f"caught {error.code}"]


@failures.add(result=402, attempts=1, calls={"a": 1})
def a_view_may_answer_with_an_error(w: World) -> t.Any:
    w.do("a")
    return {"error": "not paid"}, 402


@failures.add(wait(), wait(), result=["a", "b"], attempts=3, calls={"a": 2, "b": 2})
def one_failure_after_another(w: World) -> t.Any:
    return [w.fail("a"), w.fail("b")]


# Conditions


@conditions.add(wait(), result=["yes"], attempts=2, calls={"choose": 1, "yes": 1})
def a_decision_of_a_step_stays(w: World) -> t.Any:
    chosen = w.do("choose", len(w.calls) < 1 or "yes")
    step.sleep("nap", 60)
    return [w.do("yes")] if chosen else [w.do("no")]


@conditions.add(result=["c"], attempts=1, calls={"a": 1, "c": 1})
def the_other_branch(w: World) -> t.Any:
    return [w.do("b") if w.do("a") == "b" else w.do("c")]


@conditions.add(wait(), result=[3], attempts=2, calls={"count": 1})
def a_loop_as_long_as_a_step_said(w: World) -> t.Any:
    count = w.do("count", 3)
    found = [step.run(f"s{number}", int, number) for number in range(count)]
    step.sleep("nap", 60)
    return [len(found)]


@conditions.add(wait(), wait(), result=[2], attempts=3)
def a_loop_with_naps(w: World) -> t.Any:
    number = 0

    while number < 2:
        step.sleep("nap", 60)
        number = step.run("add", int, number + 1)

    return [number]


@conditions.add(wait(), result=["early"], attempts=2, calls={"a": 1})
def an_early_return(w: World) -> t.Any:
    if w.do("a") == "a":
        step.sleep("nap", 60)
        return ["early"]

    return [w.do("late")]


@conditions.add(wait(), result=["fallback"], attempts=2, calls={"a": 1, "fallback": 1})
def a_fallback_after_a_failure(w: World) -> t.Any:
    try:
        found = w.give_up("a")
    except StepError:
        found = w.do("fallback")

    step.sleep("nap", 60)
    return [found]


@conditions.add(wait(), result=[2], attempts=2, calls={"a": 1, "b": 1, "c": 1})
def until_one_succeeds(w: World) -> t.Any:
    for number, name in enumerate("abc"):
        try:
            w.give_up(name) if name != "c" else w.do(name)
        except StepError:
            continue

        step.sleep("nap", 60)
        return [number]


# Sleeps


@sleeps.add(wait(), result=["done"], attempts=2)
def a_sleep_takes_two_attempts(w: World) -> t.Any:
    step.sleep("nap", 60)
    return ["done"]


@sleeps.add(wait(30), wait(31), result=["done"], attempts=2)
def half_a_sleep_is_no_attempt(w: World) -> t.Any:
    step.sleep("nap", 60)
    return ["done"]


@sleeps.add(wait(), wait(), result=["done"], attempts=3)
def two_sleeps(w: World) -> t.Any:
    step.sleep("one", 60)
    step.sleep("two", 60)
    return ["done"]


@sleeps.add(result=["done"], attempts=1)
def a_sleep_of_nothing(w: World) -> t.Any:
    step.sleep("nap", 0)
    return ["done"]


@sleeps.add(result=["done"], attempts=1)
def until_a_time_in_the_past(w: World) -> t.Any:
    step.sleep_until("nap", dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    return ["done"]


@sleeps.add(wait(86_401), result=["done"], attempts=2)
def until_tomorrow(w: World) -> t.Any:
    until = step.run("when", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    step.sleep_until("nap", until)
    return ["done"]


@sleeps.add(wait(), wait(), result=["nap"] * 2, attempts=3)
def the_same_sleep_twice(w: World) -> t.Any:
    for _ in range(2):
        step.sleep("nap", 60)

    return ["nap"] * 2


@sleeps.add(wait(), result=["a", "b"], attempts=2, calls={"a": 1, "b": 1})
def between_two_steps(w: World) -> t.Any:
    found = [w.do("a")]
    step.sleep("nap", dt.timedelta(minutes=1))
    return [*found, w.do("b")]


@sleeps.add(wait(), wait(), result=["a"], attempts=3, calls={"a": 2})
def a_sleep_then_a_failure(w: World) -> t.Any:
    step.sleep("nap", 60)
    return [w.fail("a")]


@sleeps.add(wait(3 * 366 * 86_400), result=["done"], attempts=2)
def for_years(w: World) -> t.Any:
    step.sleep("nap", dt.timedelta(days=3 * 365))
    return ["done"]
