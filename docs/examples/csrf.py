"""A durable form behind CSRF tokens that may expire before the view is done."""

from flask import Flask
from flask import g
from flask import render_template_string
from flask import request
from flask_wtf.csrf import CSRFProtect

from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config["WTF_CSRF_CHECK_DEFAULT"] = False
app.config.from_prefixed_env()
durable = FlaskDurable(app)
csrf = CSRFProtect(app)


@app.before_request
def check_csrf():
    if durable_replay() is None:
        csrf.protect()
    else:
        g.csrf_valid = True


@app.get("/")
def form():
    return render_template_string(
        """
        <form action="/orders" method="post">
          <input type="hidden" name="csrf_token" value="{{ csrf_token() }}">
          <input name="item">
          <button>Order</button>
        </form>
        """
    )


@app.post("/orders")
@durable.endpoint
def order():
    number = step.run("place", place_order, request.form["item"])
    step.sleep("cooling-off", 2)
    step.run("ship", ship, number)
    return f"Order {number} is on its way."


def place_order(item):
    return f"{item}-1"


def ship(number):
    print(f"shipping {number}", flush=True)
