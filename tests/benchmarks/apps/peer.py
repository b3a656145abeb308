"""The benchmarks' endpoint as a view that calls a workflow of DBOS."""

from __future__ import annotations

import os

from dbos import DBOS
from flask import Flask

from .work import STEPS
from .work import work

app = Flask(__name__)
DBOS(
    config={
        "name": "benchmark",
        "system_database_url": os.environ["BENCHMARK_DATABASE"],
        "log_level": "ERROR",
    }
)


@DBOS.step()
def one(name: str) -> dict[str, object]:
    """Do the work of a step."""
    return work(name)


@DBOS.workflow()
def steps() -> list[dict[str, object]]:
    """Do the work in four steps."""
    return [one(name) for name in STEPS]


@app.post("/four")
def four() -> list[dict[str, object]]:
    """Run the workflow to its end."""
    return steps()


@app.post("/none")
def none() -> dict[str, object]:
    """Do nothing in steps."""
    return work("none")


DBOS.launch()
