"""What must hold when all is over, told by sentences that name what does not."""

from __future__ import annotations

import collections
import collections.abc as cabc
import dataclasses
import itertools
import json
import typing as t

from .clients import Answer
from .journal import Execution
from .journal import Step
from .ledger import Call
from .outages import Kill
from .shapes import Shape
from .shapes import SHAPES

STEP_ERROR = "flask_durable.errors.StepError: "

Complaints = cabc.Iterator[str]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a run has left."""

    executions: list[Execution]
    calls: list[Call]
    """In the order in which they began."""
    kills: list[Kill]
    answers: list[Answer]
    troubles: list[str]
    """What went wrong with the run itself."""


class Repeat(t.NamedTuple):
    """A step's function that was called again though it had not failed."""

    call: Call
    again: Call


def violations(found: Evidence) -> list[str]:
    """List everything that must not be."""
    return [
        *found.troubles,
        *itertools.chain.from_iterable(map(_execution, found.executions)),
        *_orders(found),
        *_outcomes(found),
        *_repeats(found),
        *_attempts(found),
        *_answers(found),
    ]


def _execution(execution: Execution) -> Complaints:
    """Each execution ends as its shape wants it, whatever was killed."""
    name = _name(execution)
    shape = SHAPES[execution.shape]

    if execution.status != shape.ending:
        error = f" with {execution.error}" if execution.error else ""
        yield f"{name} is {execution.status}{error}, not {shape.ending}"

    if not execution.ended:
        return

    if shape.ending == "failed" and not execution.error.startswith(STEP_ERROR):
        yield f"{name} failed by {execution.error or 'nothing'}, not by its view"

    if execution.code != shape.code:
        yield f"{name} answers {execution.code}, not {shape.code}"

    yield from _journal(name, execution, shape)
    nonces = {id: step.nonce for id, step in execution.steps.items()}
    wanted = {id: nonces.get(id) for id in shape.answer}

    if _decoded(execution.body) != wanted:
        yield f"{name} answers {execution.body!r}, but its journal has {wanted}"


def _journal(name: str, execution: Execution, shape: Shape) -> Complaints:
    """Every step is there and has the outcome and the tries that it must have."""
    steps = execution.steps

    if steps.keys() != {*shape.steps, *shape.sleeps}:
        yield f"{name} has the steps {sorted(steps)}"

    for step in steps.values():
        wanted = "failed" if step.id in shape.failing else "completed"
        tries = shape.tries.get(step.id, 1)

        if step.status != wanted:
            yield f'{name}: step "{step.id}" is {step.status}, not {wanted}'

        if step.tries != tries:
            yield f'{name}: step "{step.id}" took {step.tries} tries, not {tries}'


def _orders(found: Evidence) -> Complaints:
    """One request makes one execution, and an accepted one is never lost."""
    by_order = collections.Counter(one.order for one in found.executions)
    known = {one.id for one in found.executions}

    for order, count in by_order.items():
        if count > 1:
            yield f"order {order} was stored {count} times"

    for answer in found.answers:
        if answer.link and answer.execution not in known:
            yield f"order {answer.order} has the link {answer.link}, but no row"


def _outcomes(found: Evidence) -> Complaints:
    """The journaled outcome is what the last call gave, and no other."""
    last = {(call.execution, call.step): call for call in found.calls}
    known = {one.id for one in found.executions}

    for execution_id, step_id in last:
        if execution_id not in known:
            yield f'step "{step_id}" ran for {execution_id}, which has no row'

    for execution in found.executions:
        for step in execution.steps.values():
            if step.kind == "run" and step.nonce is not None:
                yield from _outcome(execution, step, last.get((execution.id, step.id)))


def _outcome(execution: Execution, step: Step, call: Call | None) -> Complaints:
    where = f'{_name(execution)}: step "{step.id}"'

    if call is None:
        yield f"{where} has an outcome, but was never called"
        return

    how = "raised" if step.status == "failed" else "returned"

    if call.nonce != step.nonce:
        yield (
            f"{where} has the outcome {step.nonce}, but its last call"
            f" {call.how or 'began'} {call.nonce} ({_seen(call)})"
        )
    elif call.how != how:
        yield f"{where} is {step.status}, but its call {call.how or 'never ended'}"


def repeats(calls: cabc.Iterable[Call]) -> cabc.Iterator[Repeat]:
    """Find the calls that were made again though they had not failed.

    A try that raised and is followed by the next one is no repeat.
    """
    by_step: dict[tuple[str, str], list[Call]] = collections.defaultdict(list)

    for call in calls:
        by_step[call.execution, call.step].append(call)

    for made in by_step.values():
        for call, again in itertools.pairwise(made):
            if not (call.how == "raised" and again.tries == call.tries + 1):
                yield Repeat(call, again)


def killer(call: Call, until: float, kills: cabc.Iterable[Kill]) -> Kill | None:
    """Find what killed a call's process between the call and a later moment."""
    for kill in kills:
        hit = kill.victim == call.being or kill.group == call.group

        if hit and call.began <= kill.after and kill.before <= until:
            return kill

    return None


def _repeats(found: Evidence) -> Complaints:
    """A function is called again only if its process was killed in between.

    So there are never more calls of one try than kills and one. (Leases that are
    lost to a long outage would be another reason; the monkey makes none.)
    """
    for call, again in repeats(found.calls):
        where = f'execution {call.execution}: step "{call.step}"'

        if again.tries != call.tries:
            yield f"{where} went from try {call.tries} to {again.tries}"

        if killer(call, again.began, found.kills) is None:
            yield (
                f"{where} was called again, but its process lived:"
                f" {_seen(call)}, then {_seen(again)}"
            )


def _attempts(found: Evidence) -> Complaints:
    """No attempt calls a function once a later one has called any."""
    newest: dict[str, Call] = {}

    for call in found.calls:
        before = newest.setdefault(call.execution, call)

        if call.attempt >= before.attempt:
            newest[call.execution] = call
        else:
            yield (
                f'execution {call.execution}: step "{call.step}" was called by'
                f" attempt {call.attempt} after attempt {before.attempt} began:"
                f" {_seen(before)}, then {_seen(call)}"
            )


def _answers(found: Evidence) -> Complaints:
    """Whoever got a link or an answer has the right bytes."""
    rows = {one.order: one for one in found.executions}

    for answer in found.answers:
        where = f"order {answer.order} ({answer.shape}), {answer.asked}"

        if answer.is_final and answer.order in rows:
            row = rows[answer.order]

            if (answer.code, answer.body) != (row.code, row.body):
                yield (
                    f"{where}: heard {answer.code} {answer.body[:200]!r}, but"
                    f" {row.code} {(row.body or b'')[:200]!r} is stored for {row.id}"
                )
        elif answer.asked == "final":
            yield f"{where}: the link gave {_heard(answer)}"
        elif answer.code not in (None, 202, 503):
            yield f"{where}: heard {_heard(answer)}"


def _decoded(body: bytes | None) -> t.Any:
    try:
        return json.loads(body or b"null")
    except ValueError:
        return None


def _name(execution: Execution) -> str:
    return f"execution {execution.id} ({execution.shape}, order {execution.order})"


def _seen(call: Call) -> str:
    ended = "" if call.ended is None else f" until {call.ended:.3f}"
    return (
        f"attempt {call.attempt}, try {call.tries}, process {call.being.pid},"
        f" {call.began:.3f}{ended} {call.how}".rstrip()
    )


def _heard(answer: Answer) -> str:
    return f"{answer.code} {answer.body[:200]!r}{answer.error}"
