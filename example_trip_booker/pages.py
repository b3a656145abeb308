"""The main page, what the providers recorded, and the button that kills a server."""

from __future__ import annotations

import datetime
import pathlib
import typing as t

from flask import Blueprint
from flask import jsonify
from flask import render_template
from flask import request
from flask.typing import ResponseReturnValue

from . import failures
from . import ledger
from . import trips
from .source import read_source

pages = Blueprint("pages", __name__)

FLOWS: dict[str, tuple[str, t.Any]] = {
    "trips.book_trip": ("Trip", trips.book_trip),
    "trips.book_package": ("Package", trips.book_package),
    "trips.process": ("Processing", trips.process),
}


@pages.get("/")
def index() -> ResponseReturnValue:
    """Show the page."""
    in_four_weeks = datetime.date.today() + datetime.timedelta(weeks=4)
    return render_template(
        "index.html",
        date=in_four_weeks,
        failures=failures.FLOWS,
        titles={flow: title for flow, (title, _) in FLOWS.items()},
        sources={flow: read_source(view) for flow, (_, view) in FLOWS.items()},
        file=pathlib.Path(trips.__file__).name,
    )


@pages.get("/ledger/<execution>")
def account(execution: str) -> ResponseReturnValue:
    """Answer with all that the providers know of a booking."""
    response = jsonify(ledger.account(execution))
    response.cache_control.no_store = True
    return response


@pages.post("/kill")
def kill() -> ResponseReturnValue:
    """Kill the server that works on a booking: for this example only!

    It accepts only JSON, which a page of another site can't send here.
    """
    execution = request.get_json()["execution"]
    pid = failures.find_server(ledger.last_pid(execution))
    ledger.note_kill(execution, pid, "by your click")
    response = jsonify(pid=pid)
    # After the answer was sent, because it may be this very server.
    response.call_on_close(lambda: failures.kill_process(pid))
    return response
