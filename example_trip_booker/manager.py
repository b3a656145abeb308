"""The manager's page: the trips that wait for an approval, and a form to answer.

The durable view passes the token of its callback to :func:`ask`, and waits. The answer
goes to ``durable.complete_callback`` with that token, and the view goes on.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
import typing as t

from flask import abort
from flask import Blueprint
from flask import redirect
from flask import render_template
from flask import request
from flask import url_for
from flask.typing import ResponseReturnValue

from flask_durable import CallbackError
from flask_durable import current_execution
from flask_durable import ExecutionNotFound
from flask_durable import step

from .database import database
from .extensions import durable

pages = Blueprint("manager", __name__, url_prefix="/manager")

TABLES = """
CREATE TABLE IF NOT EXISTS approvals (
    token TEXT PRIMARY KEY,
    execution TEXT NOT NULL,
    asked_at TEXT NOT NULL,
    origin TEXT NOT NULL,
    destination TEXT NOT NULL,
    date TEXT NOT NULL,
    price INTEGER NOT NULL,
    outcome TEXT,
    note TEXT
);
"""

PATIENCE = dt.timedelta(minutes=3)
"""How long the view waits for the manager; no answer in this time means no."""

LATE = "came too late"


class Declined(Exception):
    """The manager declined the trip."""

    step = "approval"

    def __init__(self, note: str) -> None:
        self.error_message = note or "the manager declines"
        super().__init__(self.error_message)


def ask(token: str, trip: dict[str, str], price: int) -> None:
    """Put a trip on the manager's desk; to ask again changes nothing."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    where = [trip[name] for name in ("origin", "destination", "date")]
    row = [token, current_execution.id, now, *where, price]

    with database("approvals") as db:
        db.execute(
            "INSERT OR IGNORE INTO approvals (token, execution, asked_at, origin,"
            " destination, date, price) VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )

    step.progress(f"${price:,} is over the limit: it is on the manager's desk")


def insist_on_approval(decision: dict[str, t.Any]) -> None:
    """Go on only with a yes.

    :raises Declined: if the manager said no
    """
    if not decision["approved"]:
        raise Declined(decision["note"])


@pages.get("/")
def desk() -> ResponseReturnValue:
    """Show the trips that wait, and the latest decisions."""
    begin = (dt.datetime.now(dt.UTC) - PATIENCE).isoformat(timespec="seconds")
    return render_template(
        "manager.html",
        waiting=find("outcome IS NULL AND asked_at > ? ORDER BY asked_at", begin),
        decided=find("outcome IS NOT NULL ORDER BY rowid DESC LIMIT 5"),
    )


@pages.post("/")
def decide() -> ResponseReturnValue:
    """Hand the manager's answer to the view that waits for it."""
    approved = request.form["answer"] == "approve"
    note = request.form.get("note", "").strip()
    token = request.form["token"]

    try:
        durable.complete_callback(token, {"approved": approved, "note": note})
        outcome = "approved" if approved else "declined"
    except ExecutionNotFound:
        abort(404)
    except CallbackError:
        # The time was over, or another window answered first: the first answer counts.
        outcome = LATE

    with database("approvals") as db:
        db.execute(
            "UPDATE approvals SET outcome = ?, note = ?"
            " WHERE token = ? AND outcome IS NULL",
            [outcome, note, token],
        )

    return redirect(url_for(".desk"), 303)


def find(condition: str, *values: str) -> list[sqlite3.Row]:
    """Read the approvals that meet an SQL condition."""
    with database("approvals") as db:
        query = f"SELECT * FROM approvals WHERE {condition}"
        return db.execute(query, values).fetchall()
