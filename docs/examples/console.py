from flask import Flask
from flask import Request
from flask import session

from flask_durable import ConsoleAccess
from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
durable = FlaskDurable(app)


@durable.console_auth
def may_look(request: Request):
    if session.get("role") == "admin":
        return True

    if session.get("role") == "support":
        return ConsoleAccess(view=True, data=False, act=True)

    return False


@app.post("/orders")
@durable.endpoint
def order():
    return {"number": step.run("reserve", lambda: "A-1")}
