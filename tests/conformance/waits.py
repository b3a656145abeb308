"""Events, callbacks, polls, children."""

from __future__ import annotations

import typing as t

from flask_durable import step
from flask_durable import StepError
from flask_durable import WaitTimeoutError

from .scenarios import answer
from .scenarios import Family
from .scenarios import LATER
from .scenarios import send
from .scenarios import wait
from .scenarios import World

events = Family()
callbacks = Family()
polls = Family()
invokes = Family()


@events.add(send("e", 1), result=[1], attempts=2)
def an_event(w: World) -> t.Any:
    return [step.wait_for_event("wait", "e")]


@events.add(send("e", 1, "k"), result=[1], attempts=2)
def an_event_with_a_key(w: World) -> t.Any:
    return [step.wait_for_event("wait", "e", key="k")]


@events.add(send("e", 0, "other"), send("e", 1, "k"), result=[1], attempts=2)
def another_key_is_no_attempt(w: World) -> t.Any:
    return [step.wait_for_event("wait", "e", key="k")]


@events.add(send("e"), result=[None], attempts=2)
def an_event_without_data(w: World) -> t.Any:
    return [step.wait_for_event("wait", "e")]


@events.add(send("e", 1), wait(), result=[1], attempts=2)
def an_early_event(w: World) -> t.Any:
    step.sleep("nap", 60)
    return [step.wait_for_event("wait", "e")]


@events.add(send("e", 1), send("e", 2), result=[1, 2], attempts=3)
def two_events_one_after_the_other(w: World) -> t.Any:
    return [step.wait_for_event("wait", "e") for _ in range(2)]


@events.add(send("e", 1), send("e", 2), wait(), result=[1, 2], attempts=2)
def two_early_events(w: World) -> t.Any:
    step.sleep("nap", 60)
    return [step.wait_for_event("wait", "e") for _ in range(2)]


@events.add(send("b", "B"), send("a", "A"), result=["A", "B"], attempts=2)
def the_second_comes_first(w: World) -> t.Any:
    return [step.wait_for_event(name, name) for name in ("a", "b")]


@events.add(wait(), result=["late"], attempts=2)
def a_time_out(w: World) -> t.Any:
    try:
        return [step.wait_for_event("wait", "e", timeout=60)]
    except WaitTimeoutError:
        return ["late"]


@events.add(wait(), result=500, attempts=2)
def a_time_out_that_nobody_catches(w: World) -> t.Any:
    return [step.wait_for_event("wait", "e", timeout=60)]


@events.add(send("e", 1), wait(), result=[1], attempts=3)
def an_event_before_its_time_out(w: World) -> t.Any:
    found = step.wait_for_event("wait", "e", timeout=60)
    step.sleep("nap", 60)
    return [found]


@events.add(wait(), send("e", 1), wait(), result=["late", 1], attempts=4)
def an_event_after_a_time_out_is_for_the_next(w: World) -> t.Any:
    try:
        step.wait_for_event("wait", "e", timeout=60)
    except WaitTimeoutError:
        found = step.wait_for_event("again", "e")
        step.sleep("nap", 60)
        return ["late", found]


@events.add(send("e", 1), wait(), result=["a", 1], attempts=3, calls={"a": 2})
def a_failure_after_an_event(w: World) -> t.Any:
    found = step.wait_for_event("wait", "e")
    return [w.fail("a"), found]


# Callbacks


@callbacks.add(answer("a", "A"), result=["A"], attempts=2)
def a_callback(w: World) -> t.Any:
    return [w.callback("a").wait()]


@callbacks.add(result=["never waited for"], attempts=1)
def a_callback_that_nobody_waits_for(w: World) -> t.Any:
    w.callback("a")
    return ["never waited for"]


@callbacks.add(answer("a", "A"), wait(), result=["A"], attempts=2)
def an_early_callback(w: World) -> t.Any:
    made = w.callback("a")
    step.sleep("nap", 60)
    return [made.wait()]


@callbacks.add(answer("a", "A"), answer("b", "B"), result=["A", "B"], attempts=3)
def a_is_awaited_first_and_comes_first(w: World) -> t.Any:
    a, b = w.callback("a"), w.callback("b")
    return [a.wait(), b.wait()]


@callbacks.add(answer("b", "B"), answer("a", "A"), result=["A", "B"], attempts=2)
def a_is_awaited_first_and_b_comes_first(w: World) -> t.Any:
    a, b = w.callback("a"), w.callback("b")
    return [a.wait(), b.wait()]


@callbacks.add(answer("a", "A"), answer("a", "A"), result=["A"], attempts=2)
def the_same_answer_twice(w: World) -> t.Any:
    return [w.callback("a").wait()]


@callbacks.add(wait(), result=["nobody"], attempts=2)
def nobody_answers(w: World) -> t.Any:
    try:
        return [w.callback("a").wait(timeout=60)]
    except WaitTimeoutError:
        return ["nobody"]


@callbacks.add(answer("a", "A"), wait(), result=["A", "x"], attempts=3, calls={"x": 2})
def a_failed_step_then_a_wait(w: World) -> t.Any:
    made = w.callback("a")
    return [made.wait(), w.fail("x")]


@callbacks.add(answer("a", "A"), result=["caught", "A"], attempts=2, calls={"x": 1})
def a_caught_failure_then_a_wait(w: World) -> t.Any:
    try:
        w.give_up("x")
    except StepError:
        return ["caught", w.callback("a").wait()]


@callbacks.add(answer("a", {"n": [1, None]}), result=[{"n": [1, None]}], attempts=2)
def any_json(w: World) -> t.Any:
    return [w.callback("a").wait()]


@callbacks.add(answer("a", 1), answer("a#2", 2), result=[1, 2], attempts=3)
def the_same_id_twice(w: World) -> t.Any:
    made = [step.callback("a") for _ in range(2)]
    w.tokens |= {"a": made[0].token, "a#2": made[1].token}
    return [each.wait() for each in made]


@callbacks.add(answer("a", "A"), result=["A", "A"], attempts=2)
def waited_for_by_who_has_it(w: World) -> t.Any:
    made = w.callback("a")
    return [made.wait(), made.wait()]


# Polls


def after(w: World, times: int) -> t.Any:
    """Make a check that finds something after so many calls."""
    w.call("check")
    return w.calls["check"] > times


@polls.add(result=[True], attempts=1, calls={"check": 1})
def found_at_once(w: World) -> t.Any:
    return [step.poll("p", after, w, 0, every=60)]


@polls.add(wait(), result=[True], attempts=2, calls={"check": 2})
def found_at_the_second_look(w: World) -> t.Any:
    return [step.poll("p", after, w, 1, every=60)]


@polls.add(wait(), wait(), wait(), result=[True], attempts=4, calls={"check": 4})
def found_at_the_fourth_look(w: World) -> t.Any:
    return [step.poll("p", after, w, 3, every=60)]


@polls.add(wait(), wait(), result=[True], attempts=3, calls={"check": 2})
def what_was_found_is_not_looked_for_again(w: World) -> t.Any:
    found = step.poll("p", after, w, 1, every=60)
    step.sleep("nap", 60)
    return [found]


@polls.add(wait(), wait(), result=["late"], attempts=3, calls={"check": 3})
def a_poll_that_takes_too_long(w: World) -> t.Any:
    try:
        return [step.poll("p", after, w, 99, every=60, timeout=100)]
    except WaitTimeoutError:
        return ["late"]


@polls.add(wait(), result=[True], attempts=2, calls={"check": 2})
def a_check_that_fails_once(w: World) -> t.Any:
    def check() -> bool:
        if not after(w, 1):
            raise ConnectionError("busy")

        return True

    return [step.options(retry=LATER).poll("p", check, every=60)]


@polls.add(result=500, attempts=1, calls={"check": 1})
def a_check_that_fails_for_good(w: World) -> t.Any:
    return [step.poll("p", w.broken, "check", every=60)]


@polls.add(wait(), result=[True, "a"], attempts=2, calls={"check": 2, "a": 1})
def a_poll_beside_a_step(w: World) -> t.Any:
    poll = lambda: step.poll("p", after, w, 1, every=60)  # noqa: E731
    return list(step.parallel(poll, lambda: w.do("a")))


# Children


def invoke(number: int) -> t.Any:
    """Run a child; number 0 fails, 10 and more sleep."""
    return step.invoke(f"c{number}", "child", values={"number": number})


@invokes.add(result={"number": 1}, attempts=2, calls={"child 1": 1})
def a_child(w: World) -> t.Any:
    return invoke(1)


@invokes.add(result=[{"number": 1}, {"number": 2}], attempts=3)
def two_children_one_after_the_other(w: World) -> t.Any:
    return [invoke(1), invoke(2)]


@invokes.add(result=["caught"], attempts=2, calls={"child 0": 1})
def a_child_that_fails(w: World) -> t.Any:
    try:
        return invoke(0)
    except StepError:
        return ["caught"]


@invokes.add(result=500, attempts=2)
def a_failed_child_that_nobody_catches(w: World) -> t.Any:
    return invoke(0)


@invokes.add(wait(), result=["caught"], attempts=3, calls={"child 0": 1})
def a_failed_child_is_not_run_again(w: World) -> t.Any:
    try:
        return invoke(0)
    except StepError:
        step.sleep("nap", 60)
        return ["caught"]


@invokes.add(wait(), result={"number": 10}, attempts=2, calls={"child 10": 2})
def a_child_that_sleeps(w: World) -> t.Any:
    return invoke(10)


@invokes.add(wait(), result=[{"number": 1}, "nap"], attempts=3, calls={"child 1": 1})
def a_child_beside_a_sleep(w: World) -> t.Any:
    def nap() -> str:
        step.sleep("nap", 60)
        return "nap"

    return list(step.parallel(lambda: invoke(1), nap))


@invokes.add(wait(), result=[{"number": 1}], attempts=3, calls={"child 1": 1})
def a_child_is_given_back(w: World) -> t.Any:
    found = invoke(1)
    step.sleep("nap", 60)
    return [found]


@invokes.add(send("e", 1), result=[{"number": 1}, 1], attempts=3)
def a_child_then_an_event(w: World) -> t.Any:
    return [invoke(1), step.wait_for_event("wait", "e")]


@invokes.add(result=["refused", "a"], attempts=1, calls={"a": 1})
def an_unknown_endpoint(w: World) -> t.Any:
    try:
        return step.invoke("c", "nowhere")
    except ValueError:
        return ["refused", w.do("a")]
