"""What requests must have in them."""

from __future__ import annotations

import typing as t

from flask import abort
from flask import request

TRIP = ("origin", "destination", "date")
CABINS = ("economy", "business")


def json_fields(*names: str) -> list[t.Any]:
    """Give fields of the request's JSON object; one that lacks is answered 400."""
    body = request.get_json()
    missing = [name for name in names if not isinstance(body, dict) or name not in body]

    if missing:
        abort(400, f"The JSON body lacks: {', '.join(missing)}.")

    return [body[name] for name in names]


def trip_fields() -> dict[str, str]:
    """Give the trip that is asked for, by query or by JSON."""
    asked = request.args if request.method == "GET" else request.get_json()

    if request.method == "GET":
        trip = {name: request.args[name] for name in TRIP}
    else:
        trip = dict(zip(TRIP, json_fields(*TRIP), strict=True))

    if "cabin" in asked:
        trip["cabin"] = asked["cabin"]

    if trip.get("cabin", "economy") not in CABINS:
        abort(400, f"There is no such cabin. Choose one of: {', '.join(CABINS)}.")

    return trip
