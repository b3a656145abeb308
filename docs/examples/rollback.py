"""A step that writes through db.session, and leaves nothing there when it fails."""

from flask import Flask
from flask import jsonify
from flask import request
from flask_sqlalchemy import SQLAlchemy

from flask_durable import FlaskDurable
from flask_durable import step

db = SQLAlchemy()
durable = FlaskDurable(engine=lambda: db.engine)


class Order(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    item = db.Column(db.Text, nullable=False)


def tell_warehouse(order):
    print(f"packing {order.item}", flush=True)


def place_order(item):
    try:
        order = Order(item=item)
        db.session.add(order)
        tell_warehouse(order)
        db.session.commit()
        return order.id
    except BaseException:
        db.session.rollback()
        raise


@durable.endpoint
def order():
    return jsonify(number=step.run("place", place_order, request.json["item"]))


def create_app():
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "dev"
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///orders.db"
    app.config.from_prefixed_env()
    db.init_app(app)
    durable.init_app(app)
    app.add_url_rule("/orders", view_func=order, methods=["POST"])

    with app.app_context():
        db.create_all()

    return app
