"""The world outside: an airline, a bank, a hotel and others, all of them fake.

Each answers after a while, records every call in the ledger, and fails as the visitor
chose. As with real providers, a call that changes something does so once for an
idempotency key: a second call with the same key gets the first answer again.
"""

from __future__ import annotations

import collections.abc as cabc
import functools
import inspect
import secrets
import time
import typing as t

from flask import current_app

from flask_durable import current_step
from flask_durable import step

from . import failures
from . import ledger

P = t.ParamSpec("P")
R = t.TypeVar("R")
Record = dict[str, t.Any]


def answers(
    asking: str, answered: str, *, effect: str | None = None
) -> cabc.Callable[[cabc.Callable[P, R]], cabc.Callable[P, R]]:
    """Make a method a call to a provider.

    :param asking: the progress message before it, with the arguments in braces
    :param answered: the progress message after it, with ``{answer}`` in it
    :param effect: what it does, in a word (``"charged"``); ``None`` if it only reads
    """

    def decorate(method: cabc.Callable[P, R]) -> cabc.Callable[P, R]:
        action = method.__qualname__.lower()
        named = functools.partial(name_arguments, inspect.signature(method))

        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            failures.kill_server_before(current_step.id)
            with ledger.call(action, current_step.idempotency_key) as entry:
                step.progress(asking.format_map(named(*args, **kwargs)))
                time.sleep(current_app.config["TRIP_BOOKER_LATENCY"])
                failures.slow_down(current_step.id)
                failures.fail_call(current_step.id, entry)
                answer = functools.partial(method, *args, **kwargs)
                value = entry.once(effect, answer) if effect else answer()
                failures.kill_server_during(current_step.id)
                step.progress(answered.format(answer=value))
                return value

        return call

    return decorate


def name_arguments(
    signature: inspect.Signature, *args: t.Any, **kwargs: t.Any
) -> dict[str, t.Any]:
    """Return the arguments of a call by name, including defaults."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def new_code(prefix: str = "") -> str:
    """Make up a short code that can be read out on the telephone."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return prefix + "".join(secrets.choice(letters) for _ in range(6))


class Airline:
    """Searches, reserves, books."""

    @answers(
        "asking for {cabin} seats from {origin} to {destination}",
        "3 flights; {answer[1][flight]} costs least, ${answer[1][price]:,}",
    )
    def search(
        self, origin: str, destination: str, date: str, cabin: str = "economy"
    ) -> list[Record]:
        """Find the flights of a day."""
        cheapest = 180 + sum(map(ord, origin + destination)) % 120
        cheapest *= 7 if cabin == "business" else 1
        return [
            {"flight": "FD 100", "departs": f"{date} 07:10", "price": cheapest + 64},
            {"flight": "FD 101", "departs": f"{date} 11:45", "price": cheapest},
            {"flight": "FD 102", "departs": f"{date} 18:30", "price": cheapest + 35},
        ]

    @answers(
        "locking seat {seat} on {flight}",
        "seat {answer[seat]} is held as {answer[pnr]}",
        effect="reserved",
    )
    def reserve(self, flight: str, seat: str) -> Record:
        """Lock a seat."""
        return {"pnr": new_code(), "flight": flight, "seat": seat}

    @answers("giving {pnr} back", "{answer[pnr]} is free again", effect="released")
    def release(self, pnr: str) -> Record:
        """Give a reserved seat back."""
        return {"pnr": pnr}

    @answers("booking {flight_id}", "the ticket is {answer[code]}", effect="booked")
    def book(self, flight_id: str) -> Record:
        """Book a flight."""
        return {"flightId": flight_id, "code": new_code("F-")}


class Bank:
    """Moves money."""

    @answers(
        "charging ${price:,} for {pnr}",
        "${answer[amount]:,} is paid, {answer[payment]}",
        effect="charged",
    )
    def charge(self, price: int, pnr: str) -> Record:
        """Take the money for a reservation."""
        return {"payment": new_code("PAY-"), "amount": price, "pnr": pnr}


class Hotel:
    """Has rooms."""

    @answers(
        "asking {hotel_id} for a room", "the room is {answer[code]}", effect="booked"
    )
    def book(self, hotel_id: str) -> Record:
        """Book a room."""
        return {"hotelId": hotel_id, "code": new_code("H-")}


class Cars:
    """Has cars."""

    @answers("asking for a {car_id} car", "the car is {answer[code]}", effect="booked")
    def book(self, car_id: str) -> Record:
        """Book a car."""
        return {"carId": car_id, "code": new_code("C-")}


class Agency:
    """Cleans up."""

    @answers("cancelling all three", "nothing is booked any more", effect="cancelled")
    def cancel(self, *ids: str) -> list[str]:
        """Cancel those of these that were booked."""
        return list(ids)


class Registry:
    """Knows the users."""

    @answers("looking {user_id} up", "{answer[userId]} is a {answer[tier]} customer")
    def enrich(self, user_id: str, data: t.Any) -> Record:
        """Look up what is known about a user."""
        return {"userId": user_id, "data": data, "tier": "gold"}


class Machine:
    """Does the work."""

    @answers("processing", "processed for {answer[userId]}")
    def process(self, enriched: Record) -> Record:
        """Process enriched data."""
        return {**enriched, "processed": True}


class Mailer:
    """Sends letters."""

    @answers("sending the ticket", "ticket {answer[ticket]} is sent", effect="sent")
    def confirm(self, reservation: Record, payment: Record) -> Record:
        """Send the ticket."""
        return {
            "ticket": new_code("T-"),
            "pnr": reservation["pnr"],
            "payment": payment["payment"],
        }

    @answers("writing one letter", "letter {answer[letter]} is sent", effect="sent")
    def send(self, bookings: Record) -> Record:
        """Send one letter about everything that was booked."""
        return {"letter": new_code("L-"), "about": sorted(bookings)}

    @answers("writing to {user_id}", "letter {answer[letter]} is sent", effect="sent")
    def notify(self, user_id: str, result: Record) -> Record:
        """Tell a user the result."""
        return {"letter": new_code("L-"), "to": user_id}


agency = Agency()
airline = Airline()
bank = Bank()
cars = Cars()
hotel = Hotel()
machine = Machine()
mailer = Mailer()
registry = Registry()
