"""What can go wrong, for the visitor to choose.

The choice travels in the request (``?failure=bank-down-twice``), since a replay is the
same request once more. How often a failure has struck already stands in the ledger: a
killed server forgets.
"""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import os
import signal
import sys
import typing as t

from flask import abort
from flask import request

from flask_durable import NonRetryableError
from flask_durable import RetryAfterError

from . import ledger

FOR_GOOD = sys.maxsize


@dataclasses.dataclass(frozen=True)
class Failure:
    """Something that goes wrong in some steps of a flow."""

    name: str
    title: str
    watch: str
    """What there is to see."""
    steps: tuple[str, ...] = ()
    error: cabc.Callable[[], Exception] | None = None
    times: int = 1
    kill: t.Literal["during", "after"] | None = None


NOTHING = Failure(
    "none",
    "Nothing fails",
    "Each step is called once, and the answer comes in the first request.",
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
            "The payment is tried again, first inside the request, then in the"
            " background. The seat stays reserved.",
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
            steps=("process-payment",),
            kill="after",
        ),
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
    ],
    "trips.process": [
        NOTHING,
        Failure(
            "registry-times-out",
            "The registry times out once",
            "enrich-data is tried again inside the request.",
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
    ],
}


def chosen() -> Failure:
    """Give the failure that the running request asks for."""
    name = request.args.get("failure", "none")
    choices = {failure.name: failure for failure in FLOWS[request.endpoint]}
    if name not in choices:
        abort(
            400,
            f"There is no failure {name!r} here. Choose one of: {', '.join(choices)}.",
        )
    return choices[name]


def fail_call(step: str, number: int) -> None:
    """Fail the call to a provider if that was chosen.

    :param number: how many times this step of this booking has called by now.
    """
    failure = chosen()
    if failure.error is not None and step in failure.steps and number <= failure.times:
        raise failure.error()


def kill_server_during(step: str) -> None:
    """Kill this server before the step has an outcome, if that was chosen."""
    kill_server("during", step)


def kill_server_after(step: str) -> None:
    """Kill this server once the step's outcome is in the journal, if chosen."""
    kill_server("after", step)


def kill_server(moment: str, step: str) -> None:
    """Kill this server, once for a booking, at the moment that was chosen."""
    failure = chosen()
    if (
        failure.kill == moment
        and step in failure.steps
        and ledger.may_kill(f"{moment} {step}")
    ):
        os.kill(os.getpid(), signal.SIGKILL)
