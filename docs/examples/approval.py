"""Waiting: a manager approves by a form, a bank tells by an event."""

import datetime as dt

from flask import abort
from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import CallbackConflict
from flask_durable import CallbackGone
from flask_durable import ExecutionNotFound
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable import WaitTimeoutError

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
# Links are mailed: they may lead to no host but ours.
app.config["TRUSTED_HOSTS"] = ["localhost", "127.0.0.1"]
app.config.from_prefixed_env()
durable = FlaskDurable(app)


FORM = """
<form method="post">
  <input name="name" placeholder="Your name" required>
  <button name="answer" value="yes">Yes</button>
  <button name="answer" value="no">No</button>
</form>
"""


def mail(to, text):
    print(f"to {to}: {text}", flush=True)


@app.post("/expenses")
@durable.endpoint
def expense():
    claim = request.get_json()
    approval = step.callback("approve")
    link = f"{request.url_root}approvals/{approval.token}"
    step.run("ask", mail, claim["manager"], f"{claim['what']}: {link}")

    try:
        answer = approval.wait(timeout=dt.timedelta(days=3))
    except WaitTimeoutError:
        return jsonify(error="Nobody has answered."), 504

    if not answer["ok"]:
        return jsonify(error=f"{answer['by']} says no."), 403

    paid = step.wait_for_event("paid", "expense-paid", key=claim["number"])
    return jsonify(approved_by=answer["by"], paid_on=paid["date"])


@app.get("/approvals/<token>")
def form(token):
    return FORM


@app.post("/approvals/<token>")
def approve(token):
    answer = {"ok": request.form["answer"] == "yes", "by": request.form["name"]}

    try:
        durable.complete_callback(token, answer)
    except ExecutionNotFound:
        abort(404)
    except CallbackConflict:
        return "It was answered before.", 409
    except CallbackGone:
        return "It is too late.", 410

    return "Thank you."


@app.post("/bank")
def bank():
    """The bank's webhook; it may send each message several times."""
    message = request.get_json()
    durable.send_event(
        "expense-paid",
        key=message["reference"],
        data={"date": message["date"]},
        dedup=message["id"],
    )
    return "", 204
