"""Steps at once: ``step.parallel`` and ``step.map``."""

from __future__ import annotations

import typing as t

from flask_durable import DuplicateStepError
from flask_durable import step
from flask_durable import StepError

from .scenarios import answer
from .scenarios import Family
from .scenarios import LATER
from .scenarios import send
from .scenarios import wait
from .scenarios import World

parallel = Family()
maps = Family()


def nap(name: str = "nap", seconds: float = 60) -> str:
    """Sleep in a branch."""
    step.sleep(name, seconds)
    return name


@parallel.add(result=["a", "b", "c"], attempts=1, calls={"a": 1, "b": 1, "c": 1})
def three_branches(w: World) -> t.Any:
    return list(step.parallel(*[lambda n=n: w.do(n) for n in "abc"]))


@parallel.add(result=[], attempts=1)
def no_branch(w: World) -> t.Any:
    return list(step.parallel())


@parallel.add(result=["a"], attempts=1, calls={"a": 1})
def one_branch(w: World) -> t.Any:
    return list(step.parallel(lambda: w.do("a")))


@parallel.add(result=[1, 2], attempts=1)
def branches_without_steps(w: World) -> t.Any:
    return list(step.parallel(lambda: 1, lambda: 2))


@parallel.add(wait(), result=["nap", "a"], attempts=2, calls={"a": 1})
def one_sleeps_and_the_other_is_done(w: World) -> t.Any:
    return list(step.parallel(nap, lambda: w.do("a")))


@parallel.add(wait(), result=["x", "y"], attempts=2)
def both_sleep_as_long(w: World) -> t.Any:
    return list(step.parallel(lambda: nap("x"), lambda: nap("y")))


@parallel.add(wait(), wait(), result=["x", "y"], attempts=3)
def one_sleeps_longer(w: World) -> t.Any:
    return list(step.parallel(lambda: nap("x"), lambda: nap("y", 110)))


@parallel.add(wait(), result=["a", "b"], attempts=2, calls={"a": 2, "b": 1})
def one_fails_once(w: World) -> t.Any:
    return list(step.parallel(lambda: w.fail("a"), lambda: w.do("b")))


@parallel.add(wait(), result=["a", "b"], attempts=2, calls={"a": 2, "b": 2})
def both_fail_once(w: World) -> t.Any:
    return list(step.parallel(lambda: w.fail("a"), lambda: w.fail("b")))


@parallel.add(result=500, attempts=1, calls={"a": 1, "b": 1})
def one_fails_for_good(w: World) -> t.Any:
    return list(step.parallel(lambda: w.give_up("a"), lambda: w.do("b")))


@parallel.add(result=["undo b"], attempts=1, calls={"a": 1, "b": 1, "undo b": 1})
def a_failure_is_compensated(w: World) -> t.Any:
    try:
        step.parallel(lambda: w.give_up("a"), lambda: w.do("b"))
    except StepError:
        return [w.do("undo b")]


@parallel.add(wait(), result=["a failed"], attempts=2, calls={"a": 1})
def a_failure_and_a_sleep_are_both_kept(w: World) -> t.Any:
    try:
        step.parallel(lambda: w.give_up("a"), nap)
    except StepError as error:
        return [f"{error.step} failed"]


@parallel.add(result=["StepError", "b"], attempts=1)
def exceptions_in_their_places(w: World) -> t.Any:
    branches = [lambda: w.give_up("a"), lambda: w.do("b")]
    found = step.parallel(*branches, return_exceptions=True)
    return [type(found[0]).__name__, found[1]]


@parallel.add(wait(), result=["StepError", "nap"], attempts=2, calls={"a": 1})
def exceptions_wait_for_the_others(w: World) -> t.Any:
    branches = [lambda: w.give_up("a"), nap]
    found = step.parallel(*branches, return_exceptions=True)
    return [type(found[0]).__name__, found[1]]


@parallel.add(result=[["a", "b"], "c"], attempts=1)
def nested(w: World) -> t.Any:
    def inner() -> t.Any:
        return list(step.parallel(lambda: w.do("a"), lambda: w.do("b")))

    return list(step.parallel(inner, lambda: w.do("c")))


@parallel.add(wait(), result=[["nap", "b"], "c"], attempts=2, calls={"b": 1, "c": 1})
def a_nested_branch_sleeps(w: World) -> t.Any:
    def inner() -> t.Any:
        return list(step.parallel(nap, lambda: w.do("b")))

    return list(step.parallel(inner, lambda: w.do("c")))


@parallel.add(
    wait(), result=["a", "b", "c"], attempts=2, calls={"a": 1, "b": 1, "c": 1}
)
def a_branch_of_several_steps(w: World) -> t.Any:
    def long() -> t.Any:
        first = w.do("a")
        nap()
        return [first, w.do("b")]

    found, last = step.parallel(long, lambda: w.do("c"))
    return [*found, last]


@parallel.add(wait(), result=["a", "b"], attempts=2, calls={"a": 1, "b": 1})
def a_step_after_the_branches(w: World) -> t.Any:
    step.parallel(lambda: w.do("a"), nap)
    return ["a", w.do("b")]


@parallel.add(result=["refused"], attempts=1)
def the_same_id_in_two_branches(w: World) -> t.Any:
    try:
        step.parallel(lambda: w.do("a"), lambda: w.do("a"))
    except DuplicateStepError:
        return ["refused"]


@parallel.add(result=["a", "b", "a"], attempts=1, calls={"a": 2, "b": 1})
def an_id_of_a_branch_afterwards(w: World) -> t.Any:
    return [*step.parallel(lambda: w.do("a"), lambda: w.do("b")), w.do("a")]


@parallel.add(result=["a", "b", "c"], attempts=1)
def one_worker_for_three_branches(w: World) -> t.Any:
    branches = [lambda n=n: w.do(n) for n in "abc"]
    return list(step.parallel(*branches, max_workers=1))


@parallel.add(send("e", "E"), result=["E", "a"], attempts=2, calls={"a": 1})
def one_waits_for_an_event(w: World) -> t.Any:
    waits = lambda: step.wait_for_event("wait", "e")  # noqa: E731
    return list(step.parallel(waits, lambda: w.do("a")))


@parallel.add(answer("b", "B"), answer("a", "A"), result=["A", "B"], attempts=3)
def two_callbacks_in_branches(w: World) -> t.Any:
    a, b = w.callback("a"), w.callback("b")
    return list(step.parallel(a.wait, b.wait))


@parallel.add(result=[{"number": 1}, {"number": 2}], attempts=2)
def two_children_that_end_before_the_parent_wakes(w: World) -> t.Any:
    branches = [
        lambda n=n: step.invoke(f"c{n}", "child", values={"number": n}) for n in (1, 2)
    ]
    found = step.parallel(*branches)
    w.calls["parent ended"] = 1
    return list(found)


# Maps


def double(number: int) -> int:
    """Give twice a number."""
    return 2 * number


@maps.add(result=[0, 2, 4], attempts=1)
def doubles(w: World) -> t.Any:
    return step.map("double", double, [0, 1, 2])


@maps.add(result=[], attempts=1)
def nothing(w: World) -> t.Any:
    return step.map("double", double, [])


@maps.add(wait(), result=["x", "y"], attempts=2, calls={"x": 1, "y": 1})
def items_are_not_run_again(w: World) -> t.Any:
    found = step.map("call", w.call, ["x", "y"])
    step.sleep("nap", 60)
    return found


@maps.add(wait(), result=["x", "y"], attempts=2, calls={"x": 2, "y": 2})
def each_item_is_tried_again(w: World) -> t.Any:
    later = step.options(retry=LATER)
    return later.map("call", lambda name: w.flaky(name, 1), ["x", "y"])


@maps.add(wait(), result=["x", "y"], attempts=2, calls={"x": 2, "y": 1})
def only_the_failed_item_is_tried_again(w: World) -> t.Any:
    later = step.options(retry=LATER)
    return later.map("call", lambda name: w.flaky(name, name == "x"), ["x", "y"])


@maps.add(result=500, attempts=1, calls={"x": 1, "y": 1})
def one_item_fails_for_good(w: World) -> t.Any:
    def call(name: str) -> t.Any:
        return w.broken(name) if name == "x" else w.call(name)

    return step.map("call", call, ["x", "y"])


@maps.add(result=["StepError", "y"], attempts=1)
def failures_in_their_places(w: World) -> t.Any:
    def call(name: str) -> t.Any:
        return w.broken(name) if name == "x" else w.call(name)

    found = step.map("call", call, ["x", "y"], return_exceptions=True)
    return [type(found[0]).__name__, found[1]]


@maps.add(result=[sum(range(60))], attempts=1)
def more_items_than_workers(w: World) -> t.Any:
    return [sum(step.map("call", int, range(60), max_workers=4))]


@maps.add(result=[[0, 1], [0, 1]], attempts=1)
def the_same_map_twice(w: World) -> t.Any:
    return [step.map("call", int, range(2)) for _ in range(2)]


@maps.add(result=[[0, 1], [2, 3]], attempts=1)
def maps_in_branches(w: World) -> t.Any:
    return list(
        step.parallel(
            lambda: step.map("left", int, [0, 1]),
            lambda: step.map("right", int, [2, 3]),
        )
    )
