"""An app factory, a blueprint, a class-based view, and the app's own database."""

from flask import Blueprint
from flask import Flask
from flask import jsonify
from flask import request
from flask.views import MethodView
from flask_sqlalchemy import SQLAlchemy

from flask_durable import FlaskDurable
from flask_durable import step

db = SQLAlchemy()
durable = FlaskDurable(engine=lambda: db.engine)
notes = Blueprint("notes", __name__)


class Note(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    text = db.Column(db.Text, nullable=False)


def add_note(text):
    note = Note(text=text)
    db.session.add(note)
    db.session.commit()
    return note.id


class Notes(MethodView):
    @durable.endpoint
    def post(self):
        number = step.run("add", add_note, request.json["text"])
        step.sleep("reading", 1)
        note = db.session.get_one(Note, number)
        return jsonify(id=note.id, text=note.text)


notes.add_url_rule("/notes", view_func=Notes.as_view("notes"))


def create_app():
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "dev"
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///notes.db"
    app.config.from_prefixed_env()
    db.init_app(app)
    durable.init_app(app)
    app.register_blueprint(notes)

    with app.app_context():
        db.create_all()

    return app
