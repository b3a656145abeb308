"""Failures from which the visitor can choose.

The choice is part of the request (``?failure=bank-down-twice``), because a replay is
the same request once more. How often a failure has happened is counted in the ledger,
because a killed server forgets it.
"""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import os
import pathlib
import signal
import sys
import time
import typing as t

from flask import abort
from flask import current_app
from flask import request

from flask_durable import NonRetryableError
from flask_durable import RetryAfterError
from flask_durable import step

from . import ledger

FOR_GOOD = sys.maxsize


@dataclasses.dataclass(frozen=True)
class Failure:
    """Something that goes wrong in some steps of a flow."""

    name: str
    title: str
    watch: str
    """What the visitor will see."""
    steps: tuple[str, ...] = ()
    error: cabc.Callable[[], Exception] | None = None
    times: int = 1
    seconds: float = 0.0
    """How long calls fail, counted from the first one, instead of how many times."""
    slow: int = 0
    """How many times longer than usual a call takes."""
    kill: t.Literal["during", "before"] | None = None


NOTHING = Failure(
    "none",
    "Nothing fails",
    "Each step is called once, and the first attempt gives the answer.",
)

YOURS = Failure(
    "yours",
    "A step of your choice fails…",
    "Choose which, and how often. What was done before it is not done again.",
)

FLOWS: dict[str | None, list[Failure]] = {
    "trips.book_trip": [
        NOTHING,
        Failure(
            "seat-lock-times-out",
            "The seat lock times out once",
            "reserve-flight alone is tried again. The search is kept.",
            steps=("reserve-flight",),
            error=lambda: TimeoutError("the seat lock timed out"),
        ),
        Failure(
            "bank-down-twice",
            "The bank is down twice",
            "The payment is tried again, first within the attempt, then in another one."
            " The seat stays reserved.",
            steps=("process-payment",),
            error=lambda: ConnectionError("the bank is down"),
            times=2,
        ),
        Failure(
            "bank-down",
            "The bank is down for good",
            "After four tries the view gives the seat back and answers 402.",
            steps=("process-payment",),
            error=lambda: ConnectionError("the bank is down"),
            times=FOR_GOOD,
        ),
        Failure(
            "bank-outage",
            "The bank is out for 8 seconds",
            "The tries after 0.5 s and 3 s still meet it. The one after 5 s does not:"
            " charged once.",
            steps=("process-payment",),
            error=lambda: ConnectionError("the bank is out"),
            seconds=8.0,
        ),
        Failure(
            "slow-airline",
            "The airline takes its time",
            "A step may run as long as it likes. It says how it is getting on: time to"
            " kill its server.",
            steps=("reserve-flight",),
            slow=12,
        ),
        Failure(
            "killed-during-payment",
            "The server is killed during the payment (SIGKILL)",
            "Nobody knows if the payment went through, so another server asks the bank"
            " again, with the same idempotency key: called twice, charged once.",
            steps=("process-payment",),
            kill="during",
        ),
        Failure(
            "killed-after-payment",
            "The server is killed after the payment (SIGKILL)",
            "Another server goes on at the confirmation. The bank is not called again.",
            steps=("confirm-booking",),
            kill="before",
        ),
        YOURS,
    ],
    "trips.book_package": [
        NOTHING,
        Failure(
            "two-time-out",
            "Airline and car rental time out once",
            "Each is tried again by itself. The hotel is called once.",
            steps=("book-flight", "book-car"),
            error=lambda: TimeoutError("no answer"),
        ),
        Failure(
            "hotel-down-twice",
            "The hotel is down twice",
            "book-hotel alone is tried again, and the confirmation waits for it.",
            steps=("book-hotel",),
            error=lambda: ConnectionError("the hotel is down"),
            times=2,
        ),
        Failure(
            "hotel-busy",
            "The hotel asks to be called again in 4 seconds",
            "The hotel's own wish goes before the view's retries.",
            steps=("book-hotel",),
            error=lambda: RetryAfterError(4),
        ),
        Failure(
            "no-cars",
            "The car rental has no cars left",
            "Trying again would not help. What was booked is cancelled, and the answer"
            " is 409.",
            steps=("book-car",),
            error=lambda: NonRetryableError("no cars left"),
            times=FOR_GOOD,
        ),
        Failure(
            "killed-during-hotel",
            "The server is killed while the hotel is booked (SIGKILL)",
            "Another server asks the hotel again, and whoever else had not answered"
            " yet. Each books once.",
            steps=("book-hotel",),
            kill="during",
        ),
        YOURS,
    ],
    "trips.process": [
        NOTHING,
        Failure(
            "registry-times-out",
            "The registry times out once",
            "enrich-data is tried again within the attempt.",
            steps=("enrich-data",),
            error=lambda: TimeoutError("no answer"),
        ),
        Failure(
            "mailer-down-twice",
            "The mailer is down twice",
            "notify is tried again. The processing is not repeated.",
            steps=("notify",),
            error=lambda: ConnectionError("the mailer is down"),
            times=2,
        ),
        Failure(
            "bad-data",
            "The data can't be processed",
            "Trying again would not help: the execution fails, and the app's error"
            " handler answers 502.",
            steps=("process",),
            error=lambda: NonRetryableError("this data can't be processed"),
            times=FOR_GOOD,
        ),
        Failure(
            "killed-during-processing",
            "The server is killed while it processes (SIGKILL)",
            "Another server processes again. The user is told once.",
            steps=("process",),
            kill="during",
        ),
        YOURS,
    ],
}


def chosen() -> Failure:
    """Return the failure that the running request asks for."""
    name = request.args.get("failure", "none")
    choices = {failure.name: failure for failure in FLOWS[request.endpoint]}

    if name not in choices:
        abort(
            400,
            f"There is no failure {name!r} here. Choose one of: {', '.join(choices)}.",
        )

    return _yours() if name == YOURS.name else choices[name]


def check_choice() -> None:
    """Refuse a request for an unknown failure, before its view runs."""
    chosen()


def _yours() -> Failure:
    times = request.args.get("times", 1, type=int)
    return dataclasses.replace(
        YOURS,
        steps=(request.args.get("step", ""),),
        error=lambda: ConnectionError("you wanted it so"),
        times=times or FOR_GOOD,
    )


def fail_call(step: str, entry: ledger.Entry) -> None:
    """Fail the call to a provider if that was chosen."""
    failure = chosen()

    if failure.error is None or step not in failure.steps:
        return

    if failure.seconds:
        fails = ledger.seconds_since(entry.first_at) < failure.seconds
    else:
        fails = entry.number <= failure.times

    if fails:
        raise failure.error()


def slow_down(id: str) -> None:
    """Let a call take longer, and report progress meanwhile, if that was chosen."""
    failure = chosen()
    rounds = failure.slow if id in failure.steps else 0

    for number in range(rounds):
        step.progress(f"no answer yet ({number + 1} of {rounds})")
        time.sleep(current_app.config["TRIP_BOOKER_LATENCY"])


def kill_server_before(step: str) -> None:
    """Kill this server before a step calls its provider, if that was chosen."""
    kill_server("before", step)


def kill_server_during(step: str) -> None:
    """Kill this server after the call, before the step's outcome is committed, if that
    was chosen."""
    kill_server("during", step)


def kill_server(moment: str, step: str) -> None:
    """Kill this server if this moment was chosen, but only once for a booking."""
    failure = chosen()

    if (
        failure.kill == moment
        and step in failure.steps
        and ledger.may_kill(f"{moment} {step}")
    ):
        kill_process(os.getpid())


def kill_process(pid: int) -> None:
    """Kill a server as a power cut does: nothing in it can object."""
    os.kill(pid, signal.SIGKILL)


def find_server(pid: int | None) -> int:
    """Return a process's id if it is one of this app's servers, else our own.

    All servers have the same parent: gunicorn's master, which replaces killed ones.
    """
    try:
        # The process's name, before the last ")", may contain anything.
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        state, parent = stat.split()[:2]
    except OSError:
        return os.getpid()

    alive = state not in "ZX" and int(parent) == os.getppid()
    return pid if alive and pid is not None else os.getpid()
