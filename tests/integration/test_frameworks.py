"""Beside other extensions: one SQLite file for all, logins and tokens that expire."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import itertools
import pathlib
import typing as t

import pytest
from flask import Blueprint
from flask import Flask
from flask import render_template_string
from flask import request
from flask import session
from flask.testing import FlaskClient
from flask_login import current_user
from flask_login import login_required
from flask_login import login_user
from flask_login import LoginManager
from flask_login import UserMixin
from flask_sqlalchemy import SQLAlchemy
from flask_wtf.csrf import CSRFProtect

from flask_durable import database
from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable import store

from ..driving import Drive

EXPIRED = dt.timedelta(seconds=-1)

MakeShop = cabc.Callable[[str], Flask]


class Shop:
    """A user's shop: models, views and extensions that serve several apps."""

    def __init__(self) -> None:
        db = self.db = SQLAlchemy()
        self.durable = FlaskDurable(engine=lambda: db.engine)
        self.views = Blueprint("shop", __name__)

        class Order(db.Model):  # type: ignore[name-defined,misc]
            id = db.Column(db.Integer, primary_key=True)
            what = db.Column(db.String, nullable=False)

        self.Order: t.Any = Order

    def add(self, what: str) -> int:
        """Write a row, without a commit."""
        order = self.Order(what=what)
        self.db.session.add(order)
        self.db.session.flush()
        return int(order.id)

    def add_and_commit(self, what: str) -> int:
        """Write a row for good."""
        added = self.add(what)
        self.db.session.commit()
        return added

    def orders(self) -> list[str]:
        """List what was ordered."""
        query = self.db.select(self.Order.what).order_by(self.Order.id)
        return list(self.db.session.scalars(query))


@pytest.fixture
def shop() -> Shop:
    """Make the shop's models and extensions; the test adds views."""
    return Shop()


@pytest.fixture
def make_shop(tmp_path: pathlib.Path, shop: Shop) -> cabc.Iterator[MakeShop]:
    """Make apps, each with one SQLite file for its own tables and the journal."""
    made: list[Flask] = []

    def create_app(name: str) -> Flask:
        app = Flask(name)
        app.config.update(
            PROPAGATE_EXCEPTIONS=False,
            SECRET_KEY=name,
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/{name}.db",
            TESTING=True,
        )
        shop.db.init_app(app)
        shop.durable.init_app(app)
        app.register_blueprint(shop.views)

        with app.app_context():
            shop.db.create_all()

        made.append(app)
        return app

    yield create_app

    for app in made:
        app.extensions["durable"].close()

        with app.app_context():
            shop.db.engine.dispose()


def in_app(app: Flask, ask: cabc.Callable[[], t.Any]) -> t.Any:
    """Ask something in an app's context."""
    with app.app_context():
        return ask()


def test_a_view_that_commits_first_shares_the_file(
    shop: Shop, make_shop: MakeShop
) -> None:
    """View and steps write to the journal's own file, at each attempt."""

    @shop.views.post("/work")
    @shop.durable.endpoint
    def work() -> list[str]:
        shop.add_and_commit("attempt")
        step.run("reserve", shop.add_and_commit, "seat")
        step.sleep("nap", 60)
        shop.add_and_commit("attempt")
        step.run("pay", shop.add_and_commit, "payment")
        return shop.orders()

    app = make_shop("one")
    response = Drive(app).finish(app.test_client().post("/work"))
    assert response.json == ["attempt", "seat", "attempt", "attempt", "payment"]


def test_branches_that_commit_share_the_file(shop: Shop, make_shop: MakeShop) -> None:
    """Each with a session of its own, all at once."""

    @shop.views.post("/work")
    @shop.durable.endpoint
    def work() -> list[str]:
        step.map("add", shop.add_and_commit, [f"seat {n}" for n in range(20)])
        return sorted(shop.orders())

    app = make_shop("one")
    response = app.test_client().post("/work")
    assert response.json == sorted(f"seat {n}" for n in range(20))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a locked file for moments only."""
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr(store, "OUTAGE_PATIENCE", 0.5)


def test_a_view_that_does_not_commit_is_told(
    shop: Shop,
    make_shop: MakeShop,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says what to do, and the client that it isn't known what happened."""
    ran: list[str] = []

    @shop.views.post("/work")
    @shop.durable.endpoint
    def work() -> str:
        shop.add("attempt")
        step.run("reserve", ran.append, "reserve")
        return "done"

    app = make_shop("one")
    response = app.test_client().post("/work")
    assert response.status_code == 503
    assert response.mimetype == "application/problem+json"
    assert "must commit before it calls a step" in caplog.text
    assert ran == ["reserve"]
    assert in_app(app, shop.orders) == []


def test_apps_of_one_factory_keep_their_databases(
    shop: Shop, make_shop: MakeShop
) -> None:
    """The engine is asked for once in each app's own context."""

    @shop.views.post("/work/<what>")
    @shop.durable.endpoint
    def work(what: str) -> list[str]:
        step.run("reserve", shop.add_and_commit, what)
        step.sleep("nap", 60)
        step.run("pay", shop.add_and_commit, f"{what} paid")
        return shop.orders()

    one, two = make_shop("one"), make_shop("two")
    first = one.test_client().post("/work/seat")
    second = two.test_client().post("/work/bed")
    assert Drive(two).finish(second).json == ["bed", "bed paid"]
    assert in_app(one, shop.orders) == ["seat"]
    assert Drive(one).finish(first).json == ["seat", "seat paid"]
    assert in_app(two, shop.orders) == ["bed", "bed paid"]


def test_a_replay_has_a_session_of_its_own(shop: Shop, make_shop: MakeShop) -> None:
    """What its caller has not committed is neither seen nor committed by it."""
    sessions: list[t.Any] = []

    @shop.views.post("/work")
    @shop.durable.endpoint
    def work() -> list[str]:
        sessions.append(shop.db.session())
        step.sleep("nap", 60)
        return shop.orders()

    app = make_shop("one")
    response = app.test_client().post("/work")
    drive = Drive(app)
    drive.advance(61)

    with app.app_context():
        shop.db.session.add(shop.Order(what="never committed"))
        sessions.append(shop.db.session())
        assert drive.run_due() == 1

    assert drive.finish(response).json == []
    assert len({id(each) for each in sessions}) == 3


class User(UserMixin):  # type: ignore[misc]
    """Whoever has this id."""

    def __init__(self, id: str) -> None:
        self.id = id


FORM = """\
<form method="post" action="/trips">
<input name="csrf_token" value="{{ csrf_token() }}"><input name="seat">
</form>
"""


@pytest.fixture
def office(app: Flask, durable: FlaskDurable) -> list[str]:
    """Guard a durable view by a login and a token; give what its hooks did."""
    seen: list[str] = []
    numbers = itertools.count(1)
    login = LoginManager(app)
    csrf = CSRFProtect()
    app.config.update(WTF_CSRF_CHECK_DEFAULT=False)
    csrf.init_app(app)

    @login.user_loader  # type: ignore[untyped-decorator]
    def load(user_id: str) -> User:
        return User(user_id)

    @login.request_loader  # type: ignore[untyped-decorator]
    def load_for_replay(_: object) -> User | None:
        replay = durable_replay()
        return User(replay.identity) if replay and replay.identity else None

    @app.before_request
    def protect() -> None:
        if durable_replay() is None:
            csrf.protect()
        else:
            seen.append("replay")

    @app.get("/login/<user_id>")
    def log_in(user_id: str) -> str:
        session.permanent = True
        login_user(User(user_id))
        return render_template_string(FORM)

    @app.post("/trips")
    @login_required  # type: ignore[untyped-decorator]
    @durable.endpoint
    def book() -> str:
        seat = step.run("reserve", lambda: f"{request.form['seat']}#{next(numbers)}")
        step.sleep("nap", 7200)
        return f"{current_user.get_id()} has {seat}"

    return seen


def test_login_and_token_may_have_expired_at_a_replay(
    app: Flask, office: list[str], client: FlaskClient, drive: Drive
) -> None:
    """The execution goes on as the user who began it, who could not begin another."""
    page = client.get("/login/ann").text
    token = page.partition('value="')[2].partition('"')[0]
    form = {"csrf_token": token, "seat": "14A"}
    response = client.post("/trips", data=form)
    assert response.status_code == 202

    app.permanent_session_lifetime = EXPIRED
    app.config["WTF_CSRF_TIME_LIMIT"] = -1
    assert client.post("/trips", data=form).status_code == 400
    assert drive.finish(response).text == "ann has 14A#1"
    assert office == ["replay"]


def test_a_guard_that_lets_no_replay_pass_is_named(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """With Flask-WTF's own hook an old token is refused, in the end for good."""
    CSRFProtect(app)

    @app.get("/form")
    def form() -> str:
        return render_template_string(FORM)

    @app.post("/trips")
    @durable.endpoint
    def book() -> str:
        step.sleep("nap", 7200)
        return "booked"

    page = client.get("/form").text
    token = page.partition('value="')[2].partition('"')[0]
    response = client.post("/trips", data={"csrf_token": token})
    app.config["WTF_CSRF_TIME_LIMIT"] = -1
    assert drive.finish(response).status_code == 400
    status = drive.status(response)
    assert (status["status"], status["attempt"]) == ("failed", 1)
