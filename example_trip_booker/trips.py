"""The three durable views.

Each reads like an ordinary view. Two things make it durable: ``@durable.endpoint``, and
that all calls to the outside world are steps. A completed step is never run again, even
if servers are killed in between.
"""

from __future__ import annotations

from flask import Blueprint
from flask import jsonify
from flask.typing import ResponseReturnValue

from flask_durable import Retry
from flask_durable import step
from flask_durable import StepError

from . import failures
from . import manager
from .extensions import durable
from .fields import json_fields
from .fields import trip_fields
from .providers import agency
from .providers import airline
from .providers import bank
from .providers import cars
from .providers import hotel
from .providers import machine
from .providers import mailer
from .providers import registry

trips = Blueprint("trips", __name__, url_prefix="/api")
trips.before_request(failures.check_choice)

PATIENCE = Retry(max_attempts=4, initial=0.5, factor=6.0, maximum=5.0, jitter=0.0)
"""Try again after 0.5 s, in the request; then after 3 s and 5 s, without a thread."""

FREE_LIMIT = 1000
"""Dollars that may be spent without asking the manager."""


@trips.route("/book-trip", methods=["GET", "POST"])
@durable.endpoint(retry=PATIENCE)
def book_trip() -> ResponseReturnValue:
    """Find a flight, reserve a seat, get approval if needed, pay, confirm."""
    trip = trip_fields()

    flights = step.run("search-availability", airline.search, **trip)
    best = min(flights, key=lambda flight: flight["price"])
    price = best["price"]
    seat = step.run("reserve-flight", airline.reserve, best["flight"], "14A")

    try:
        if price > FREE_LIMIT:
            approval = step.callback("approval")
            step.run("ask-manager", manager.ask, approval.token, trip, price)
            decision = approval.wait(timeout=manager.PATIENCE)
            manager.insist_on_approval(decision)

        payment = step.run("process-payment", bank.charge, price, seat["pnr"])
    except (StepError, manager.Declined) as error:
        step.run("release-flight", airline.release, seat["pnr"])
        return jsonify(success=False, **reason(error)), 402

    confirmation = step.run("confirm-booking", mailer.confirm, seat, payment)

    return jsonify(
        success=True,
        trip=trip,
        reservation=seat,
        payment=payment,
        confirmation=confirmation,
    )


@trips.post("/book-package")
@durable.endpoint(retry=PATIENCE)
def book_package() -> ResponseReturnValue:
    """Book flight, hotel and car in parallel, then send one confirmation."""
    flight_id, hotel_id, car_id = json_fields("flightId", "hotelId", "carId")

    try:
        flight, room, car = step.parallel(
            lambda: step.run("book-flight", airline.book, flight_id),
            lambda: step.run("book-hotel", hotel.book, hotel_id),
            lambda: step.run("book-car", cars.book, car_id),
        )
    except StepError as error:
        step.run("cancel-bookings", agency.cancel, flight_id, hotel_id, car_id)
        return jsonify(success=False, **reason(error)), 409

    bookings = {"flight": flight, "hotel": room, "car": car}
    step.run("send-confirmation", mailer.send, bookings)

    return jsonify(success=True, bookings=bookings)


@trips.post("/process")
@durable.endpoint(retry=PATIENCE)
def process() -> ResponseReturnValue:
    """Enrich a user's data, process it, and notify the user."""
    user_id, data = json_fields("userId", "data")

    enriched = step.run("enrich-data", registry.enrich, user_id, data)
    result = step.run("process", machine.process, enriched)
    step.run("notify", mailer.notify, user_id, result)

    return jsonify(success=True, result=result)


def reason(error: StepError | manager.Declined) -> dict[str, str]:
    """Return the name of the step that failed, and why."""
    return {"step": error.step, "error": error.error_message}
