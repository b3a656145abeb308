"""An app that all kinds of clients talk to; a file counts real calls of steps."""

from __future__ import annotations

import os
import pathlib
import time
import typing as t

from flask import Flask
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step

LEDGER = pathlib.Path("calls.txt")

app = Flask("clients", instance_path=os.path.join(os.getcwd(), "instance"))
app.config.from_prefixed_env()
durable = FlaskDurable(app)


def charge(name: str) -> str:
    """Write down that the function was called, and take a moment."""
    with LEDGER.open("a") as ledger:
        ledger.write(f"{name}\n")

    time.sleep(float(request.args.get("seconds", 0)))
    return name


@app.post("/orders/<name>")
@durable.endpoint
def order(name: str) -> tuple[dict[str, str], int]:
    """Charge once."""
    return {"charged": step.run("charge", charge, name)}, 201


@app.post("/naps/<name>")
@durable.endpoint
def nap(name: str) -> dict[str, str]:
    """Charge, and tell how it gets on, with sleeps in between."""
    step.progress("charging", percent=0)
    charged = step.run("charge", charge, name)
    step.sleep("nap", float(request.args.get("nap", 1)))
    step.progress("charged", percent=100)
    return {"charged": charged}


@app.post("/hooks")
@durable.endpoint(idempotency=lambda: request.get_json()["id"])
def hook() -> tuple[str, int]:
    """Take a webhook: its sender repeats it until it is answered 2xx."""
    event: dict[str, t.Any] = request.get_json()
    step.run("charge", charge, event["id"])
    step.sleep("nap", 1)
    return "", 204


@app.get("/page")
def page() -> str:
    """Be a page that scripts may run on."""
    return "<!doctype html><title>Page</title>"
