"""An app with views of mixed shapes; each call of a step's function is written down.

A view answers with its steps and what each call of them gave: a nonce that is
made anew in each call, so that no call can pass for another.
"""

from __future__ import annotations

import collections.abc as cabc
import functools
import logging
import os
import pathlib
import secrets
import time
import typing as t

from flask import Flask
from flask import request

from flask_durable import current_execution
from flask_durable import current_step
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import RetryAfterError
from flask_durable import step
from flask_durable import StepError

from . import ledger
from .shapes import ITEMS
from .shapes import ROUTES

Answer = dict[str, t.Any]

logging.basicConfig(format="%(asctime)s [%(process)d] %(levelname)s %(message)s")
logging.getLogger("flask_durable").setLevel(logging.INFO)

LEDGER = ledger.Ledger(pathlib.Path(ledger.NAME))

SOON = Retry(max_attempts=5, initial=0.1, factor=2.0)
LATER = Retry(max_attempts=5, initial=1.2, factor=1.0)
TWICE = Retry(max_attempts=2, initial=1.2, factor=1.0)

app = Flask("chaos", instance_path=os.path.join(os.getcwd(), "instance"))
app.config.from_prefixed_env()
durable = FlaskDurable(app)


class BankError(Exception):
    """The bank is down for a while."""


def call(fails: int = 0, error: cabc.Callable[[str], Exception] = BankError) -> str:
    """Take a while, fail on purpose in the first tries, and give a nonce."""
    nonce = secrets.token_hex(8)
    LEDGER.begin(
        execution=current_execution.id,
        step=current_step.id,
        attempt=current_execution.attempt,
        tries=current_step.attempt,
        nonce=nonce,
    )
    time.sleep(request.get_json()["seconds"])

    if current_step.attempt <= fails:
        LEDGER.end(nonce, "raised")
        raise error(nonce)

    LEDGER.end(nonce, "returned")
    return nonce


def run(*names: str) -> Answer:
    """Run steps one after the other."""
    return {name: step.run(name, call) for name in names}


@app.errorhandler(StepError)
def step_failed(error: StepError) -> tuple[Answer, int]:
    """Answer for a step that nobody caught."""
    return {error.step: error.error_message}, 502


@app.post(f"{ROUTES}sequential")
@durable.endpoint
def sequential() -> Answer:
    """Take five steps."""
    return run("a", "b", "c", "d", "e")


@app.post(f"{ROUTES}parallel")
@durable.endpoint
def parallel() -> Answer:
    """Take steps in branches, some within branches of branches."""

    def hotel() -> Answer:
        inner, outer = step.parallel(lambda: run("inner"), lambda: run("outer"))
        return {**inner, **outer}

    branches = step.parallel(
        lambda: run("flight"), hotel, lambda: run("car", "insurance")
    )
    done = {name: nonce for branch in branches for name, nonce in branch.items()}
    return done | run("confirm")


@app.post(f"{ROUTES}map", endpoint="map")
@durable.endpoint
def map_items() -> Answer:
    """Take a step for each item; every third one is tried again soon."""
    done = run("before")
    again = step.options(retry=SOON)
    nonces = again.map("item", lambda n: call(1 - n % 3), range(ITEMS))
    return done | {f"item[{n}]": nonces[n] for n in range(ITEMS)} | run("after")


@app.post(f"{ROUTES}sleeping")
@durable.endpoint
def sleeping() -> Answer:
    """Sleep twice."""
    done = run("a")
    step.sleep("nap", 0.6)
    done |= run("b")
    step.sleep("rest", 1.7)
    return done | run("c")


@app.post(f"{ROUTES}retrying")
@durable.endpoint
def retrying() -> Answer:
    """Have a step that is tried again within the attempt."""
    done = run("a")
    done["pay"] = step.options(retry=SOON).run("pay", call, 2)
    return done | run("b")


@app.post(f"{ROUTES}later")
@durable.endpoint
def later() -> Answer:
    """Have steps whose tries are too far apart to wait for."""
    busy = functools.partial(RetryAfterError, 1.3)
    done = run("a")
    done["pay"] = step.options(retry=LATER).run("pay", call, 2)
    done["ship"] = step.options(retry=SOON).run("ship", call, 1, busy)
    return done | run("b")


@app.post(f"{ROUTES}crowded")
@durable.endpoint
def crowded() -> Answer:
    """Have one branch that ends, one that is tried again and one that sleeps."""

    def hotel() -> Answer:
        return {"hotel": step.options(retry=LATER).run("hotel", call, 1)}

    def guide() -> Answer:
        done = run("early")
        step.sleep("doze", 0.9)
        return done | run("late")

    branches = step.parallel(lambda: run("flight"), hotel, guide)
    done = {name: nonce for branch in branches for name, nonce in branch.items()}
    return done | run("confirm")


@app.post(f"{ROUTES}stumbling")
@durable.endpoint(retry=Retry(initial=0.5))
def stumbling() -> Answer:
    """Raise outside of the steps in the first attempt."""
    done = run("a")

    if current_execution.attempt == 1:
        raise RuntimeError("stumbled")

    return done | run("b")


@app.post(f"{ROUTES}compensating")
@durable.endpoint
def compensating() -> tuple[Answer, int]:
    """Undo what was done when a step fails for good."""
    done = run("reserve")

    try:
        step.run("pay", call, 1, NonRetryableError)
    except StepError as error:
        done["pay"] = error.error_message

    return done | run("undo"), 402


@app.post(f"{ROUTES}refused")
@durable.endpoint
def refused() -> Answer:
    """Fail at once."""
    return run("a") | {"pay": step.run("pay", call, 1, NonRetryableError)}


@app.post(f"{ROUTES}exhausted")
@durable.endpoint
def exhausted() -> Answer:
    """Fail when all tries are used up."""
    return run("a") | {"pay": step.options(retry=TWICE).run("pay", call, 9)}
