"""The extension: options, engines, threads, the journal's place."""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import stat
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import current_app
from flask import Flask
from flask.views import MethodView

from flask_durable import ConfigError
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable.dispatch_thread import ThreadDispatcher
from flask_durable.extension import start_all
from flask_durable.state import get_state
from flask_durable.state import opened_state


class MakeApp(t.Protocol):
    """How a test makes an app of its own."""

    def __call__(self, **config: t.Any) -> Flask: ...


@pytest.fixture
def make_app(tmp_path: pathlib.Path) -> cabc.Iterator[MakeApp]:
    """Make apps without the extension; what is set up on them is closed."""
    made: list[Flask] = []

    def make(**config: t.Any) -> Flask:
        app = Flask(f"app-{len(made)}", instance_path=str(tmp_path / "instance"))
        app.config.update({"SECRET_KEY": "tests", "TESTING": True} | config)
        made.append(app)
        return app

    yield make

    for app in made:
        if "durable" in app.extensions:
            get_state(app).close()


def replay_threads() -> int:
    """Count the threads that replay."""
    names = [one.name for one in threading.enumerate()]
    return sum(name.startswith("flask_durable.replay") for name in names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pending": "wait"}, ValueError, 'pending is "accepted" or "redirect", not'),
        ({"pending": True}, ValueError, "not True"),
        ({"retry": 3}, TypeError, "retry must be a Retry, such as Retry.3., not 3"),
        ({"retry": {"max_attempts": 3}}, TypeError, "retry must be a Retry"),
        ({"retry": Retry}, TypeError, "retry must be a Retry"),
        ({"max_request_bytes": 0}, ValueError, "max_request_bytes must be at least 1"),
        ({"max_request_bytes": -1}, ValueError, "max_request_bytes must be at least"),
        ({"max_request_bytes": "9"}, TypeError, "max_request_bytes is a whole .* '9'"),
        ({"deadline": "9"}, TypeError, "deadline .* seconds or a timedelta, not '9'"),
        ({"retries": 3}, TypeError, "retries"),
    ],
)
def test_a_wrong_option_is_refused(
    options: dict[str, t.Any], error: type[Exception], message: str
) -> None:
    """Where the view is defined, not at its first request."""
    with pytest.raises(error, match=message):
        FlaskDurable().endpoint(**options)


def test_options_are_no_positions() -> None:
    """The view is the only one."""
    with pytest.raises(TypeError, match="positional argument"):
        t.cast(t.Any, FlaskDurable().endpoint)(str, Retry(3))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (MethodView, "not the class MethodView: put it over its methods, or into its"),
        (5, "by their names, as in @durable.endpoint.*, not 5"),
        ("required", "idempotency=\"required\".*, not 'required'"),
    ],
)
def test_what_is_no_view_is_refused(view: t.Any, message: str) -> None:
    """Where it is decorated, with options and without."""
    durable = FlaskDurable()

    for decorate in (durable.endpoint, durable.endpoint(pending="accepted")):
        with pytest.raises(TypeError, match=message):
            decorate(view)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: d.identity(None), TypeError, "@durable.identity takes a function"),
        (lambda d: d.console_auth(5), TypeError, "console_auth takes .* not 5"),
        (lambda d: d.register_type(5), TypeError, "register_type takes a class, not 5"),
        (
            lambda d: d.register_type(int, str, int),
            ValueError,
            "int is a type of JSON's own",
        ),
        (lambda d: d.register_type(Flask, 5, 5), TypeError, "Flask needs two func"),
    ],
)
def test_what_can_not_be_registered_is_refused(
    call: t.Any, error: type[Exception], message: str
) -> None:
    """At the call."""
    with pytest.raises(error, match=message):
        call(FlaskDurable())


MEMORY = sa.create_engine("sqlite://")


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        ("sqlite:///pass.db", TypeError, "function that gives one: this is a str"),
        (lambda: None, TypeError, "what this one gave is a NoneType"),
        (MEMORY, ConfigError, "engine names a SQLite database in memory"),
        (lambda: MEMORY, ConfigError, "engine names a SQLite database in memory"),
    ],
)
def test_what_is_no_engine_is_refused(
    make_app: MakeApp, engine: t.Any, error: type[Exception], message: str
) -> None:
    """By the name of the argument, and without a password."""
    with pytest.raises(error, match=message) as caught:
        app = make_app()
        FlaskDurable(app, engine=engine)
        opened_state(app)

    assert "pass" not in str(caught.value)


def test_an_endpoint_may_be_called_without_options() -> None:
    """With and without parentheses it gives the view."""
    durable = FlaskDurable()

    def view() -> str:
        """Say so."""
        return "done"

    for made in (durable.endpoint(view), durable.endpoint()(view)):
        assert (made.__name__, made.__doc__) == ("view", "Say so.")


def test_the_dispatcher_is_started_by_hand(make_app: MakeApp) -> None:
    """Also while testing; a second time changes nothing."""
    app = make_app(DURABLE_REPLAY_THREADS=3)
    durable = FlaskDurable(app)
    before = replay_threads()
    durable.start_dispatcher(app)
    durable.start_dispatcher(app)
    assert isinstance(get_state(app).dispatcher, ThreadDispatcher)
    assert replay_threads() - before == 3


def test_an_app_that_was_not_set_up_has_no_dispatcher() -> None:
    """The error says what to do."""
    with pytest.raises(RuntimeError, match="call FlaskDurable"):
        FlaskDurable().start_dispatcher(Flask(__name__))


def test_while_testing_no_thread_starts(make_app: MakeApp) -> None:
    """Tests drive executions themselves."""
    app = make_app()
    FlaskDurable(app)
    # Those of an earlier test may end meanwhile.
    before = set(threading.enumerate())
    app.test_client().get("/")
    assert get_state(app).dispatcher is None
    assert set(threading.enumerate()) <= before


def test_threads_start_with_the_first_request(make_app: MakeApp) -> None:
    """Of any view; none starts when the app is made."""
    app = make_app(TESTING=False)
    before = replay_threads()
    FlaskDurable(app)
    assert get_state(app).dispatcher is None
    app.add_url_rule("/", view_func=lambda: "plain")
    assert app.test_client().get("/").text == "plain"
    assert isinstance(get_state(app).dispatcher, ThreadDispatcher)
    assert replay_threads() - before == 4


def test_a_process_without_threads_begins_nothing(
    make_app: MakeApp,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Other views are served, and the next request tries again."""
    app = make_app(TESTING=False)
    durable = FlaskDurable(app)
    app.add_url_rule("/", view_func=lambda: "plain")
    work = durable.endpoint(lambda: "done")
    app.add_url_rule("/work", "work", work, methods=["POST"])
    client = app.test_client()

    with monkeypatch.context() as patch:
        patch.setattr("flask_durable.dispatch_thread.start_thread", no_thread)
        assert client.get("/").text == "plain"
        assert "No execution can be replayed: can't start new thread" in caplog.text
        answer = client.post("/work")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert answer.json and "can't start threads" in answer.json["detail"]

    assert client.post("/work").text == "done"
    assert [one.attempt for one in executions(app, durable)] == [1]


def executions(app: Flask, durable: FlaskDurable) -> list[t.Any]:
    """List an app's executions."""
    with app.app_context():
        return list(durable.executions())


def no_thread(target: object, name: str) -> t.NoReturn:
    """Be at the limit of threads."""
    raise RuntimeError("can't start new thread")


def test_all_dispatchers_of_a_process_are_started(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gunicorn's hooks do it, for apps that are alive."""
    started: list[Flask] = []
    monkeypatch.setattr("flask_durable.extension._start", started.append)
    durable = FlaskDurable()
    apps = [make_app(), make_app()]

    for app in apps:
        durable.init_app(app)

    start_all()
    assert [app for app in apps if app in started] == apps


def test_without_a_url_the_journal_is_in_the_instance_folder(
    make_app: MakeApp, tmp_path: pathlib.Path
) -> None:
    """Which is made at the first use, not before; nobody else may read it."""
    app = make_app(TESTING=False)
    FlaskDurable(app)
    assert not (tmp_path / "instance").exists()
    opened_state(app).store.check()
    assert (tmp_path / "instance/durable.sqlite3").exists()

    for file in (tmp_path / "instance").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_while_testing_the_journal_is_a_new_temporary_one(
    make_app: MakeApp, tmp_path: pathlib.Path
) -> None:
    """Tests don't see each other's executions."""
    urls = set()

    for _ in range(2):
        app = make_app()
        FlaskDurable(app)
        urls.add(str(opened_state(app).store.database.engine.url))

    assert len(urls) == 2
    assert not any(str(tmp_path) in url for url in urls)


def test_an_engine_may_be_made_later(make_app: MakeApp, sqlite_url: str) -> None:
    """By a function that needs the app's context."""
    asked: list[str] = []

    def engine() -> sa.Engine:
        asked.append(current_app.name)
        return sa.create_engine(sqlite_url)

    app = make_app()
    FlaskDurable(app, engine=engine)
    assert asked == []
    databases = opened_state(app).databases
    assert asked == [app.name]
    assert {str(each.engine.url) for each in databases} == {sqlite_url}


def test_an_engine_goes_before_the_url(
    make_app: MakeApp, sqlite_url: str, tmp_path: pathlib.Path
) -> None:
    """It was given in code."""
    engine = sa.create_engine(sqlite_url)
    app = make_app(DURABLE_DATABASE_URL=f"sqlite:///{tmp_path}/other.db")
    FlaskDurable(app, engine=engine)
    opened_state(app).store.check()
    assert (tmp_path / "journal.db").exists()
    assert not (tmp_path / "other.db").exists()


def test_a_refused_setting_leaves_the_app_as_it_was(make_app: MakeApp) -> None:
    """It can be corrected, and the extension set up."""
    app = make_app(DURABLE_LEASE="x")
    durable = FlaskDurable()

    with pytest.raises(Exception, match="DURABLE_LEASE"):
        durable.init_app(app)

    app.config["DURABLE_LEASE"] = 5
    durable.init_app(app)
    assert get_state(app).config.lease == 5


def test_a_view_that_no_request_came_to_says_why(make_app: MakeApp) -> None:
    """A decorator hides it, or a test calls it by itself."""
    app = make_app()
    view: t.Any = FlaskDurable(app).endpoint(lambda: "done")
    app.add_url_rule("/", "hidden", lambda: view(), methods=["POST"])
    message = '"hidden" is hidden by a decorator .* called without a dispatched'

    with pytest.raises(RuntimeError, match=message):
        app.test_client().post("/")

    with app.test_request_context("/", method="POST"):
        with pytest.raises(
            RuntimeError, match=r"durable_client or app.test_client\(\)"
        ):
            view()


def test_one_object_keeps_apps_apart(make_app: MakeApp) -> None:
    """Each has its settings and its journal."""
    durable = FlaskDurable()
    apps = [make_app(DURABLE_LEASE=5), make_app(DURABLE_LEASE=6)]

    def view() -> str:
        return str(step.run("a", str, current_app.config["DURABLE_LEASE"]))

    for app in apps:
        durable.init_app(app)
        app.add_url_rule("/", view_func=durable.endpoint(view), methods=["POST"])

    answers = [app.test_client().post("/") for app in apps]
    assert [answer.text for answer in answers] == ["5", "6"]
    link = answers[0].headers["Durable-Execution"]
    stores = [get_state(app).store for app in apps]
    assert stores[0].execution(link).status == "completed"

    with pytest.raises(Exception, match="There is no execution"):
        stores[1].execution(link)
