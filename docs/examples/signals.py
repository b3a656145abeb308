import logging

from flask import Flask

from flask_durable import execution_failed
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable import step_completed

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
durable = FlaskDurable(app)


@execution_failed.connect_via(app)
def tell_the_team(sender, execution, duration, **extra):
    logging.error(
        "%s %s failed after %.0f s: %s",
        execution.endpoint,
        execution.id,
        duration,
        execution.error_message,
    )


@step_completed.connect_via(app)
def note_slow_steps(sender, execution, step, duration, **extra):
    if duration > 10:
        logging.warning("Step %s took %.0f s.", step.id, duration)


def charge(amount):
    raise ConnectionError("The bank does not answer.")


@app.post("/payments")
@durable.endpoint
def pay():
    return {"payment": step.run("charge", charge, 120)}
