"""An exception of the app's own, with an error handler, that is no reason to retry."""

from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step


class InvalidAPIUsage(Exception):
    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


def is_worth_another_try(error):
    return not isinstance(error, InvalidAPIUsage)


app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config["DURABLE_RETRY"] = Retry(on=is_worth_another_try)
app.config.from_prefixed_env()
durable = FlaskDurable(app)


@app.errorhandler(InvalidAPIUsage)
def show_invalid_usage(error):
    return jsonify(message=str(error)), error.status


def count_stock(item):
    return {"lamp": 3}.get(item, 0)


@app.post("/orders")
@durable.endpoint
def order():
    item = request.json["item"]

    if step.run("count", count_stock, item) == 0:
        raise InvalidAPIUsage(f"There is no {item} left.", 409)

    return jsonify(number=step.run("place", place_order, item))


def place_order(item):
    return f"{item}-1"
