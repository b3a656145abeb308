"""A durable view behind API tokens that may be revoked before the view is done."""

from flask import abort
from flask import Flask
from flask import g
from flask import jsonify
from flask import request

from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)

tokens = {"t-1": "ada"}


@app.before_request
def find_account():
    if request.blueprint == "durable":
        return  # status and response: who has the link may look

    if replay := durable_replay():
        g.account = replay.identity
        return

    g.account = tokens.get(request.headers.get("X-Token", ""))

    if g.account is None:
        abort(401)


@durable.identity
def account():
    return g.account


def make_report(account):
    return f"report for {account}"


@app.post("/reports")
@durable.endpoint
def report():
    step.sleep("at-night", 2)
    return jsonify(step.run("make", make_report, g.account))
