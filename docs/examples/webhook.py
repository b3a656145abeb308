"""A webhook whose sender signs it, and repeats it until it is answered 2xx."""

import hmac

from flask import abort
from flask import Flask
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config["WEBHOOK_SECRET"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)


def signed_id():
    """Give the event's id, which anybody could guess, if the sender signed it."""
    secret = app.config["WEBHOOK_SECRET"].encode()
    expected = hmac.new(secret, request.get_data(), "sha256").hexdigest()
    signature = request.headers.get("X-Signature", "")

    if not hmac.compare_digest(signature.encode(), expected.encode()):
        abort(401)

    return request.json["id"]


@app.post("/hooks/paid")
@durable.endpoint(idempotency=signed_id)
def paid():
    step.progress("shipping", event=request.json["id"])
    step.run("ship", ship, request.json["order"])
    return "", 204


def ship(order):
    print(f"shipping {order}", flush=True)
