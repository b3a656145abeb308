"""The benchmarks' endpoints, durable."""

from __future__ import annotations

from flask import Flask

from flask_durable import FlaskDurable
from flask_durable import step

from .work import STEPS
from .work import work

app = Flask(__name__)
app.config.from_prefixed_env()
durable = FlaskDurable(app)


@app.post("/four")
@durable.endpoint
def four() -> list[dict[str, object]]:
    """Do the work in four steps."""
    return [step.run(name, work, name) for name in STEPS]


@app.post("/none")
@durable.endpoint
def none() -> dict[str, object]:
    """Do nothing in steps."""
    return work("none")


@app.post("/nap/<float:seconds>")
@durable.endpoint
def nap(seconds: float) -> dict[str, object]:
    """Sleep, and then do one step."""
    step.sleep("nap", seconds)
    return step.run("work", work, "work")
