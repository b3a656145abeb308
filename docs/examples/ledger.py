"""Exactly once: a step that commits together with the app's own rows."""

from flask import Flask
from flask import jsonify
from flask import request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import Session

from flask_durable import FlaskDurable
from flask_durable import step


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
durable = FlaskDurable(engine=lambda: db.engine)


class Entry(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str]
    amount: Mapped[int]


def move(connection, giver, taker, amount):
    with Session(connection) as session:
        taken = Entry(account=giver, amount=-amount)
        given = Entry(account=taker, amount=amount)
        session.add_all([taken, given])
        session.commit()
        return given.id


@durable.endpoint
def transfer():
    order = request.get_json()
    entry = step.transaction("move", move, order["from"], order["to"], order["amount"])
    return jsonify(entry=entry)


def create_app():
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "dev"
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///ledger.db"
    app.config.from_prefixed_env()
    db.init_app(app)
    durable.init_app(app)
    app.add_url_rule("/transfers", view_func=transfer, methods=["POST"])

    with app.app_context():
        db.create_all()

    return app
