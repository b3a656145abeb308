"""A shop that real servers run; a file in its folder counts real calls of steps."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import ctypes
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import typing as t

from flask import Flask
from flask import request

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step

LEDGER = pathlib.Path("ledger.jsonl")

app = Flask("shop", instance_path=os.path.join(os.getcwd(), "instance"))
app.config.from_prefixed_env()
durable = FlaskDurable(app)


def call(name: str) -> str:
    """Write down that a step's function runs, and in which process."""
    line = {
        "order": request.args["order"],
        "name": name,
        "pid": os.getpid(),
        "at": time.monotonic(),
        "execution": current_execution.id,
    }

    with LEDGER.open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")

    return name


def calls(name: str) -> int:
    """Count how often a step's function was called for this order."""
    lines = map(json.loads, LEDGER.read_text().splitlines())
    mine = [line for line in lines if line["order"] == request.args["order"]]
    return sum(line["name"] == name for line in mine)


def call_slowly(name: str) -> str:
    """Take as long as the request says in the first call."""
    call(name)

    if calls(name) == 1:
        time.sleep(float(request.args["seconds"]))

    return name


async def call_async(name: str) -> str:
    """Be an async function."""
    return call(name)


def call_and_die(name: str, times: float) -> str:
    """Kill this process in the first calls."""
    call(name)

    if calls(name) <= times:
        os.kill(os.getpid(), signal.SIGKILL)

    return name


def call_and_fail(name: str, times: int) -> str:
    """Raise in the first calls."""
    call(name)

    if calls(name) <= times:
        raise ConnectionError("bank is down")

    return name


@app.get("/pid")
def pid() -> str:
    """Tell which process answers; nothing durable."""
    time.sleep(0.02)
    return str(os.getpid())


@app.post("/four")
@durable.endpoint
def four() -> list[str]:
    """Take four steps."""
    return [step.run(name, call, name) for name in ("one", "two", "three", "four")]


@app.post("/async")
@durable.endpoint
async def four_async() -> list[str]:
    """Take four steps in an async view, two of them async."""
    done = [step.run(name, call_async, name) for name in ("one", "two")]
    return done + [step.run(name, call, name) for name in ("three", "four")]


@app.post("/async-map")
@durable.endpoint
def async_map() -> list[str]:
    """Run an async function for three items at once."""
    return step.map("wait", wait_async, ["one", "two", "three"])


async def wait_async(name: str) -> str:
    """Wait a little on the event loop."""
    call(name)
    await asyncio.sleep(0.2)
    return name


@app.post("/retry")
@durable.endpoint
def retry() -> list[str]:
    """Have a step that is tried again only in the background."""
    first = step.run("first", call, "first")
    later = step.options(retry=Retry(initial=1.2, jitter=0.0))
    pay = later.run("pay", call_and_fail, "pay", 1)
    return [first, pay, step.run("last", call, "last")]


@app.post("/sleep")
@durable.endpoint
def sleep() -> list[str]:
    """Sleep between two steps, then take as long as the request says."""
    first = step.run("first", call, "first")
    step.sleep("nap", float(request.args.get("nap", "0.5")))
    return [first, step.run("slow", call_slowly, "slow")]


@app.post("/parallel")
@durable.endpoint
def parallel() -> list[str]:
    """Take three steps at once, one of which is tried again later."""
    later = step.options(retry=Retry(initial=1.2, jitter=0.0))
    done = step.parallel(
        lambda: step.run("flight", call, "flight"),
        lambda: later.run("hotel", call_and_fail, "hotel", 1),
        lambda: step.run("car", call_slowly, "car"),
    )
    return [*done, step.run("confirm", call, "confirm")]


@app.post("/slow")
@durable.endpoint
def slow() -> list[str]:
    """Have a slow step between two fast ones."""
    first = step.run("first", call, "first")
    middle = step.run("slow", call_slowly, "slow")
    return [first, middle, step.run("last", call, "last")]


@app.post("/dies")
@durable.endpoint
def dies() -> list[str]:
    """Kill the server in the middle of the second step, once."""
    first = step.run("first", call, "first")
    pay = step.run("pay", call_and_die, "pay", 1)
    return [first, pay, step.run("last", call, "last")]


@app.post("/dies-always")
@durable.endpoint
def dies_always() -> str:
    """Kill the server in each attempt."""
    return step.run("pay", call_and_die, "pay", float("inf"))


@app.post("/gil")
@durable.endpoint
def gil() -> list[str]:
    """Let no other thread of this process run for a while."""
    first = step.run("first", call, "first")
    held = step.run("hold", hold, "hold")
    return [first, held, step.run("last", call, "last")]


def hold(name: str) -> str:
    """Call C without giving the interpreter's lock away."""
    call(name)
    ctypes.PyDLL(None).sleep(int(request.args["seconds"]))
    return name


@app.post("/fork/<how>")
@durable.endpoint
def fork(how: str) -> list[str]:
    """Have a child process made by a step, which ends in one way or another."""
    child = {
        "sys-exit": lambda: fork_child(sys.exit),
        "os-exit": lambda: fork_child(os._exit),
        "multiprocessing": use_multiprocessing,
    }[how]
    first = step.run("first", call, "first")
    made = step.run("fork", make_child, child)
    return [first, made, step.run("last", call, "last")]


def make_child(child: cabc.Callable[[], None]) -> str:
    """Make a child, wait for its end, and take a while after that."""
    call("fork")
    child()
    time.sleep(1.0)
    return "fork"


def fork_child(leave: cabc.Callable[[int], t.NoReturn]) -> None:
    """Fork a child that works a little and leaves."""
    child = os.fork()

    if child == 0:
        time.sleep(0.1)
        leave(0)

    os.waitpid(child, 0)


def use_multiprocessing() -> None:
    """Run a function in a forked child that returns from it."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.1,))
    child.start()
    child.join()
