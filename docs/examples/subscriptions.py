"""A subscription: pay, wait for a person's approval, remind a week later."""

import datetime as dt

from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable import StepError

durable = FlaskDurable()


def charge(card, amount):
    return {"receipt": f"{card}-{amount}"}


def refund(receipt):
    print(f"refunding {receipt}", flush=True)


def ask(manager, link):
    print(f"to {manager}: {link}", flush=True)


def mail(to, text):
    print(f"to {to}: {text}", flush=True)


def create_app(**config):
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "dev"
    app.config.from_mapping(config)
    durable.init_app(app)
    app.add_url_rule("/subscriptions", view_func=subscribe, methods=["POST"])
    return app


@durable.endpoint
def subscribe():
    order = request.get_json()
    step.run("welcome", mail, order["email"], "Welcome!")

    try:
        payment = step.run("charge", charge, order["card"], 20)
    except StepError:
        step.run("sorry", mail, order["email"], "Your card could not be charged.")
        return jsonify(error="not paid"), 402

    approval = step.callback("approval")
    step.run("ask", ask, order["manager"], approval.url)

    if not approval.wait()["ok"]:
        step.run("refund", refund, payment["receipt"])
        return jsonify(error="not approved"), 403

    step.sleep("first-week", dt.timedelta(days=7))
    step.run("remind", mail, order["email"], "How was the first week?")
    return jsonify(payment), 201
