"""The docs' examples run, each page has those that it needs, and names what exists."""

from __future__ import annotations

import collections.abc as cabc
import datetime as dt
import hmac
import http.server
import importlib.util
import json
import pathlib
import re
import sys
import threading
import time
import types
import typing as t

import pytest
from flask.testing import FlaskClient
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from werkzeug.test import TestResponse

import flask_durable
from flask_durable.schema import VERSION_TABLE
from flask_durable.tables import metadata
from flask_durable.tables import SCHEMA_VERSION

from .driving import Drive

DOCS = pathlib.Path(__file__).parent.parent / "docs"
EXAMPLES = DOCS / "examples"
PACKAGE = pathlib.Path(flask_durable.__file__).parent

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="there are no docs here")


class Example(t.NamedTuple):
    """An example's module, and what drives its app."""

    module: types.ModuleType
    client: FlaskClient
    drive: Drive


class Load(t.Protocol):
    """How a test loads an example."""

    def __call__(self, name: str) -> Example: ...


def load_module(name: str) -> types.ModuleType:
    """Import an example by its path."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def load() -> cabc.Iterator[Load]:
    """Load examples; their journals are closed at the end."""
    loaded: list[Example] = []

    def load(name: str) -> Example:
        module = load_module(name)
        app = module.app if hasattr(module, "app") else module.create_app()
        app.config.update(TESTING=True, PROPAGATE_EXCEPTIONS=False)
        loaded.append(Example(module, app.test_client(), Drive(app)))
        return loaded[-1]

    yield load

    for example in loaded:
        example.drive.app.extensions["durable"].close()
        del sys.modules[example.module.__name__]


def test_the_quickstart_books_and_gives_back(
    load: Load,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All is well; then the bank is down for a while; then it stays down."""
    monkeypatch.chdir(tmp_path)
    down = tmp_path / "bank-is-down"
    _, client, drive = load("quickstart")
    order = {"flight": "BA117"}

    assert client.post("/trips", json=order).status_code == 200

    down.touch()
    answer = client.post("/trips", json=order)
    assert answer.status_code == 202
    down.unlink()
    assert drive.finish(answer).json == {
        "payment": {"paid": 120},
        "seat": {"flight": "BA117", "seat": "14A", "price": 120},
    }

    down.touch()
    final = drive.finish(client.post("/trips", json=order))
    assert final.status_code == 402
    assert capsys.readouterr().out.count("giving the seat back") == 1


def test_the_quickstart_sleeps(load: Load) -> None:
    """The ticket comes after the sleep."""
    _, client, drive = load("quickstart")
    answer = client.post("/tickets", json={"flight": "BA117"})
    assert answer.status_code == 202
    assert answer.headers["Retry-After"] == "20"
    assert drive.finish(answer).status_code == 200


def test_a_package_is_booked_at_once(load: Load) -> None:
    """Branches and items are steps of their own."""
    _, client, drive = load("package")
    wanted = {"flight": "BA117", "hotel": "Ritz", "car": "Mini"}
    answer = client.post("/packages", json=wanted | {"travellers": ["Ada", "Bob"]})
    assert answer.status_code == 200
    steps = {step["id"] for step in drive.status(answer)["steps"]}
    assert steps == {"flight", "hotel", "car", "letter[0]", "letter[1]"}


def test_a_trial_reminds(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """Two timers, three attempts."""
    _, client, drive = load("trial")
    answer = client.post("/trials", json={"email": "ada@example.org"})
    assert drive.status(answer)["waiting_for"]["step"] == "first-week"
    assert drive.finish(answer).status_code == 200
    assert drive.status(answer)["attempt"] == 3
    assert "Your trial ends tomorrow." in capsys.readouterr().out


class Bank(http.server.BaseHTTPRequestHandler):
    """Answers as it is told, and remembers the keys that it was given."""

    answers: t.ClassVar[list[tuple[int, dict[str, str]]]] = []
    keys: t.ClassVar[list[str]] = []

    def do_POST(self) -> None:
        """Take a charge."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.keys.append(self.headers["Idempotency-Key"])
        status, headers = self.answers.pop(0)
        self.send_response(status)

        for name, value in headers.items():
            self.send_header(name, value)

        self.end_headers()
        self.wfile.write(json.dumps({"id": "p-1"}).encode())

    def log_message(self, format: str, *args: t.Any) -> None:
        """Keep quiet."""


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> cabc.Iterator[type[Bank]]:
    """Run a bank."""
    Bank.answers, Bank.keys = [], []

    with http.server.HTTPServer(("127.0.0.1", 0), Bank) as server:
        url = f"http://127.0.0.1:{server.server_port}/charges"
        monkeypatch.setenv("FLASK_BANK_URL", url)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Bank
        server.shutdown()
        thread.join()


def test_a_payment_is_tried_with_one_key(load: Load, bank: type[Bank]) -> None:
    """An error, a plea to wait, and success."""
    bank.answers += [(500, {}), (429, {"Retry-After": "90"}), (200, {})]
    _, client, drive = load("payment")
    answer = client.post("/orders", json={"item": "lamp", "card": "4242"})
    assert answer.status_code == 202
    assert drive.finish(answer).json == {"payment": "p-1"}
    assert len(bank.keys) == 3
    assert len(set(bank.keys)) == 1


def test_a_declined_payment_gives_the_item_back(
    load: Load, bank: type[Bank], capsys: pytest.CaptureFixture[str]
) -> None:
    """One try, then the compensation."""
    bank.answers += [(402, {})]
    _, client, _ = load("payment")
    answer = client.post("/orders", json={"item": "lamp", "card": "4242"})
    assert answer.status_code == 402
    assert "giving lamp back" in capsys.readouterr().out


def test_the_apps_handler_answers_for_another_step(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody caught the error of the first step."""
    module, client, _ = load("payment")

    def sold_out(item: str) -> t.NoReturn:
        raise flask_durable.NonRetryableError("sold out")

    monkeypatch.setattr(module, "reserve", sold_out)
    answer = client.post("/orders", json={"item": "lamp", "card": "4242"})
    assert answer.status_code == 502
    assert answer.json == {"error": "We could not do this: reserve."}


def test_an_async_view_runs_an_async_step(load: Load) -> None:
    """The verb gives the value."""
    _, client, _ = load("asynchronous")
    answer = client.post("/translations", json={"text": "hello"})
    assert answer.json == {"text": "HELLO"}


def revoke_in_the_middle(
    module: t.Any, client: FlaskClient, drive: Drive
) -> TestResponse:
    """Have a report made for somebody whose token is revoked before it is done."""
    assert client.post("/reports").status_code == 401
    answer = client.post("/reports", headers={"X-Token": "t-1"})
    module.tokens.clear()
    assert drive.finish(answer).json == "report for ada"
    return answer


def test_a_revoked_token_does_not_stop_a_replay(load: Load) -> None:
    """The account was stored when the execution began."""
    revoke_in_the_middle(*load("api_token"))


def test_a_decorator_lets_replays_pass(load: Load) -> None:
    """Of an execution whose token was revoked, and of one that is run again."""
    module, client, drive = load("unless_replay")
    answer = revoke_in_the_middle(module, client, drive)

    with drive.app.app_context():
        again = module.durable.rerun(answer.headers["Durable-Execution"])
        drive.run_due()
        drive.advance(3)
        drive.run_due()
        assert module.durable.get(again).status == "completed"


@pytest.mark.slow
def test_an_expired_login_does_not_stop_a_replay(load: Load) -> None:
    """Flask-Login's own clock can't be turned."""
    module, client, drive = load("login")
    module.app.permanent_session_lifetime = dt.timedelta(seconds=1)
    client.post("/login", data={"name": "ada"})

    with client.session_transaction() as session:
        session.permanent = True

    answer = client.post("/orders")
    time.sleep(2.1)
    assert client.post("/orders").status_code == 401
    assert drive.finish(answer).json == {"number": "ada-1", "customer": "ada"}


def test_a_replay_has_a_fresh_login(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the session has expired, and without a warning."""
    module, client, drive = load("fresh_login")
    client.post("/login", data={"name": "ada"})

    with client.session_transaction() as session:
        session.permanent = True

    answer = client.post("/payouts")
    module.app.permanent_session_lifetime = dt.timedelta(seconds=-1)
    assert client.post("/payouts").status_code == 401
    assert drive.finish(answer).json == "paid to ada"
    assert "session" not in caplog.text


@pytest.mark.slow
def test_an_expired_csrf_token_does_not_stop_a_replay(load: Load) -> None:
    """Flask-WTF's own clock can't be turned."""
    module, client, drive = load("csrf")
    module.app.config["WTF_CSRF_TIME_LIMIT"] = 1
    token = re.search('value="(.*?)"', client.get("/").text)
    assert token is not None
    form = {"item": "tea", "csrf_token": token[1]}
    assert client.post("/orders", data={"item": "tea"}).status_code == 400
    answer = client.post("/orders", data=form)
    time.sleep(2.1)
    assert client.post("/orders", data=form).status_code == 400
    assert drive.finish(answer).text == "Order tea-1 is on its way."


def test_a_forms_expired_token_does_not_stop_a_replay(load: Load) -> None:
    """The form itself asks for the token."""
    module, client, drive = load("form")
    token = re.search('value="(.*?)"', client.get("/").text)
    assert token is not None
    form = {"item": "tea", "csrf_token": token[1]}
    answer = client.post("/orders", data=form)
    module.app.config["WTF_CSRF_TIME_LIMIT"] = -1
    assert client.post("/orders", data=form).status_code == 400
    assert drive.finish(answer).text == "Order tea-1 is on its way."


def test_a_factory_shares_the_apps_database(
    load: Load, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is beside the notes."""
    url = f"sqlite:///{tmp_path}/notes.db"
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", url)
    module, client, drive = load("factory")
    answer = client.post("/notes", json={"text": "hello"})
    assert drive.finish(answer).json == {"id": 1, "text": "hello"}
    assert drive.state.store.database.label == url

    with drive.app.app_context():
        module.db.engine.dispose()


def test_a_step_commits_with_the_apps_rows(
    load: Load, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both entries, once."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", url)
    module, client, drive = load("ledger")
    order = {"from": "ada", "to": "bob", "amount": 5}
    assert client.post("/transfers", json=order).json == {"entry": 2}

    with drive.app.app_context():
        query = module.db.select(module.Entry.account, module.Entry.amount)
        rows = module.db.session.execute(query).all()
        assert [tuple(row) for row in rows] == [("ada", -5), ("bob", 5)]
        module.db.engine.dispose()


def test_a_failed_try_leaves_no_rows(
    load: Load, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warehouse is down at the first try: there is one order in the end."""
    url = f"sqlite:///{tmp_path}/orders.db"
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", url)
    module, client, drive = load("rollback")
    outages = [ConnectionError("the warehouse is down")]

    def tell_warehouse(order: t.Any) -> None:
        if outages:
            raise outages.pop()

    monkeypatch.setattr(module, "tell_warehouse", tell_warehouse)
    answer = client.post("/orders", json={"item": "lamp"})
    assert drive.finish(answer).json == {"number": 1}

    with drive.app.app_context():
        assert module.db.session.query(module.Order).count() == 1
        module.db.engine.dispose()


def test_an_apps_own_error_is_answered_at_once(load: Load) -> None:
    """Its handler answers, and nothing is tried again."""
    _, client, drive = load("app_errors")
    assert client.post("/orders", json={"item": "lamp"}).json == {"number": "lamp-1"}
    answer = client.post("/orders", json={"item": "desk"})
    assert answer.status_code == 409
    assert answer.json == {"message": "There is no desk left."}
    assert drive.status(answer)["status"] == "failed"


def test_an_expense_is_approved_and_paid(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a person's form, and the bank's webhook, which comes twice."""
    _, client, drive = load("approval")
    claim = {"manager": "bob", "what": "a train", "number": "E1"}
    answer = client.post("/expenses", json=claim)
    link = capsys.readouterr().out.split()[-1]
    assert '<form method="post">' in client.get(link).text
    assert client.post(link, data={"answer": "yes", "name": "bob"}).status_code == 200
    drive.run_due()
    assert drive.status(answer)["waiting_for"]["kind"] == "event"

    for _ in range(2):
        message = {"reference": "E1", "date": "2030-01-01", "id": "m1"}
        assert client.post("/bank", json=message).status_code == 204

    final = drive.finish(answer).json
    assert final == {"approved_by": "bob", "paid_on": "2030-01-01"}


def test_nobody_approves(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """After three days the view says so, and so does the form."""
    _, client, drive = load("approval")
    claim = {"manager": "bob", "what": "a train", "number": "E1"}
    assert drive.finish(client.post("/expenses", json=claim)).status_code == 504
    link = capsys.readouterr().out.split()[-1]
    assert client.post(link, data={"answer": "no", "name": "bob"}).status_code == 410


def test_an_approval_is_given_once(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another answer is refused, and so is a link that nobody was sent."""
    _, client, _ = load("approval")
    claim = {"manager": "bob", "what": "a train", "number": "E1"}
    client.post("/expenses", json=claim)
    link = capsys.readouterr().out.split()[-1]
    codes = [
        client.post(link, data={"answer": answer, "name": "bob"}).status_code
        for answer in ("yes", "yes", "no")
    ]
    assert codes == [200, 200, 409]
    junk = client.post("/approvals/junk", data={"answer": "no", "name": "bob"})
    assert junk.status_code == 404


def test_a_webhook_ships_once(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """However often it is delivered; what is forged takes no key."""
    _, client, _ = load("webhook")
    event = b'{"id": "evt_1", "order": "7"}'
    signature = hmac.new(b"dev", event, "sha256").hexdigest()
    signatures = [None, "f\xf6rged", signature, signature, signature]
    answers = [
        client.post(
            "/hooks/paid",
            data=event,
            content_type="application/json",
            headers={"X-Signature": each} if each else {},
        )
        for each in signatures
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 204, 204, 204]
    assert "Durable-Execution" not in answers[0].headers
    assert capsys.readouterr().out.count("shipping 7") == 1


def test_a_proxys_address_stays_through_a_replay(load: Load) -> None:
    """Links and the replayed request have the address that the client used."""
    _, client, drive = load("behind_proxy")
    forwarded = {"For": "192.0.2.7", "Proto": "https", "Host": "shop.example"}
    headers = {f"X-Forwarded-{name}": value for name, value in forwarded.items()}
    answer = client.get("/slow", headers=headers)
    assert answer.location.startswith("https://shop.example/durable/executions/")
    drive.advance(2)
    drive.run_due()
    final = client.get(f"{answer.location}/response")
    assert final.json == {"url": "https://shop.example/slow", "client": "192.0.2.7"}


def test_gunicorns_configuration_has_the_hooks() -> None:
    """They are the extension's own."""
    module = load_module("gunicorn_conf")
    hooks = importlib.import_module("flask_durable.gunicorn")
    assert module.post_worker_init is hooks.post_worker_init
    assert module.worker_exit is hooks.worker_exit


def test_a_failure_is_told(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    """The receiver hears of it after the last try."""
    _, client, drive = load("signals")
    drive.finish(client.post("/payments"))
    (told,) = [each for each in caplog.messages if each.startswith("pay ")]
    assert told.endswith("The bank does not answer.")


def test_the_metrics_page(load: Load) -> None:
    """It has what was counted, and what the journal has."""
    _, client, _ = load("metrics")
    client.post("/orders")
    text = client.get("/metrics").text
    assert 'durable_steps_total{endpoint="order"' in text
    assert 'durable_journal_executions{endpoint="order",status="completed"} 1.0' in text


def test_the_documented_spans(load: Load) -> None:
    """They are those of the picture."""
    module, client, drive = load("tracing")
    exporter = InMemorySpanExporter()
    module.provider.add_span_processor(SimpleSpanProcessor(exporter))
    drive.finish(client.post("/orders"))
    found = sorted(span.name for span in exporter.get_finished_spans())
    module.provider.shutdown()
    attempts = ["attempt order"] * 2
    steps = ["step cool-off", "step reserve", "step ship"]
    assert found == [*attempts, "execution order", *steps]


def test_metrics_are_documented() -> None:
    """By both of their names, with their labels."""
    text = (DOCS / "observability.rst").read_text()
    metrics = importlib.import_module("flask_durable.measures").METRICS

    for metric in metrics:
        name = "durable_" + metric.name.replace(".", "_")
        assert f"``{name}{'_seconds' if metric.unit else '_total'}``" in text
        assert f"``durable.{metric.name}``" in text
        assert all(f"``{label}``" in text for label in metric.labels)


def test_signals_are_documented() -> None:
    """Each stands in the table."""
    text = (DOCS / "signals.rst").read_text()
    module = importlib.import_module("flask_durable.signals")
    names = [name for name in vars(module) if name.startswith(("execution_", "step_"))]
    assert len(names) == 7
    assert [name for name in names if f"    * - ``{name}``" not in text] == []


def test_the_tables_are_documented() -> None:
    """All of them, and the schema as a check prints it."""
    page = (DOCS / "deployment.rst").read_text()
    names = {VERSION_TABLE, *metadata.tables}
    assert [name for name in names if f"``{name}``" not in page] == []
    assert f"schema: {SCHEMA_VERSION}\n" in (DOCS / "commands.rst").read_text()


def test_each_example_is_on_a_page() -> None:
    """No example is left over."""
    text = "\n".join(page.read_text() for page in DOCS.glob("*.rst"))
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert {name for name in names if f"examples/{name}" not in text} == set()


def test_each_module_is_on_the_architecture_page() -> None:
    """The list of rooms is the house."""
    text = (DOCS / "architecture.rst").read_text()
    rooms = text[text.index("\nRooms\n") : text.index("\nThe cost of a call\n")]
    paths = [*PACKAGE.glob("[!_]*.py"), PACKAGE / "web"]
    assert {path.stem for path in paths if f"``{path.stem}``" not in rooms} == set()
