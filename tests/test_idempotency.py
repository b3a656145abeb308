"""Requests that are one: the cases of the Idempotency-Key header one by one."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import io
import threading
import typing as t

import pytest
from flask import Flask
from flask import request
from werkzeug.datastructures import MultiDict

from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.errors import KeyTaken
from flask_durable.idempotency import parse_key
from flask_durable.ids import new_id
from flask_durable.options import Idempotency
from flask_durable.options import Options
from flask_durable.records import RequestKey
from flask_durable.records import RequestRecord
from flask_durable.store import Store

from .driving import Drive
from .driving import status_link
from .test_budget import counted
from .test_races import breaks_once

KEY = {"Idempotency-Key": '"8e03978e"'}


class Shop:
    """An app with a durable view, and what ran in it."""

    def __init__(self, app: Flask, durable: FlaskDurable) -> None:
        self.app = app
        self.client = app.test_client()
        self.ran: list[str] = []
        self.durable = durable
        self.add("/orders", "optional")

    def add(self, rule: str, idempotency: Idempotency, name: str | None = None) -> None:
        """Add a view that notes that it ran, and says what it was sent."""

        @self.app.route(
            rule, endpoint=name or rule[1:], methods=["GET", "POST", "PUT", "HEAD"]
        )
        @self.durable.endpoint(idempotency=idempotency)
        def view() -> t.Any:
            self.ran.append(step.run("order", lambda: request.path))

            if "nap" in request.args:
                step.sleep("nap", 60)

            if "error" in request.args:
                raise RuntimeError("broken")

            return {"run": len(self.ran)}, 201, {"X-Shop": "ours"}

    def post(self, url: str = "/orders", **options: t.Any) -> t.Any:
        """Send a request with a key."""
        options.setdefault("headers", KEY)
        return self.client.post(url, **options)


@pytest.fixture
def shop(app: Flask, durable: FlaskDurable) -> Shop:
    """Make an app with a durable view."""
    return Shop(app, durable)


def problem(answer: t.Any, status: int) -> str:
    """Make sure that an answer is a problem, and give its detail."""
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert answer.json["status"] == status
    return t.cast(str, answer.json["detail"])


def test_the_same_again_is_the_stored_response(shop: Shop) -> None:
    """Nothing runs a second time."""
    first = shop.post(json={"a": 1})
    again = shop.post(json={"a": 1})
    assert (first.status_code, first.json) == (201, {"run": 1})
    assert "Idempotent-Replayed" not in first.headers
    assert (again.status_code, again.json) == (201, {"run": 1})
    assert again.headers["X-Shop"] == "ours"
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Durable-Execution"] == first.headers["Durable-Execution"]
    assert status_link(again) == status_link(first)
    assert len(shop.ran) == 1


def test_another_key_is_another_request(shop: Shop) -> None:
    """As is none."""
    for headers in (KEY, {"Idempotency-Key": '"other"'}, {}, {}):
        shop.post(headers=headers)

    assert len(shop.ran) == 4


@pytest.mark.parametrize("header", ["8e03978e", ' "8e03978e" ', '"8e03978e";v=1'])
def test_quoted_and_bare_are_one_key(shop: Shop, header: str) -> None:
    """The draft wants quotes; many clients send none."""
    shop.post()
    again = shop.post(headers={"Idempotency-Key": header})
    assert again.headers["Idempotent-Replayed"] == "true"


def test_quotes_in_a_key_are_escaped() -> None:
    """As in a string of RFC 9651."""
    assert parse_key(r'"a \"b\" \\c"') == r'a "b" \c'
    assert parse_key('"' + "k" * 255 + '"') == "k" * 255


@pytest.mark.parametrize(
    "header",
    ["", '""', '"open', 'a"b', "two words", '"a", "b"', "a,b", "k" * 256, "\xfc"]
    + ['"a"b', '"\xfc"', '"a\\b"'],
)
def test_a_key_that_is_none_is_refused(shop: Shop, header: str) -> None:
    """Also two in one request."""
    answer = shop.post(headers={"Idempotency-Key": header})
    assert problem(answer, 400)
    assert not shop.ran


def test_a_key_that_is_required_must_be_there(shop: Shop) -> None:
    """With it the view runs."""
    shop.add("/pay", "required")
    assert "needs an Idempotency-Key" in problem(shop.post("/pay", headers={}), 400)
    assert shop.post("/pay").status_code == 201
    assert shop.ran == ["/pay"]


def test_a_key_that_is_off_tells_nothing(shop: Shop) -> None:
    """Not even if it is no good."""
    shop.add("/free", "off")

    for header in ('"a"', '"a"', '"open'):
        headers = {"Idempotency-Key": header}
        assert shop.post("/free", headers=headers).status_code == 201

    assert len(shop.ran) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"json": {"a": 2}},
        {"url": "/orders?x=1"},
        {"method": "PUT"},
    ],
)
def test_the_same_key_for_another_request_is_refused(
    shop: Shop, changes: dict[str, t.Any]
) -> None:
    """Method, path, query and body must be the same."""
    shop.post(json={"a": 1})
    options: dict[str, t.Any] = {"url": "/orders", "json": {"a": 1}, **changes}
    method = options.pop("method", "POST")
    url = options.pop("url")
    answer = shop.client.open(url, method=method, headers=KEY, **options)
    assert "used before for another request" in problem(answer, 422)
    assert len(shop.ran) == 1


def test_the_path_belongs_to_the_request(shop: Shop) -> None:
    """Two orders of one endpoint are two requests."""
    shop.app.add_url_rule("/again", "orders", methods=["POST"])
    shop.post()
    assert problem(shop.post("/again"), 422)


def form(**changes: t.Any) -> dict[str, t.Any]:
    """Make a form with a file, which the client gives a boundary each time."""
    name, content, kind = "a.txt", b"hello", "text/plain"
    fields: dict[str, t.Any] = {"name": name, "content": content, "kind": kind}
    fields |= {"title": "Mine", **changes}
    file = (io.BytesIO(fields["content"]), fields["name"], fields["kind"])
    return {"data": MultiDict([("title", fields["title"]), ("file", file)])}


def test_a_form_with_files_is_compared_by_its_parts(shop: Shop) -> None:
    """Its boundary is another each time."""
    bodies: list[bytes] = []
    shop.app.before_request(lambda: bodies.append(request.get_data(cache=True)))
    shop.post(**form())
    again = shop.post(**form())
    assert bodies[0] != bodies[1]
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    "change",
    [{"content": b"bye"}, {"name": "b.txt"}, {"kind": "text/html"}, {"title": "Yours"}],
)
def test_a_form_with_another_part_is_another(
    shop: Shop, change: dict[str, t.Any]
) -> None:
    """Names, file names, content types and bytes count."""
    shop.post(**form())
    assert problem(shop.post(**form(**change)), 422)


@pytest.mark.parametrize("body", [b"no form", b"--x\r\nbroken", b""])
def test_a_form_that_is_none_is_compared_byte_by_byte(shop: Shop, body: bytes) -> None:
    """Whatever the view makes of it."""
    options: dict[str, t.Any] = {"content_type": "multipart/form-data; boundary=x"}
    shop.post(data=body, **options)
    assert "Idempotent-Replayed" in shop.post(data=body, **options).headers
    assert problem(shop.post(data=body + b"!", **options), 422)


PART = "Content-Disposition: form-data; name=a\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [f"{PART}\r\n1"] * 4,
        [PART + "X: y\r\n" * 20 + "\r\n1"],
        [f"{PART}X: {'y' * 20_000}\r\n\r\n1"],
    ],
    ids=["parts", "lines", "a long line"],
)
def test_a_form_with_too_much_in_it_is_compared_byte_by_byte(
    shop: Shop, parts: list[str]
) -> None:
    """To read millions of parts or lines would take seconds."""
    shop.app.config["MAX_FORM_PARTS"] = 3

    def send(mark: str) -> t.Any:
        body = "".join(f"--{mark}\r\n{part}\r\n" for part in parts) + f"--{mark}--"
        kind = f"multipart/form-data; boundary={mark}"
        return shop.post(data=body, content_type=kind)

    send("x")
    assert "Idempotent-Replayed" in send("x").headers
    assert problem(send("z"), 422)


def test_while_the_first_attempt_runs_the_same_is_a_conflict(
    app: Flask, durable: FlaskDurable
) -> None:
    """It says when to come again, and where to look."""
    began, go_on = threading.Event(), threading.Event()

    @app.post("/slow")
    @durable.endpoint
    def slow() -> str:
        began.set()
        assert go_on.wait(30)
        return "done"

    def post() -> t.Any:
        return app.test_client().post("/slow", headers=KEY)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(post)
        assert began.wait(30)
        answer = post()
        go_on.set()
        assert first.result(30).text == "done"

    assert "is being answered" in problem(answer, 409)
    assert answer.headers["Retry-After"] == "1"
    assert answer.json["status_url"] == status_link(answer)
    assert status_link(answer) == status_link(first.result())
    assert post().headers["Idempotent-Replayed"] == "true"


def test_of_a_suspended_execution_the_promise_is_given_again(
    shop: Shop, drive: Drive
) -> None:
    """And in the end the stored response."""
    first, again = shop.post("/orders?nap"), shop.post("/orders?nap")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json["id"] == first.json["id"]
    assert again.headers["Location"] == status_link(again)
    assert int(again.headers["Retry-After"]) > 50
    assert "Idempotent-Replayed" not in again.headers
    html = shop.post("/orders?nap", headers={**KEY, "Accept": "text/html"})
    assert html.status_code == 303
    drive.advance(61)
    drive.run_due()
    final = shop.post("/orders?nap")
    assert (final.status_code, final.headers["Idempotent-Replayed"]) == (201, "true")
    assert len(shop.ran) == 2


def test_a_failure_is_given_again(shop: Shop) -> None:
    """A key is for one execution, however that ends."""
    shop.app.register_error_handler(RuntimeError, lambda error: ("sorry", 500))

    @shop.app.post("/fails")
    @shop.durable.endpoint
    def fails() -> str:
        raise RuntimeError("broken")

    answers = [shop.post("/fails") for _ in range(2)]
    assert [(answer.status_code, answer.text) for answer in answers] == [
        (500, "sorry"),
        (500, "sorry"),
    ]
    assert answers[1].headers["Idempotent-Replayed"] == "true"


def test_a_response_that_was_too_big_is_gone(shop: Shop, app: Flask) -> None:
    """Nothing runs a second time for it."""

    @app.post("/big")
    @shop.durable.endpoint
    def big() -> str:
        return "x" * 5 * 1024 * 1024

    assert shop.post("/big").status_code == 200
    assert problem(shop.post("/big"), 507)


# Scope


def test_a_key_belongs_to_its_endpoint(shop: Shop) -> None:
    """Two endpoints may get the same."""
    shop.add("/other", "optional")
    shop.post()
    assert shop.post("/other").status_code == 201
    assert shop.ran == ["/orders", "/other"]


def test_a_key_belongs_to_an_app(
    shop: Shop, database_url: str, durable: FlaskDurable
) -> None:
    """Those that share a journal don't share keys."""
    other = Flask("other")
    other.config.update(DURABLE_DATABASE_URL=database_url, SECRET_KEY="x", TESTING=True)
    durable.init_app(other)
    second = Shop(other, durable)
    assert "Idempotent-Replayed" not in shop.post().headers
    assert "Idempotent-Replayed" not in second.post().headers
    other.extensions["durable"].close()


@pytest.mark.parametrize("matching", ["host", "subdomain", None])
def test_a_key_belongs_to_a_host_that_rules_match(
    sqlite_url: str, matching: str | None
) -> None:
    """Tenants may have one each. Else a host is one of several names of the app."""
    options: dict[str, t.Any] = {f"{matching}_matching": True} if matching else {}
    static = "static.example" if matching == "host" else None
    app = Flask("tenants", static_host=static, **options)
    app.config.update(SECRET_KEY="x", TESTING=True, SERVER_NAME="shop.example")
    app.config["DURABLE_DATABASE_URL"] = sqlite_url
    durable = FlaskDurable(app)
    where = {"host": {"host": "<tenant>"}, "subdomain": {"subdomain": "<tenant>"}}

    @app.post("/orders", **where.get(matching or "", {}))
    @durable.endpoint
    def order(tenant: str = "") -> str:
        return "done"

    def send(host: str) -> bool:
        url = f"http://{host}.shop.example"
        answer = app.test_client().post("/orders", base_url=url, headers=KEY)
        assert answer.status_code == 200
        return "Idempotent-Replayed" in answer.headers

    assert [send("a"), send("b"), send("A")] == [False, not matching, True]
    app.extensions["durable"].close()


def test_a_key_belongs_to_an_identity(shop: Shop) -> None:
    """Two users may have the same, whatever their tokens are."""
    shop.durable.identity(lambda: request.headers.get("User"))
    ada = {**KEY, "User": "ada"}
    shop.post(headers={**ada, "Authorization": "Bearer 1"})
    assert shop.post(headers={**KEY, "User": "bob"}).json == {"run": 2}
    again = shop.post(headers={**ada, "Authorization": "Bearer 2"})
    assert (again.json, len(shop.ran)) == ({"run": 1}, 2)


@pytest.mark.parametrize("hook", [True, False])
def test_a_key_without_an_identity_belongs_to_credentials(
    shop: Shop, hook: bool
) -> None:
    """Of which only a digest is kept."""
    if hook:
        shop.durable.identity(lambda: None)

    one = {**KEY, "Authorization": "Bearer 1"}
    shop.post(headers=one)
    assert shop.post(headers={**KEY, "Authorization": "Bearer 2"}).json == {"run": 2}
    assert shop.post().json == {"run": 3}
    assert shop.post(headers=one).json == {"run": 1}


# A function that takes the key from the request


def test_a_session_is_no_identity(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Its users share keys, which is said once."""
    shop.client.set_cookie("session", "alice")
    shop.post()
    shop.client.set_cookie("session", "bob")
    assert "Idempotent-Replayed" in shop.post().headers
    (said,) = [text for text in caplog.messages if "@durable.identity" in text]
    assert '"orders" has an Idempotency-Key and a cookie' in said


@pytest.mark.parametrize("case", ["no cookie", "credentials", "hook", "function"])
def test_keys_that_are_not_shared_are_no_matter(
    shop: Shop, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """Also if the hook says that it is nobody's."""
    if case == "hook":
        shop.durable.identity(lambda: None)

    shop.add("/own", (lambda: "8e03978e") if case == "function" else "optional")
    headers = KEY | ({} if case == "no cookie" else {"Cookie": "session=alice"})
    shop.post(
        "/own",
        headers=headers | {"Authorization": "x"} if case == "credentials" else headers,
    )
    assert "@durable.identity" not in caplog.text


def test_a_function_takes_the_key_from_the_request(shop: Shop) -> None:
    """The header tells nothing then."""
    shop.add("/hook", lambda: request.get_json()["id"])
    first = shop.post("/hook", json={"id": "evt_1"}, headers={})
    again = shop.post("/hook", json={"id": "evt_1"}, headers={"Idempotency-Key": "!"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert shop.post("/hook", json={"id": "evt_2"}).json == {"run": 2}


def test_an_async_function_takes_the_key(shop: Shop) -> None:
    """Views may be async, too."""

    async def key() -> str:
        return "one"

    shop.add("/hook", t.cast(t.Any, key))
    shop.post("/hook")
    assert shop.post("/hook").headers["Idempotent-Replayed"] == "true"


def test_a_function_may_find_no_key(shop: Shop) -> None:
    """Then each request is one of its own."""
    shop.add("/hook", lambda: None)
    assert [shop.post("/hook").json["run"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: {"a": ""}["id"], "raised KeyError: 'id'"),
        (lambda: 7, "returned 7: it must be a string, or None"),
    ],
)
def test_a_function_that_fails_is_an_error_of_the_app(
    shop: Shop,
    caplog: pytest.LogCaptureFixture,
    function: cabc.Callable[[], t.Any],
    message: str,
) -> None:
    """Nothing runs, and the log says why."""
    shop.add("/hook", function)
    assert shop.post("/hook").status_code == 500
    assert f'The idempotency function of endpoint "hook" {message}' in caplog.text
    assert not shop.ran


def test_a_function_may_refuse_the_request(shop: Shop) -> None:
    """As Flask does where there is no JSON."""
    shop.add("/hook", lambda: request.get_json()["id"])
    assert shop.post("/hook", data="none").status_code == 415
    assert problem(shop.post("/hook", json={"id": ""}), 400)
    assert not shop.ran


def test_a_replay_needs_no_key(shop: Shop, drive: Drive) -> None:
    """It has a ticket."""
    calls: list[str] = []

    def key() -> str:
        calls.append("called")
        return "key"

    shop.add("/hook", key)
    shop.post("/hook?nap")
    drive.advance(61)
    drive.run_due()
    assert shop.post("/hook?nap").status_code == 201
    assert calls == ["called"] * 2


def test_what_is_no_policy_is_refused() -> None:
    """When the view is made durable."""
    with pytest.raises(ValueError, match='idempotency is "optional", "required"'):
        Options(idempotency=t.cast(t.Any, "always"))


# The journal


def test_a_key_lasts_as_long_as_its_execution(shop: Shop, drive: Drive) -> None:
    """Once that is deleted the key is free."""
    shop.post()

    with shop.app.app_context():
        drive.advance(60)
        assert shop.durable.purge(1) == 1

    assert shop.post().json == {"run": 2}


RECORD = RequestRecord(b"{}", None, b"", "digest")


def begin(store: Store, execution_id: str, start: bool = False) -> float | None:
    """Store an execution with the key."""
    key = RequestKey("key", "print")

    if start:
        return store.start(execution_id, "view", RECORD, None, key=key)

    return store.begin(execution_id, "view", "a:1:1", 60.0, RECORD, None, key=key)


@pytest.mark.parametrize("start", [False, True])
def test_a_key_whose_commit_lost_its_answer_is_ones_own(
    store: Store, monkeypatch: pytest.MonkeyPatch, start: bool
) -> None:
    """There is one execution, and it is begun once."""
    breaks_once(store, monkeypatch, "start" if start else "begin")
    execution_id = new_id()
    assert begin(store, execution_id, start) is not None

    with pytest.raises(KeyTaken, match=execution_id):
        begin(store, new_id())


@pytest.mark.parametrize("start", [False, True])
def test_many_with_one_key_and_one_begins(store: Store, start: bool) -> None:
    """The others hear who it was."""
    store.check()
    barrier = threading.Barrier(8)

    def race(number: int) -> str:
        execution_id = new_id()
        barrier.wait(30)

        try:
            begin(store, execution_id, start)
        except KeyTaken as taken:
            return taken.execution_id

        return execution_id

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(race, range(8)))) == 1


def test_a_key_that_is_freed_meanwhile_is_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other execution was deleted between the two statements."""
    begin(store, new_id())
    same = store.sql.same

    def deleted(connection: t.Any, **values: t.Any) -> t.Any:
        connection.exec_driver_sql("DELETE FROM durable_executions")
        return same(connection, **values)

    monkeypatch.setattr(store.sql, "same", deleted)
    assert begin(store, new_id()) is not None


def test_a_key_costs_no_statement(shop: Shop, drive: Drive) -> None:
    """A repeat costs the INSERT that meets the other, and SELECTs."""
    shop.post(headers={})

    with counted(drive) as seen:
        shop.post()

    assert seen == ["INSERT", "INSERT", "UPDATE"]

    with counted(drive) as seen:
        shop.post()

    assert seen == ["INSERT", "SELECT", "SELECT", "SELECT"]


# durable.start


def test_two_starts_with_one_key_are_one(shop: Shop, drive: Drive) -> None:
    """As those of cron on two machines."""
    with shop.app.app_context():

        def start(**options: t.Any) -> str:
            return shop.durable.start("orders", json={"day": 1}, **options)

        first = start(idempotency_key="monday")
        assert start(idempotency_key="monday") == first
        assert start(idempotency_key="tuesday") != first
        assert start() != first

        with pytest.raises(ValueError, match=f"another request, by execution {first}"):
            shop.durable.start("orders", json={}, idempotency_key="monday")

        with pytest.raises(ValueError, match="1 to 255 characters"):
            start(idempotency_key="")

    assert drive.run_due() == 3


def test_the_command_takes_a_key(shop: Shop) -> None:
    """It prints the id of the first."""
    runner = shop.app.test_cli_runner()
    command = ["durable", "start", "orders", "--key", "monday"]
    first, again = (runner.invoke(args=command) for _ in range(2))
    assert (first.exit_code, again.output) == (0, first.output)


def test_a_client_does_not_meet_what_was_started(shop: Shop) -> None:
    """Its keys are others."""
    with shop.app.app_context():
        shop.durable.start("orders", idempotency_key="8e03978e")

    assert shop.post().status_code == 201
