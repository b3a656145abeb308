"""An app whose executions do all that a console shows; files say what goes wrong."""

from __future__ import annotations

import os
import pathlib
import time
import typing as t

from flask import Flask
from flask import request

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step

HOLD = pathlib.Path("hold")
"""While it is there, searches go on."""

AWAY = pathlib.Path("away")
"""While it is there, the bank is away."""

SCRIPT = "<script>document.title='run'</script>"

app = Flask("trips", instance_path=os.path.join(os.getcwd(), "instance"))
app.config.from_prefixed_env()
durable = FlaskDurable(app)
durable.console_auth(lambda request: True)

calls: dict[str, int] = {}


def work(seconds: float, **result: t.Any) -> dict[str, t.Any]:
    """Take some time."""
    time.sleep(seconds)
    return result


def charge(amount: int) -> dict[str, t.Any]:
    """Fail twice in each trip, or as long as the bank is away."""
    trip = request.headers.get("Trip", "")
    calls[trip] = calls.get(trip, 0) + 1
    time.sleep(0.12)

    if AWAY.exists() or calls[trip] % 3:
        raise ConnectionError("bank.example did not answer within 100 ms")

    return {"payment": "pay_81f3", "amount": amount}


def search() -> dict[str, int]:
    """Search for as long as the file is there."""
    while HOLD.exists():
        time.sleep(0.02)

    return {"found": 3}


def explode() -> None:
    """Fail with what looks like a script."""
    raise ConnectionError(SCRIPT)


@app.post("/trips")
@durable.endpoint(retry=Retry(6, initial=0.3, factor=4, jitter=0))
def book_trip() -> dict[str, t.Any]:
    """Reserve one after the other and side by side, charge, rest, confirm."""
    flight = step.run("reserve-flight", work, 0.22, seat="14A", flight="FD 101")
    step.parallel(
        lambda: step.run("reserve-hotel", work, 0.5, room="404"),
        lambda: step.run("reserve-car", work, 0.3, car="compact"),
        lambda: step.run("insure-trip", work, 0.72, policy="P-7"),
    )
    payment = step.run("charge-card", charge, 84_000)
    step.sleep("grace-period", 2)
    step.run("send-confirmation", work, 0.1, sent=True)
    return {"status": "booked", "flight": flight, "payment": payment}


@app.post("/talks")
@durable.endpoint
def talk() -> dict[str, t.Any]:
    """Say a lot before a search, and a last word after it."""
    for number in range(40):
        step.progress(f"line {number}")

    found = step.run("search", search)
    step.progress("the last word")
    step.sleep("rest", 3600)
    return found


@app.post("/refunds")
@durable.endpoint(retry=Retry(2, initial=0.1))
def refund() -> dict[str, t.Any]:
    """Give money back, if the bank is there."""
    step.run("find-payment", work, 0.05, payment="pay_81f3")
    return {"refund": step.run("refund-payment", pay_back)}


def pay_back() -> str:
    """Fail while the bank is away."""
    if AWAY.exists():
        raise ConnectionError("bank.example did not answer within 100 ms")

    return "re_55a1"


@app.post("/searches")
@durable.endpoint
def search_flights() -> dict[str, t.Any]:
    """Search for as long as the test says, then wait for a person."""
    found = step.run("search", search)
    step.wait_for_event("choice", "chosen", timeout=3600)
    return {"found": found}


def evil() -> t.Any:
    """Have names and an error that look like scripts."""
    step.run(SCRIPT, work, 0, html=SCRIPT)
    step.run("explode", explode)


view = durable.endpoint(retry=Retry(1))(evil)
app.add_url_rule("/evil", SCRIPT, view, methods=["POST"])
