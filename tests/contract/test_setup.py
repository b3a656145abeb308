"""Setting up: apps, keys, config, databases, and what is said when it's wrong."""

from __future__ import annotations

import datetime as dt
import pathlib
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from flask_durable import ConfigError
from flask_durable import current_execution
from flask_durable import current_step
from flask_durable import DurableError
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import SchemaError
from flask_durable import step

from ..driving import Drive
from ..driving import status_link
from .conftest import MakeApp
from .helpers import Flaky

pytestmark = pytest.mark.no_tables


def napping(app: Flask, durable: FlaskDurable) -> Flaky[str]:
    """Register a view that calls a step, sleeps, and is done; give its step."""
    call = Flaky("14A")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seat = step.run("reserve", call)
        step.sleep("nap", 60)
        return seat

    return call


def test_an_app_is_set_up_once(app: Flask, durable: FlaskDurable) -> None:
    """A second time is a mistake of the factory."""
    with pytest.raises(RuntimeError):
        durable.init_app(app)
    with pytest.raises(RuntimeError):
        FlaskDurable(app)


def test_state_is_kept_with_the_app(app: Flask, durable: FlaskDurable) -> None:
    """Under the usual key, and nothing of the app on the object."""
    assert "durable" in app.extensions
    assert app not in vars(durable).values()


def test_the_app_factory(make_app: MakeApp) -> None:
    """The object is made first, apps and views come later."""
    durable = FlaskDurable()
    app = make_app()
    durable.init_app(app)
    call = napping(app, durable)
    response = app.test_client().post("/work")
    assert Drive(app).finish(response).text == "14A"
    assert call.calls == 1


def test_without_a_secret_key_the_first_request_says_what_to_do(
    make_app: MakeApp, sqlite_url: str
) -> None:
    """With the command that makes a key; the view doesn't run."""
    app = make_app(
        DURABLE_DATABASE_URL=sqlite_url, SECRET_KEY=None, PROPAGATE_EXCEPTIONS=True
    )
    call = napping(app, FlaskDurable(app))
    with pytest.raises(RuntimeError, match="SECRET_KEY") as caught:
        app.test_client().post("/work")
    assert "secrets" in str(caught.value)
    assert "python" in str(caught.value)
    assert call.calls == 0


def test_without_a_secret_key_plain_views_work(
    make_app: MakeApp, sqlite_url: str
) -> None:
    """It is missed by durable requests alone."""
    app = make_app(DURABLE_DATABASE_URL=sqlite_url, SECRET_KEY=None)
    FlaskDurable(app)
    app.add_url_rule("/plain", "plain", lambda: "done")
    assert app.test_client().get("/plain").text == "done"


def test_a_secret_key_may_be_set_after_init_app(
    make_app: MakeApp, sqlite_url: str
) -> None:
    """It is read when it is needed."""
    app = make_app(DURABLE_DATABASE_URL=sqlite_url, SECRET_KEY=None)
    napping(app, FlaskDurable(app))
    app.secret_key = "late"
    assert app.test_client().post("/work").status_code == 202


def test_fallback_keys_verify_links(make_app: MakeApp) -> None:
    """After a key was changed, links from before still work, if it is a fallback."""
    old = make_app(SECRET_KEY="old")
    napping(old, FlaskDurable(old))
    url = status_link(old.test_client().post("/work"))

    both = make_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"])
    FlaskDurable(both)
    new = make_app(SECRET_KEY="new")
    FlaskDurable(new)
    assert both.test_client().get(url).status_code == 200
    assert new.test_client().get(url).status_code == 404


def test_an_execution_goes_on_after_the_key_was_changed(make_app: MakeApp) -> None:
    """Another process with the new key replays what began under the old one."""
    old = make_app(SECRET_KEY="old")
    napping(old, FlaskDurable(old))
    response = old.test_client().post("/work")

    new = make_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"])
    call = napping(new, FlaskDurable(new))
    assert Drive(new).finish(response).text == "14A"
    assert call.calls == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DURABLE_INLINE_RETRY", "soon"),
        ("DURABLE_INLINE_RETRY", -1),
        ("DURABLE_LEASE", 0),
        ("DURABLE_LEASE", "15s"),
        ("DURABLE_RETRY", 5),
        ("DURABLE_REPLAY_THREADS", 0),
        ("DURABLE_REPLAY_THREADS", 1.5),
        ("DURABLE_LEASE", dt.timedelta(seconds=-1)),
        ("DURABLE_MAX_REQUEST_BYTES", -1),
        ("DURABLE_MAX_OUTPUT_BYTES", "4 MiB"),
        ("DURABLE_MAX_RESPONSE_BYTES", 1.5),
        ("DURABLE_MAX_JOURNAL_BYTES", [7]),
        ("DURABLE_STRICT_REPLAY", "maybe"),
        ("DURABLE_CREATE_TABLES", "maybe"),
        ("DURABLE_URL_PREFIX", "durable"),
        ("DURABLE_URL_PREFIX", 7),
        ("DURABLE_DATABASE_URL", "not a url"),
        ("DURABLE_DATABASE_URL", 7),
        ("DURABLE_INLINE_RETRY", float("nan")),
    ],
)
def test_a_wrong_value_is_refused_with_the_keys_name(
    make_app: MakeApp, sqlite_url: str, key: str, value: t.Any
) -> None:
    """In ``init_app``, not at the first request."""
    app = make_app(**{"DURABLE_DATABASE_URL": sqlite_url, key: value})
    with pytest.raises(ConfigError, match=key):
        FlaskDurable(app)


def test_an_unknown_key_is_refused(make_app: MakeApp, sqlite_url: str) -> None:
    """A typo would otherwise be a default in production."""
    app = make_app(DURABLE_DATABASE_URL=sqlite_url, DURABLE_LAESE=15)
    with pytest.raises(ConfigError, match="DURABLE_LAESE"):
        FlaskDurable(app)


@pytest.mark.parametrize("key", ["DURABLE_LEASE", "DURABLE_INLINE_RETRY"])
@pytest.mark.parametrize("value", [20, 20.5, dt.timedelta(seconds=20)])
def test_times_are_seconds_or_timedelta(
    make_app: MakeApp, sqlite_url: str, key: str, value: t.Any
) -> None:
    """Both are taken."""
    app = make_app(**{"DURABLE_DATABASE_URL": sqlite_url, key: value})
    napping(app, FlaskDurable(app))
    assert app.test_client().post("/work").status_code == 202


def test_config_comes_from_the_environment(
    make_app: MakeApp, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``FLASK_DURABLE_…`` by Flask's own ``from_prefixed_env``."""
    monkeypatch.setenv("FLASK_DURABLE_DATABASE_URL", database_url)
    monkeypatch.setenv("FLASK_DURABLE_URL_PREFIX", "/later")
    monkeypatch.setenv("FLASK_DURABLE_INLINE_RETRY", "0.5")
    monkeypatch.setenv("FLASK_DURABLE_STRICT_REPLAY", "true")
    monkeypatch.setenv("FLASK_DURABLE_MAX_REQUEST_BYTES", "10")
    app = make_app(DURABLE_DATABASE_URL="sqlite:///nowhere/else.db")
    app.config.from_prefixed_env()
    napping(app, FlaskDurable(app))
    client = app.test_client()
    assert client.post("/work", data=b"x" * 11).status_code == 413
    response = client.post("/work")
    assert "/later/executions/" in status_link(response)
    assert Drive(app).finish(response).text == "14A"


@pytest.mark.config(DURABLE_URL_PREFIX="/api/jobs")
def test_the_routes_may_have_another_prefix(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """All links follow."""
    napping(app, durable)
    response = client.post("/work")
    assert "/api/jobs/executions/" in status_link(response)
    assert "/api/jobs/executions/" in drive.status(response)["response_url"]
    assert drive.finish(response).text == "14A"


def tables(url: str) -> set[str]:
    """List a database's tables."""
    engine = sa.create_engine(url)
    names = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return names


@pytest.mark.parametrize("callable_", [False, True], ids=["engine", "callable"])
def test_the_journal_lives_in_the_given_engines_database(
    make_app: MakeApp, database_url: str, callable_: bool
) -> None:
    """An engine, or what gives one when it is needed."""
    engine = sa.create_engine(database_url)
    app = make_app(DURABLE_DATABASE_URL=None)
    del app.config["DURABLE_DATABASE_URL"]
    durable = FlaskDurable(app, engine=(lambda: engine) if callable_ else engine)
    napping(app, durable)
    response = app.test_client().post("/work")
    assert response.status_code == 202
    assert "durable_executions" in tables(database_url)
    assert Drive(app).finish(response).text == "14A"
    app.extensions["durable"].close()
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_the_journal_may_live_in_the_database_of_flask_sqlalchemy(
    make_app: MakeApp, database_url: str
) -> None:
    """``engine=lambda: db.engine`` is asked within an app context."""
    db = SQLAlchemy()
    durable = FlaskDurable(engine=lambda: db.engine)
    app = make_app(SQLALCHEMY_DATABASE_URI=database_url)
    del app.config["DURABLE_DATABASE_URL"]
    db.init_app(app)
    durable.init_app(app)
    napping(app, durable)
    response = app.test_client().post("/work")
    assert Drive(app).finish(response).text == "14A"
    assert "durable_executions" in tables(database_url)
    with app.app_context():
        db.engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:journal?mode=memory&cache=shared&uri=true",
    ],
)
@pytest.mark.parametrize("way", ["config", "engine"])
def test_a_database_in_memory_is_refused(url: str, way: str) -> None:
    """It couldn't outlive the process, which is all that a journal is for."""
    app = Flask("shop")
    app.config.update(SECRET_KEY="x", TESTING=True, PROPAGATE_EXCEPTIONS=True)
    engine = None
    if way == "config":
        app.config["DURABLE_DATABASE_URL"] = url
    else:
        engine = sa.create_engine(url, poolclass=sa.StaticPool)
    with pytest.raises((ConfigError, ValueError), match="memory"):
        durable = FlaskDurable(app, engine=engine)
        napping(app, durable)
        app.test_client().post("/work")
    if engine is not None:
        engine.dispose()
    if "durable" in app.extensions:
        app.extensions["durable"].close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nonexistent/folder/journal.db",
        "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
    ],
)
def test_a_database_that_is_missing_is_503(make_app: MakeApp, url: str) -> None:
    """As a problem with ``Retry-After``; the view doesn't run."""
    app = make_app(DURABLE_DATABASE_URL=url)
    call = napping(app, FlaskDurable(app))
    response = app.test_client().post("/work")
    assert response.status_code == 503
    assert response.mimetype == "application/problem+json"
    assert int(response.headers["Retry-After"]) >= 1
    assert "nonexistent" not in response.text
    assert "127.0.0.1" not in response.text
    assert call.calls == 0


def test_a_database_that_is_missing_says_so_in_the_log(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Who runs the app finds the reason, though the client doesn't."""
    app = make_app(DURABLE_DATABASE_URL="sqlite:////nonexistent/folder/journal.db")
    napping(app, FlaskDurable(app))
    app.test_client().post("/work")
    assert any(one.levelname in ("WARNING", "ERROR") for one in caplog.records)


def test_a_database_that_is_read_only_is_503(
    make_app: MakeApp, tmp_path: pathlib.Path
) -> None:
    """Nothing can be stored, so nothing runs."""
    path = tmp_path / "journal.db"
    app = make_app(DURABLE_DATABASE_URL=f"sqlite:///{path}")
    napping(app, FlaskDurable(app))
    app.test_client().post("/work")
    app.extensions["durable"].close()

    url = f"sqlite:///file:{path}?mode=ro&uri=true"
    read_only = make_app(DURABLE_DATABASE_URL=url)
    call = napping(read_only, FlaskDurable(read_only))
    response = read_only.test_client().post("/work")
    assert response.status_code == 503
    assert response.mimetype == "application/problem+json"
    assert call.calls == 0


def test_a_file_that_is_no_database_runs_nothing(
    make_app: MakeApp, tmp_path: pathlib.Path
) -> None:
    """A clear error, and the file is left as it was."""
    path = tmp_path / "journal.db"
    path.write_text("not a database, but somebody's notes\n" * 100)
    before = path.read_bytes()
    app = make_app(DURABLE_DATABASE_URL=f"sqlite:///{path}")
    call = napping(app, FlaskDurable(app))
    assert app.test_client().post("/work").status_code in (500, 503)
    assert call.calls == 0
    assert path.read_bytes() == before


def test_plain_views_work_without_the_database(make_app: MakeApp) -> None:
    """Only durable views need it."""
    app = make_app(DURABLE_DATABASE_URL="sqlite:////nonexistent/folder/journal.db")
    FlaskDurable(app)
    app.add_url_rule("/plain", "plain", lambda: "done")
    assert app.test_client().get("/plain").text == "done"


def test_a_database_that_comes_back_is_used(
    make_app: MakeApp, tmp_path: pathlib.Path
) -> None:
    """No restart is needed."""
    folder = tmp_path / "later"
    app = make_app(DURABLE_DATABASE_URL=f"sqlite:///{folder}/journal.db")
    napping(app, FlaskDurable(app))
    client = app.test_client()
    assert client.post("/work").status_code == 503
    folder.mkdir()
    assert client.post("/work").status_code == 202


def set_schema_version(url: str, change: int) -> None:
    """Change the one version number that some table of the journal has."""
    engine = sa.create_engine(url)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    (column,) = (
        column
        for table in metadata.sorted_tables
        if table.name.startswith("durable_")
        for column in table.columns
        if "version" in column.name or "version" in table.name
    )
    with engine.begin() as connection:
        version = connection.execute(sa.select(column)).scalar_one()
        other = type(version)(f"{int(version) + change:04}")
        connection.execute(column.table.update().values({column: other}))
    engine.dispose()


@pytest.mark.parametrize("change", [-1, 1], ids=["older", "newer"])
def test_a_database_of_another_schema_is_refused(
    make_app: MakeApp, database_url: str, change: int
) -> None:
    """With a sentence that says what to run; the view doesn't."""
    first = make_app(PROPAGATE_EXCEPTIONS=True)
    napping(first, FlaskDurable(first))
    first.test_client().post("/work")
    set_schema_version(database_url, change)
    app = make_app(PROPAGATE_EXCEPTIONS=True, DURABLE_CREATE_TABLES=False)
    call = napping(app, FlaskDurable(app))
    expected = "flask durable upgrade" if change < 0 else "."
    with pytest.raises(SchemaError, match=expected):
        app.test_client().post("/work")
    assert call.calls == 0


def test_without_create_tables_an_empty_database_is_refused(
    make_app: MakeApp, database_url: str
) -> None:
    """``flask durable upgrade`` is what to run, and then it works."""
    app = make_app(PROPAGATE_EXCEPTIONS=True, DURABLE_CREATE_TABLES=False)
    call = napping(app, FlaskDurable(app))
    client = app.test_client()
    with pytest.raises(SchemaError, match="flask durable upgrade"):
        client.post("/work")
    assert call.calls == 0
    assert tables(database_url) == set()
    result = app.test_cli_runner().invoke(args=["durable", "upgrade"])
    assert result.exit_code == 0, result.output
    assert "durable_executions" in tables(database_url)
    assert client.post("/work").status_code == 202


def test_upgrade_may_be_run_again(make_app: MakeApp) -> None:
    """A deploy script runs it each time."""
    app = make_app()
    FlaskDurable(app)
    runner = app.test_cli_runner()
    for _ in range(2):
        result = runner.invoke(args=["durable", "upgrade"])
        assert result.exit_code == 0, result.output


def test_upgrade_may_print_its_sql(make_app: MakeApp, database_url: str) -> None:
    """For those who let nobody but their DBA run it; nothing is changed."""
    app = make_app()
    FlaskDurable(app)
    result = app.test_cli_runner().invoke(args=["durable", "upgrade", "--sql"])
    assert result.exit_code == 0, result.output
    assert "CREATE TABLE durable_executions" in result.output
    assert tables(database_url) == set()


def test_the_printed_sql_makes_the_tables(make_app: MakeApp, database_url: str) -> None:
    """Run by hand, it is the same as ``upgrade``."""
    app = make_app(DURABLE_CREATE_TABLES=False)
    napping(app, FlaskDurable(app))
    result = app.test_cli_runner().invoke(args=["durable", "upgrade", "--sql"])
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        for statement in result.stdout.split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    engine.dispose()
    assert app.test_client().post("/work").status_code == 202


def test_outside_of_a_durable_view_there_is_no_current_execution(app: Flask) -> None:
    """Neither execution nor step; the message says where they are."""
    with pytest.raises(RuntimeError, match="durable"):
        _ = current_execution.id
    with pytest.raises(RuntimeError):
        _ = current_step.id
    with app.app_context(), pytest.raises(RuntimeError):
        _ = current_execution.id


def test_in_a_view_outside_of_steps_there_is_no_current_step(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Before, between and after."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        with pytest.raises(RuntimeError):
            _ = current_step.id
        step.run("reserve", lambda: 1)
        with pytest.raises(RuntimeError):
            _ = current_step.id
        return "done"

    assert client.post("/work").text == "done"


def test_in_a_step_both_are_known(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The step function may read the execution too."""

    def reserve() -> list[t.Any]:
        return [current_execution.id, current_execution.attempt, current_step.id]

    @app.post("/work")
    @durable.endpoint
    def work() -> list[t.Any]:
        return step.run("reserve", reserve)

    response = client.post("/work")
    assert response.json == [response.headers["Durable-Execution"], 1, "reserve"]


def test_two_apps_in_one_process_on_one_database(make_app: MakeApp) -> None:
    """Two instances of the same app, as two servers would be."""
    made = [make_app() for _ in range(2)]
    calls = [napping(app, FlaskDurable(app)) for app in made]
    response = made[0].test_client().post("/work")
    assert Drive(made[1]).finish(response).text == "14A"
    assert [one.calls for one in calls] == [1, 0]


def test_without_a_url_the_journal_of_a_test_is_temporary(
    tmp_path: pathlib.Path,
) -> None:
    """With ``TESTING``, nothing is written into the instance folder."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(SECRET_KEY="x", TESTING=True)
    napping(app, FlaskDurable(app))
    response = app.test_client().post("/work")
    assert Drive(app).finish(response).text == "14A"
    assert not (tmp_path / "instance").exists()
    app.extensions["durable"].close()


def test_errors_of_the_library_have_one_ancestor() -> None:
    """So that a view may catch them all."""
    assert issubclass(ConfigError, DurableError)
    assert issubclass(SchemaError, DurableError)


def test_a_retry_may_be_shared(app: Flask, durable: FlaskDurable) -> None:
    """It is a value: equal ones are equal, and it can't be changed by accident."""
    policy = Retry(3, initial=1)
    assert policy == Retry(max_attempts=3, initial=1)
    change: t.Any = policy
    with pytest.raises((AttributeError, TypeError)):
        change.max_attempts = 4
