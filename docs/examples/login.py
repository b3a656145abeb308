"""A durable view behind a login that may expire before the view is done."""

from flask import Flask
from flask import jsonify
from flask import request
from flask_login import current_user
from flask_login import login_required
from flask_login import login_user
from flask_login import LoginManager
from flask_login import UserMixin

from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)
login_manager = LoginManager(app)


class User(UserMixin):
    def __init__(self, id):
        self.id = id


@login_manager.user_loader
def load_user(user_id):
    return User(user_id)


@login_manager.request_loader
def load_user_of_replay(request):
    replay = durable_replay()

    if replay is None or replay.identity is None:
        return None

    return load_user(replay.identity)


@app.post("/login")
def login():
    login_user(User(request.form["name"]))
    return "welcome"


@app.post("/orders")
@login_required
@durable.endpoint
def order():
    number = step.run("place", place_order, current_user.id)
    step.sleep("cooling-off", 2)
    step.run("ship", ship, number)
    return jsonify(number=number, customer=current_user.id)


def place_order(customer):
    return f"{customer}-1"


def ship(number):
    print(f"shipping {number}", flush=True)
