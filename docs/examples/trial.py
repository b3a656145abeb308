"""Timers: a trial that ends on a given day, with a reminder before."""

import datetime as dt

from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)


def begin(email):
    return {"email": email, "ends": dt.datetime.now(dt.UTC) + dt.timedelta(days=30)}


def send(email, text):
    print(f"to {email}: {text}", flush=True)


@app.post("/trials")
@durable.endpoint
def start_trial():
    trial = step.run("begin", begin, request.json["email"])

    step.sleep("first-week", dt.timedelta(days=7))
    step.run("ask", send, trial["email"], "How do you like it?")

    step.sleep_until("last-day", trial["ends"] - dt.timedelta(days=1))
    step.run("remind", send, trial["email"], "Your trial ends tomorrow.")

    return jsonify(ended=trial["ends"].isoformat())
