"""A payment: which errors are worth another try, and how to give back."""

import requests
from flask import current_app
from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import current_step
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import RetryAfterError
from flask_durable import step
from flask_durable import StepError

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config["BANK_URL"] = "https://bank.example/charges"
app.config.from_prefixed_env()
durable = FlaskDurable(app)

PATIENT = Retry(max_attempts=8, initial=1.0, factor=3.0, maximum=600.0)


def charge(card, amount):
    answer = requests.post(
        current_app.config["BANK_URL"],
        json={"card": card, "amount": amount},
        headers={"Idempotency-Key": current_step.idempotency_key},
        timeout=10,
    )

    if answer.status_code == 402:
        raise NonRetryableError("the card was declined")

    if answer.status_code == 429:
        raise RetryAfterError(answer.headers["Retry-After"])

    answer.raise_for_status()
    return answer.json()["id"]


def reserve(item):
    return {"item": item, "price": 120}


def release(reservation):
    print(f"giving {reservation['item']} back", flush=True)


@app.post("/orders")
@durable.endpoint
def order():
    wanted = request.get_json()
    reservation = step.run("reserve", reserve, wanted["item"])

    try:
        payment = step.options(retry=PATIENT).run(
            "charge", charge, wanted["card"], reservation["price"]
        )
    except StepError:
        step.run("release", release, reservation)
        return jsonify(error="The card could not be charged."), 402

    return jsonify(payment=payment)


@app.errorhandler(StepError)
def show_failed_step(error):
    return jsonify(error=f"We could not do this: {error.step}."), 502
