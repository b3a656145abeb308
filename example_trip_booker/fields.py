"""Reads the fields of requests, and answers 400 if they are not as they must be."""

from __future__ import annotations

import typing as t

from flask import abort
from flask import request

TRIP = ("origin", "destination", "date")
CABINS = ("economy", "business")


def json_fields(*names: str) -> list[t.Any]:
    """Return fields of the request's JSON object; answer 400 if one is missing."""
    body = request.get_json()
    missing = [name for name in names if not isinstance(body, dict) or name not in body]

    if missing:
        abort(400, f"The JSON body lacks: {', '.join(missing)}.")

    return [body[name] for name in names]


def trip_fields() -> dict[str, str]:
    """Return the requested trip, from the query or from the JSON body."""
    if request.method == "GET":
        asked: t.Any = request.args
        values: list[t.Any] = [request.args[name] for name in TRIP]
    else:
        values = json_fields(*TRIP)
        asked = request.get_json()

    trip: dict[str, t.Any] = dict(zip(TRIP, values, strict=True))

    if "cabin" in asked:
        trip["cabin"] = asked["cabin"]

    if trip.get("cabin", CABINS[0]) not in CABINS:
        abort(400, f"There is no such cabin. Choose one of: {', '.join(CABINS)}.")

    if not all(isinstance(value, str) for value in trip.values()):
        abort(400, f"Strings are expected for: {', '.join(trip)}.")

    return trip
