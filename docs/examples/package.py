"""Steps at once: a flight, a hotel and a car; then a letter to each traveller."""

from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)


def book(kind, name):
    return f"{kind} {name} is booked"


def write_to(traveller):
    return f"letter to {traveller}"


@app.post("/packages")
@durable.endpoint
def book_package():
    wanted = request.get_json()

    flight, hotel, car = step.parallel(
        lambda: step.run("flight", book, "flight", wanted["flight"]),
        lambda: step.run("hotel", book, "hotel", wanted["hotel"]),
        lambda: step.run("car", book, "car", wanted["car"]),
    )
    letters = step.map("letter", write_to, wanted["travellers"])

    return jsonify(bookings=[flight, hotel, car], letters=letters)
