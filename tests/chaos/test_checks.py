"""The checks find what must not be, so that their silence means something."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing as t

import pytest

from .checks import Evidence
from .checks import violations
from .clients import Answer
from .journal import Execution
from .journal import Step
from .ledger import Being
from .ledger import Call
from .ledger import Ledger
from .outages import Kill

PROCESS = Being(100, 5000)
OTHER = Being(101, 6000)
STEPS = ("a", "pay", "b")
TRIES = {"pay": 3}
LINK = "http://shop/durable/executions/token"


def called(step: str, at: float, **changes: t.Any) -> Call:
    """Make a call that returned after a tenth of a second."""
    call = Call(
        "id", step, 1, 1, f"{step}-{at:g}", PROCESS, 99, at, at + 0.1, "returned"
    )
    return dataclasses.replace(call, **changes)


def evidence(calls: list[Call], **changes: t.Any) -> Evidence:
    """Make a run of one execution of the retrying shape, finished as it must be."""
    nonces = {call.step: call.nonce for call in calls}
    steps = {
        id: Step(id, "run", "completed", TRIES.get(id, 1), nonces.get(id))
        for id in STEPS
    }
    body = json.dumps(nonces).encode()
    row = Execution(
        "id", "retrying", "one", "completed", 1, 0.0, 9.0, "", 200, body, steps
    )
    given = {name: changes.pop(name) for name in list(changes) if hasattr(row, name)}
    executions = [dataclasses.replace(row, **given)]
    answer = Answer("one", "retrying", "final", 200, body, LINK, "id")
    found = Evidence(executions, calls, [], [answer], [])
    return dataclasses.replace(found, **changes)


def fine() -> list[Call]:
    """Make the calls of an execution without trouble; one step fails twice."""
    return [
        called("a", 1),
        called("pay", 2, how="raised"),
        called("pay", 3, how="raised", tries=2),
        called("pay", 4, tries=3),
        called("b", 5),
    ]


def repeated(**changes: t.Any) -> list[Call]:
    """Make the same with the last step called once more by another process."""
    again = called("b", 7, being=OTHER, attempt=2)
    return [*fine(), dataclasses.replace(again, **changes)]


def test_what_went_well_is_no_violation() -> None:
    """Tries that raised are followed by others, and that is all right."""
    assert violations(evidence(fine())) == []


@pytest.mark.parametrize(
    "kill",
    [
        Kill("web: worker", 5.05, 5.2, PROCESS),
        Kill("web: all", 6.0, 6.1, group=99),
        # The call began while the signal was on its way.
        Kill("web: worker", 4.9, 5.01, PROCESS),
    ],
)
def test_a_call_is_repeated_after_a_kill(kill: Kill) -> None:
    """Its process was killed between the two calls."""
    assert violations(evidence(repeated(), kills=[kill])) == []


@pytest.mark.parametrize(
    "kill",
    [
        Kill("web: worker", 5.05, 5.2, OTHER),
        Kill("web: worker", 4.0, 4.1, PROCESS),
        Kill("web: worker", 7.5, 7.6, PROCESS),
        Kill("web: all", 6.0, 6.1, group=98),
    ],
)
def test_a_call_is_repeated_without_a_reason(kill: Kill) -> None:
    """Another process was killed, or at another time."""
    (found,) = violations(evidence(repeated(), kills=[kill]))
    assert "was called again, but its process lived" in found


def test_one_kill_excuses_one_call() -> None:
    """A third call needs a second kill."""
    calls = [*repeated(), called("b", 8, being=OTHER, attempt=2)]
    kill = Kill("web: worker", 5.5, 5.6, PROCESS)
    (found,) = violations(evidence(calls, kills=[kill]))
    assert "process 101, 7.000" in found


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "suspended"}, "is suspended, not completed"),
        ({"status": "failed", "error": "x.Crash: y"}, "failed with x.Crash: y"),
        ({"code": 500}, "answers 500, not 200"),
        ({"body": b"{}"}, "but its journal has"),
        ({"body": None}, "answers None, but its journal has"),
        ({"steps": {}}, "has the steps []"),
        ({"id": "other"}, "has the link"),
        ({"troubles": ["web 1 ended by itself"]}, "web 1 ended by itself"),
    ],
)
def test_an_execution_ends_badly(changes: dict[str, t.Any], sentence: str) -> None:
    """Its status, response or journal are not what its shape wants."""
    found = violations(evidence(fine(), **changes))
    assert any(sentence in line for line in found), found


def test_a_shape_that_must_fail_fails_by_something_else() -> None:
    """Only the error of its own step is its own will."""
    changes = {"shape": "refused", "status": "failed", "error": "x.Crash: y"}
    found = violations(evidence(fine(), **changes))
    assert any("failed by x.Crash: y, not by its view" in line for line in found)


def test_an_outcome_is_not_that_of_the_last_call() -> None:
    """The journal kept what an earlier call gave."""
    kill = Kill("web: worker", 5.5, 5.6, PROCESS)
    found = evidence(fine(), kills=[kill])
    found = dataclasses.replace(found, calls=repeated())
    (line,) = violations(found)
    assert "has the outcome b-5, but its last call returned b-7" in line


def test_an_outcome_comes_from_nowhere() -> None:
    """No call is in the ledger."""
    found = dataclasses.replace(evidence(fine()), calls=fine()[:-1])
    (line,) = violations(found)
    assert "has an outcome, but was never called" in line


def test_a_step_took_other_tries_than_it_must() -> None:
    """A crash is no try, and no try is forgotten."""
    steps = {**evidence(fine()).executions[0].steps}
    steps["pay"] = dataclasses.replace(steps["pay"], tries=2)
    (line,) = violations(evidence(fine(), steps=steps))
    assert 'step "pay" took 2 tries, not 3' in line


def test_an_old_attempt_goes_on() -> None:
    """It calls a function after a later attempt has."""
    calls = fine()
    calls[-2].attempt = 2
    (line,) = violations(evidence(calls))
    assert "was called by attempt 1 after attempt 2 began" in line


def test_a_request_is_stored_twice() -> None:
    """One order has two executions."""
    found = evidence(fine())
    twice = [found.executions[0], *found.executions]
    found = dataclasses.replace(found, executions=twice)
    assert "order one was stored 2 times" in violations(found)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (("final", 202, b"", None, None), "the link gave 202"),
        (("final", 404, b"", None, None), "the link gave 404"),
        (("final", None, b"", None, None), "the link gave None"),
        (("post", 500, b"oops", None, None), "heard 500 b'oops'"),
        (("post", 200, b"{}", LINK, "id"), "heard 200 b'{}', but 200"),
        (("poll", 404, b"", None, None), "heard 404"),
        (("post", 202, b"", LINK, "lost"), "but no row"),
    ],
)
def test_a_client_hears_what_is_not_so(answer: t.Any, sentence: str) -> None:
    """Bytes differ, a link leads nowhere, or the server fails."""
    heard = Answer("one", "retrying", *answer)
    found = violations(evidence(fine(), answers=[heard]))
    assert any(sentence in line for line in found), found


@pytest.mark.parametrize("code", [None, 202, 503])
def test_a_client_may_hear_nothing_yet(code: int | None) -> None:
    """Connections break, and outages are told."""
    heard = Answer("two", "retrying", "post", code)
    assert violations(evidence(fine(), answers=[heard])) == []


def test_the_ledger_puts_calls_together(tmp_path: pathlib.Path) -> None:
    """A call that never ended has no end, and its process is busy."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.busy() == []

    for nonce in ("first", "one", "two"):
        ledger.begin(execution="id", step="a", attempt=1, tries=1, nonce=nonce)

    ledger.end("one", "returned")
    first, one, two = ledger.calls()
    assert (first.how, one.how, two.how) == ("", "returned", "")
    assert one.ended is not None and one.began <= one.ended
    assert [two.being] == ledger.busy()
