"""The benchmarks' endpoints as plain views, that nothing makes durable."""

from __future__ import annotations

from flask import Flask

from .work import STEPS
from .work import work

app = Flask(__name__)


@app.post("/four")
def four() -> list[dict[str, object]]:
    """Do the work of four steps."""
    return [work(name) for name in STEPS]


@app.post("/none")
def none() -> dict[str, object]:
    """Do nothing in steps."""
    return work("none")
