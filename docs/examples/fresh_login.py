"""A durable view behind a fresh login, which may be neither fresh nor valid later."""

from flask import Flask
from flask import jsonify
from flask import request
from flask import session
from flask_login import current_user
from flask_login import fresh_login_required
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


@app.before_request
def log_in_replay():
    replay = durable_replay()

    if replay is None or replay.identity is None:
        return

    user = load_user(replay.identity)

    if user is not None:
        login_user(user)
        session.modified = False  # nobody gets this cookie: no warning is due


@app.post("/login")
def login():
    login_user(User(request.form["name"]))
    return "welcome"


@app.post("/payouts")
@fresh_login_required
@durable.endpoint
def payout():
    step.sleep("cooling-off", 2)
    return jsonify(step.run("pay", pay, current_user.id))


def pay(customer):
    return f"paid to {customer}"
