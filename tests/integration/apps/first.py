"""What a beginner writes; tests copy it, change it, and run it with ``flask run``."""

from __future__ import annotations

import os
import pathlib
import time

from flask import Flask
from flask import request

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step

app = Flask(__name__)
app.secret_key = "dev"
durable = FlaskDurable(app)


def say(word: str) -> str:
    """Write a word down, so that a person sees what was really called."""
    with pathlib.Path("said.txt").open("a") as file:
        file.write(f"{request.args['order']} {word}\n")

    return word


def said(word: str) -> int:
    """Count how often a word was said for this order."""
    lines = pathlib.Path("said.txt").read_text().splitlines()
    return lines.count(f"{request.args['order']} {word}")


def fail_twice() -> str:
    """Work in the third call."""
    say("pay")

    if said("pay") < 3:
        raise ConnectionError("bank is down")

    return "pay"


def take_long() -> str:
    """Take as long as the request says in the first call."""
    say("slow")

    if said("slow") == 1:
        time.sleep(float(request.args["seconds"]))

    return "slow"


@app.get("/")
def index() -> str:
    """Be an ordinary page."""
    return str(os.getpid())


@app.post("/hello")
@durable.endpoint
def hello() -> dict[str, str]:
    """Take two steps."""
    return {"one": step.run("one", say, "one"), "two": step.run("two", say, "two")}


@app.post("/pay")
@durable.endpoint
def pay() -> dict[str, str]:
    """Have a step that fails twice: once is hidden, once takes a while."""
    step.run("reserve", say, "reserve")
    often = step.options(retry=Retry(initial=0.2, factor=6.0))
    return {"paid": often.run("pay", fail_twice)}


@app.post("/slow")
@durable.endpoint
def slow() -> dict[str, str]:
    """Have a slow step."""
    return {"one": step.run("one", say, "one"), "slow": step.run("slow", take_long)}


@app.post("/nap")
@durable.endpoint
def nap() -> dict[str, str]:
    """Sleep for as long as the request says."""
    one = step.run("one", say, "one")
    step.sleep("nap", float(request.args["nap"]))
    slow = step.run("slow", take_long)
    return {"one": one, "slow": slow, "last": step.run("last", say, "last")}
