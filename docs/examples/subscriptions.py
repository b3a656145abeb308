"""A subscription: pay, wait for a person's approval, activate, ask a week later."""

import datetime as dt

from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import current_step
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable import StepError

durable = FlaskDurable()


def pay(card, amount, key):
    return {"receipt": f"{card}-{amount}"}


def refund(receipt):
    print(f"refunding {receipt}", flush=True)


def activate(email):
    print(f"activating {email}", flush=True)


def mail(to, text):
    print(f"to {to}: {text}", flush=True)


def charge(card, amount):
    return pay(card, amount, current_step.idempotency_key)


@durable.endpoint
def subscribe():
    order = request.get_json()
    payment = step.run("charge", charge, order["card"], 20)
    approval = step.callback("approval")
    step.run("ask", mail, order["manager"], approval.url)

    if not approval.wait()["ok"]:
        step.run("refund", refund, payment["receipt"])
        return jsonify(error="not approved"), 403

    try:
        step.run("activate", activate, order["email"])
    except StepError:
        step.run("refund", refund, payment["receipt"])
        return jsonify(error="not available"), 503

    step.sleep("first-week", dt.timedelta(days=7))
    step.run("remind", mail, order["email"], "How was the first week?")
    return jsonify(payment), 201


def create_app(**config):
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "dev"
    app.config.from_mapping(config)
    durable.init_app(app)
    app.add_url_rule("/subscriptions", view_func=subscribe, methods=["POST"])
    return app
