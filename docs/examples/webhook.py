"""A webhook whose sender repeats it until it is answered 2xx."""

from flask import Flask
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)


@app.post("/hooks/paid")
@durable.endpoint(idempotency=lambda: request.json["id"])
def paid():
    step.progress("shipping", event=request.json["id"])
    step.run("ship", ship, request.json["order"])
    return "", 204


def ship(order):
    print(f"shipping {order}", flush=True)
