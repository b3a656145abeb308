"""The page, and where it finds a booking again.

A browser whose server is killed has lost its answer. So the page makes up a reference
and sends it along (``?reference=…``), and the view writes down under it where to look.
"""

from __future__ import annotations

import datetime
import typing as t

from flask import abort
from flask import Blueprint
from flask import jsonify
from flask import redirect
from flask import render_template
from flask import request
from flask.typing import ResponseReturnValue

from flask_durable import current_execution

from . import failures
from . import ledger
from .database import database

pages = Blueprint("pages", __name__)

TABLES = """
CREATE TABLE IF NOT EXISTS bookings (
    reference TEXT PRIMARY KEY,
    flow TEXT NOT NULL,
    failure TEXT NOT NULL,
    execution TEXT NOT NULL,
    status_url TEXT NOT NULL
);
"""


TITLES = {
    "trips.book_trip": "Trip",
    "trips.book_package": "Package",
    "trips.process": "Processing",
}


def remember(status_url: str) -> None:
    """Write down where the running execution can be watched.

    Each attempt of the view does so again. A second execution with the same reference
    books nothing and is sent to the first: browsers repeat a request by themselves when
    its connection breaks.
    """
    failure = failures.chosen()
    reference = request.args.get("reference")
    if not reference:
        return
    row = [reference, request.endpoint, failure.name, current_execution.id, status_url]
    with database("bookings") as db:
        db.execute("INSERT OR IGNORE INTO bookings VALUES (?, ?, ?, ?, ?)", row)
        found = db.execute("SELECT * FROM bookings WHERE reference = ?", [reference])
        first = found.fetchone()
    if first["execution"] != current_execution.id:
        abort(redirect(first["status_url"], 303))


def json_fields(*names: str) -> list[t.Any]:
    """Give fields of the request's JSON object; one that lacks is answered 400."""
    body = request.get_json()
    missing = [name for name in names if not isinstance(body, dict) or name not in body]
    if missing:
        abort(400, f"The JSON body lacks: {', '.join(missing)}.")
    return [body[name] for name in names]


@pages.get("/")
def index() -> ResponseReturnValue:
    """Show the page."""
    in_four_weeks = datetime.date.today() + datetime.timedelta(weeks=4)
    return render_template(
        "index.html",
        date=in_four_weeks,
        flows=failures.FLOWS,
        recent=list_recent(),
        titles=TITLES,
    )


def list_recent() -> list[dict[str, str]]:
    """Give the last bookings, newest first, each with a title to know it by."""
    with database("bookings") as db:
        query = "SELECT * FROM bookings ORDER BY rowid DESC LIMIT 5"
        rows = db.execute(query).fetchall()
    titles = {
        failure.name: failure.title
        for choices in failures.FLOWS.values()
        for failure in choices
    }

    def title(name: str) -> str:
        return titles.get(name, name)

    return [
        {
            "reference": row["reference"],
            "title": f"{TITLES[row['flow']]}: {title(row['failure'])}",
        }
        for row in rows
    ]


@pages.get("/bookings/<path:reference>")
def booking(reference: str) -> ResponseReturnValue:
    """Tell where a booking can be watched, and what the providers know of it."""
    with database("bookings") as db:
        found = db.execute("SELECT * FROM bookings WHERE reference = ?", [reference])
        row = found.fetchone()
    if row is None:
        return jsonify(reference=reference, status_url=None)
    response = jsonify(**row, **ledger.account(row["execution"]))
    response.cache_control.no_store = True
    return response
