"""The page, the providers' account of a booking, and the button that kills a server."""

from __future__ import annotations

import datetime
import pathlib
import typing as t

from flask import Blueprint
from flask import current_app
from flask import jsonify
from flask import render_template
from flask import request
from flask import url_for
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
        console=console_url(),
    )


def console_url() -> str | None:
    """Give where the console shows an execution, with ``ID`` in its place, if it is on.

    It is on as soon as the app registers a function by ``@durable.console_auth``.
    """
    if "durable.console_execution" not in current_app.view_functions:
        return None

    return url_for("durable.console_execution", execution_id="ID")


@pages.get("/ledger/<execution>")
def account(execution: str) -> ResponseReturnValue:
    """Tell what the providers know of a booking."""
    response = jsonify(ledger.account(execution))
    response.cache_control.no_store = True
    return response


@pages.post("/kill")
def kill() -> ResponseReturnValue:
    """Kill the server that works for a booking: for this example only!

    It takes JSON alone, which no other site's page can send here.
    """
    execution = request.get_json()["execution"]
    pid = failures.find_server(ledger.last_pid(execution))
    ledger.note_kill(execution, pid, "by your click")
    response = jsonify(pid=pid)
    # Once the answer is out, since it may be this very server.
    response.call_on_close(lambda: failures.kill_process(pid))
    return response
