"""A durable view with a form whose CSRF token may expire before the view is done."""

from flask import Flask
from flask import g
from flask import render_template_string
from flask_wtf import FlaskForm
from wtforms import StringField

from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)


class OrderForm(FlaskForm):
    item = StringField()


@app.before_request
def trust_replays():
    if durable_replay() is not None:
        g.csrf_valid = True


@app.get("/")
def show_form():
    return render_template_string(
        """
        <form action="/orders" method="post">
          {{ form.hidden_tag() }} {{ form.item() }} <button>Order</button>
        </form>
        """,
        form=OrderForm(),
    )


@app.post("/orders")
@durable.endpoint
def order():
    form = OrderForm()

    if not form.validate_on_submit():
        return form.errors, 400

    number = step.run("place", place_order, form.item.data)
    step.sleep("cooling-off", 2)
    return f"Order {number} is on its way."


def place_order(item):
    return f"{item}-1"
