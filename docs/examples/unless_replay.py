"""A durable view behind a decorator that checks a token, which a replay passes."""

import functools

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


def token_required(view):
    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        g.account = tokens.get(request.headers.get("X-Token", ""))

        if g.account is None:
            abort(401)

        return view(*args, **kwargs)

    return wrapper


def unless_replay(decorator):
    """Have a decorator check clients' requests, and let replays pass."""

    def decorate(view):
        checked = decorator(view)

        @functools.wraps(view)
        def wrapper(*args, **kwargs):
            run = checked if durable_replay() is None else view
            return run(*args, **kwargs)

        return wrapper

    return decorate


@durable.identity
def account():
    if replay := durable_replay():
        return replay.identity

    return g.get("account")


def make_report(account):
    return f"report for {account}"


@app.post("/reports")
@unless_replay(token_required)
@durable.endpoint
def report():
    step.sleep("at-night", 2)
    return jsonify(step.run("make", make_report, account()))
