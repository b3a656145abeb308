"""The app of the quickstart."""

import pathlib

from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable import StepError

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)


def reserve(flight):
    print("reserving a seat", flush=True)
    return {"flight": flight, "seat": "14A", "price": 120}


def release(seat):
    print("giving the seat back", flush=True)


def charge(price):
    print("charging the card", flush=True)

    if pathlib.Path("bank-is-down").exists():
        raise ConnectionError("the bank does not answer")

    return {"paid": price}


def send_ticket(seat):
    print("sending the ticket", flush=True)


@app.post("/trips")
@durable.endpoint
def book():
    seat = step.run("reserve", reserve, request.json["flight"])

    try:
        payment = step.run("charge", charge, seat["price"])
    except StepError:
        step.run("release", release, seat)
        return jsonify(error="The card could not be charged."), 402

    return jsonify(seat=seat, payment=payment)


@app.post("/tickets")
@durable.endpoint
def order_ticket():
    seat = step.run("reserve", reserve, request.json["flight"])
    step.sleep("check-in-opens", 20)
    step.run("send", send_ticket, seat)
    return jsonify(seat=seat)
