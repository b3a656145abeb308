"""The shop on one of several machines, with a view that says where its steps ran."""

from __future__ import annotations

import os
import pathlib
import time

from flask_durable import step

from .shop import app
from .shop import call
from .shop import durable

__all__ = ["app"]

MACHINE = os.environ["MACHINE"]

GO_ON = pathlib.Path("go-on")
"""Held steps of this machine end when this file is there."""


@app.post("/held")
@durable.endpoint
def held() -> list[str]:
    """Take three steps, the second of which is held."""
    return [
        step.run("first", run, "first"),
        step.run("held", hold, "held"),
        step.run("last", run, "last"),
    ]


def run(name: str) -> str:
    """Name this machine."""
    call(name)
    return f"{name} by {MACHINE}"


def hold(name: str) -> str:
    """Wait until this machine's steps may end."""
    call(name)

    while not GO_ON.exists():
        time.sleep(0.02)

    return f"{name} by {MACHINE}"
