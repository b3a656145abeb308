"""Where the bars of a waterfall are."""

from __future__ import annotations

import itertools
import typing as t

import pytest

from flask_durable.checks import PACKAGE
from flask_durable.history import Span
from flask_durable.records import Execution
from flask_durable.records import Failure
from flask_durable.records import StepRecord
from flask_durable.web.console.scale import Scale
from flask_durable.web.console.waterfall import Bar
from flask_durable.web.console.waterfall import Drawing
from flask_durable.web.console.waterfall import THIN
from flask_durable.web.console.waterfall import Waterfall
from flask_durable.web.console.wording import ago
from flask_durable.web.console.wording import duration
from flask_durable.web.console.wording import own_frames

ORIGIN = 1000.0


def execution(lasted: float | None, attempt: int = 1, now: float = 100) -> Execution:
    """Make an execution that began at the origin."""
    end = None if lasted is None else ORIGIN + lasted
    status: t.Any = "running" if lasted is None else "completed"
    head = ("0190", "view", status, attempt, None, None, ORIGIN, end)
    return Execution(*head, 0, 0, 0, 0, None, ORIGIN + now)


def a_step(name: str, begin: float, end: float | None, **values: t.Any) -> StepRecord:
    """Make a step; times in seconds after the origin."""
    at = None if end is None else ORIGIN + end
    status = values.pop("status", "completed" if at else "running")
    kind = values.pop("kind", "run")
    return StepRecord(name, kind, status, 1, 0, 1, ORIGIN + begin, at, None, None)


def draw(
    x: Execution, spans: list[Span], *steps: StepRecord, **failures: Failure
) -> Waterfall:
    """Draw a waterfall."""
    return Drawing(x, spans, steps, failures, {}).draw()


def kinds(bars: list[Bar]) -> list[tuple[str, int]]:
    """Give each bar's kind and how long it is, in whole percents."""
    return [(bar.kind, round(bar.width)) for bar in bars]


def test_a_step_that_ran() -> None:
    """Is one bar, where it was."""
    found = draw(execution(10), [Span(1, 0, 10, "e")], a_step("a", 2, 7))
    assert [(bar.kind, bar.x, bar.width) for bar in found.lines[0].bars] == [
        ("done", 20, 50)
    ]
    assert found.lines[0].bars[0].title == "Ran 5.0 s"


def test_a_running_step_grows() -> None:
    """Until now, in its own kind."""
    found = draw(execution(None, now=4), [Span(1, 0, None)], a_step("a", 1, None))
    assert kinds(found.lines[0].bars) == [("run", 75)]
    assert kinds([found.attempts[0].bar]) == [("run", 100)]


def test_tries_and_the_waits_between_them() -> None:
    """Are told apart by what was noted."""
    tries = [(0.0, 2.0, "OSError"), (4.0, 6.0, "OSError"), (8.0, 10.0, "")]
    found = draw(
        execution(10),
        [Span(1, 0, 6, "s"), Span(2, 8, 10, "e")],
        a_step("a", 0, 10),
        a=Failure("OSError", "away", tries=tries),
    )
    line = found.lines[0]
    shown = [("fail", 20), ("wait", 20), ("fail", 20), ("wait", 20), ("done", 20)]
    assert kinds(line.bars) == shown
    assert (line.failed, line.error) == (2, "away")


def test_a_step_that_is_tried_again_later_waits() -> None:
    """After what failed."""
    found = draw(
        execution(None, now=10),
        [Span(1, 0, 5, "s")],
        a_step("a", 0, None, status="retrying"),
        a=Failure("OSError", "away", tries=[(0.0, 5.0, "OSError")]),
    )
    assert [bar.kind for bar in found.lines[0].bars] == ["fail", "wait"]


def test_a_step_whose_process_died_waited_for_the_next_attempt() -> None:
    """Nothing was noted of it, but when attempts were."""
    spans = [Span(1, 0, 4, "l"), Span(2, 6, 10, "e")]
    found = draw(execution(10, 2), spans, a_step("a", 2, 8))
    assert kinds(found.lines[0].bars) == [("done", 20), ("wait", 20), ("done", 20)]
    assert found.attempts[0].bar.kind == "fail"
    assert found.attempts[0].how == "its process ended"


def test_an_attempt_that_failed_stays_so() -> None:
    """Also when its execution was resumed, and then completed."""
    spans = [Span(1, 0, 1, "e"), Span(2, 9, 10, "e")]
    first, second = draw(execution(10, 2), spans).attempts
    assert (first.bar.kind, first.how) == ("fail", "failed")
    assert (second.bar.kind, second.how) == ("done", "ended")


@pytest.mark.parametrize("kind", ["sleep", "event", "callback", "invoke"])
def test_steps_that_wait(kind: str) -> None:
    """Are one thin bar."""
    spans = [Span(1, 0, 1, "s"), Span(2, 9, 10, "e")]
    found = draw(execution(10, 2), spans, a_step("a", 1, 9, kind=kind))
    assert [bar.kind for bar in found.lines[0].bars] == ["wait"]


def test_without_attempts_a_step_ran_all_the_time() -> None:
    """An older version noted none."""
    found = draw(execution(10, 3), [], a_step("a", 2, 7))
    assert kinds(found.lines[0].bars) == [("done", 50)]
    assert found.hidden == 3


def test_kept_steps_have_no_bars() -> None:
    """They ran before this execution began."""
    found = draw(execution(10), [Span(1, 0, 10, "e")], a_step("a", -9, -8))
    assert found.lines[0].is_kept and found.lines[0].bars == []
    assert found.lines[0].seconds == 1


def test_neighbours_that_overlap_are_a_group() -> None:
    """Those that follow each other are none."""
    steps = [
        a_step("a", 0, 2),
        a_step("b", 2, 6),
        a_step("c", 2.001, 3),
        a_step("d", 2.002, 5),
        a_step("e", 6, 7),
        a_step("f", 7, None),
        a_step("g", 8, None),
    ]
    found = draw(execution(None, now=9), [Span(1, 0, None)], *steps)
    assert [line.group for line in found.lines] == [0, 1, 1, 1, 0, 2, 2]


def test_a_bar_can_be_seen() -> None:
    """However short, and at the very end."""
    steps = [a_step("a", 0, 0.0001), a_step("b", 9.9999, 10)]
    found = draw(execution(10), [Span(1, 0, 10, "e")], *steps)

    for line in found.lines:
        assert line.bars[0].width == THIN
        assert line.bars[0].x + line.bars[0].width <= 100


def test_long_pauses_are_short() -> None:
    """So that what ran can be seen; the page says how long they were."""
    day = 86_400.0
    spans = [Span(1, 0, 1, "s"), Span(2, day, day + 1, "e")]
    found = draw(execution(day + 1, 2), spans, a_step("nap", 1, day, kind="sleep"))
    assert [round(attempt.bar.width) for attempt in found.attempts] == [38, 38]
    ((x, width, words),) = found.pauses
    assert (round(x), round(width), words) == (38, 23, "23 h 59 m")
    # In the pause itself no moment is named but its length.
    assert found.ticks == [(0, "0 ms"), (25, "650 ms"), (75, "1 d"), (100, "1 d")]


def test_a_scale_keeps_the_order() -> None:
    """Places grow with moments, from one end to the other."""
    scale = Scale(1000, [(0, 1), (0.5, 2), (500, 501), (999, 2000), (7, 5)])
    places = [scale.place(moment / 4) for moment in range(-8, 4100)]
    assert all(a <= b for a, b in itertools.pairwise(places))
    assert places[0] == 0 and places[-1] == pytest.approx(100)
    moments = [moment for _, moment in scale.ticks()]
    assert moments == sorted(moments) and moments[-1] == pytest.approx(1000)


@pytest.mark.parametrize("total", [0, 1e-9, 5])
def test_a_scale_without_attempts(total: float) -> None:
    """Is even."""
    scale = Scale(total)
    assert scale.place(-1) == 0 and scale.place(total + 1) == 100
    assert scale.pauses == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (-1, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.96, "1 m"),
        (61, "1 m 1 s"),
        (7200, "2 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    """Have at most two units."""
    assert duration(seconds) == words


def test_ago() -> None:
    """Says the future as well."""
    assert ago(10, 10.5) == "now"
    assert ago(10, 200) == "3 m ago"
    assert ago(7300, 0) == "in 2 h"


def test_tracebacks_have_the_users_frames() -> None:
    """Ours tell nothing, unless there are no others."""
    head, end = "Traceback (most recent call last):\n", "ValueError: no\n"
    ours = f'  File "{PACKAGE}tries.py", line 1, in run\n    value = 1\n    ^^^^^\n'
    # Its folder's name may begin like ours.
    users = f'  File "{PACKAGE[:-1]}_shop/pay.py", line 7, in pay\n    raise Ill\n'
    assert own_frames(head + ours + ours + users + end) == head + users + end
    assert own_frames(head + ours + end) == head + ours + end
    assert own_frames("") == ""
