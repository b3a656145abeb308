"""The captured request: what the view reads in the first attempt and in a replay."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import io
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask import jsonify
from flask import request
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_durable import FlaskDurable
from flask_durable import step

from ..driving import Drive
from ..serving import serving
from .conftest import MakeApp
from .helpers import Flaky

PNG = b"\x89PNG\r\n\x1a\n\x00\xff--boundary\r\n\r\n"


class Twice(t.Protocol):
    """Send a request to a durable view that looks, sleeps, and looks again."""

    def __call__(
        self, look: cabc.Callable[[], t.Any], path: str = "/work", /, **kwargs: t.Any
    ) -> t.Any: ...


@pytest.fixture
def twice(app: Flask, durable: FlaskDurable, drive: Drive) -> Twice:
    """Give what a view saw, and see to it that both attempts saw the same."""
    seen: list[t.Any] = []
    looks: list[cabc.Callable[[], t.Any]] = []

    @durable.endpoint
    def work(**values: t.Any) -> str:
        seen.append(looks[-1]())
        step.sleep("nap", 60)
        return "done"

    methods = ["POST", "GET", "PUT", "PATCH", "DELETE"]
    app.add_url_rule("/work", view_func=work, methods=methods)
    app.add_url_rule("/work/<path:rest>", view_func=work, methods=methods)

    def send(
        look: cabc.Callable[[], t.Any], path: str = "/work", /, **kwargs: t.Any
    ) -> t.Any:
        looks.append(look)
        client = app.test_client(use_cookies=False)
        kwargs.setdefault("method", "POST")
        assert client.open(path, **kwargs).status_code == 202
        drive.advance(61)
        assert drive.run_due() == 1
        first, second = seen[-2:]
        assert first == second
        return first

    return send


MULTIPART = "multipart/form-data; boundary=seat"
FORM = b"""--seat\r
Content-Disposition: form-data; name="name"\r
\r
Ann\r
--seat\r
Content-Disposition: form-data; name="photo"; filename="p.png"\r
Content-Type: image/png\r
\r
%b\r
--seat--\r
"""

BODIES: dict[str, dict[str, t.Any]] = {
    "json": {"json": {"flight": "LX 1", "price": [1.5, None]}},
    "form": {"data": {"name": "Ann", "tags": ["a", "b"], "e": "ü&=+ %"}},
    "multipart": {"data": FORM % PNG, "content_type": MULTIPART},
    "binary": {"data": PNG * 1000, "content_type": "application/octet-stream"},
    "text": {"data": "ü", "content_type": "text/plain; charset=latin-1"},
    "empty": {},
    "empty json": {"data": b"", "content_type": "application/json"},
}

READERS: dict[str, cabc.Callable[[], t.Any]] = {
    "json": lambda: request.get_json(silent=True),
    "form": lambda: request.form.to_dict(flat=False),
    "files": lambda: [
        (key, one.filename, one.content_type, one.read())
        for key, one in request.files.items(multi=True)
    ],
    "values": lambda: request.values.to_dict(flat=False),
    "get_data": lambda: request.get_data(),
    "data": lambda: request.data,
    "stream": lambda: request.stream.read(),
    "stream in parts": lambda: list(iter(lambda: request.stream.read(7), b"")),
    "length": lambda: (request.content_length, request.content_type),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_read_like_in_a_plain_view(
    app: Flask, twice: Twice, client: FlaskClient, name: str
) -> None:
    """Whichever way it is read, both attempts see what a plain view sees."""
    plain: list[t.Any] = []

    @app.post("/plain/<reader>")
    def view(reader: str) -> str:
        plain.append(READERS[reader]())
        return "done"

    for reader, look in READERS.items():
        client.post(f"/plain/{reader}", **BODIES[name])
        assert (reader, twice(look, **BODIES[name])) == (reader, plain[-1])


def test_a_form_and_files_after_each_other(twice: Twice) -> None:
    """Fields, then a file's bytes and name, from one body."""

    def look() -> list[t.Any]:
        photo = request.files["photo"]
        return [request.form["name"], photo.filename, photo.read(), photo.mimetype]

    seen = twice(look, **BODIES["multipart"])
    assert seen == ["Ann", "p.png", PNG, "image/png"]


def test_two_files_under_one_name(twice: Twice) -> None:
    """Both are there, in their order."""

    def look() -> list[t.Any]:
        return [(one.filename, one.read()) for one in request.files.getlist("f")]

    files = [(io.BytesIO(b"1"), "ü.txt"), (io.BytesIO(b"2"), "b.txt")]
    assert twice(look, data={"f": files}) == [("ü.txt", b"1"), ("b.txt", b"2")]


def test_a_body_without_a_length(twice: Twice) -> None:
    """A chunked body, which the server marks as ended by its input."""
    seen = twice(
        lambda: request.get_data(),
        input_stream=io.BytesIO(PNG * 10_000),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert seen == PNG * 10_000


def test_a_body_of_more_than_a_megabyte(twice: Twice) -> None:
    """Every byte value, in any place."""
    content = bytes(range(256)) * 8192
    assert twice(lambda: request.get_data(), data=content) == content


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_method_is_kept(twice: Twice, method: str) -> None:
    """With its body."""
    seen = twice(lambda: (request.method, request.get_data()), method=method, data=b"x")
    assert seen == (method, b"x")


def test_headers_are_kept(twice: Twice) -> None:
    """Each with its value, repeated ones too."""
    headers = [
        ("X-Tag", "a"),
        ("X-Tag", "b, c"),
        ("Accept-Language", "de;q=0.9"),
        ("X-Empty", ""),
        ("User-Agent", "Trip/1"),
        ("If-Match", '"v1"'),
        ("Cookie", "theme=dark; seat=14A"),
    ]

    def look() -> dict[str, list[str]]:
        return {
            key.lower(): request.headers.getlist(key)
            for key in request.headers.keys()
            if key != "Durable-Replay"
        }

    seen = twice(look, headers=headers)
    assert ",".join(seen["x-tag"]).replace(" ", "") == "a,b,c"
    assert seen["accept-language"] == ["de;q=0.9"]
    assert seen["x-empty"] == [""]
    assert seen["user-agent"] == ["Trip/1"]
    assert seen["if-match"] == ['"v1"']
    assert seen["cookie"] == ["theme=dark; seat=14A"]


def test_a_header_beyond_ascii_is_kept(twice: Twice) -> None:
    """Latin-1 bytes, as WSGI has them."""
    seen = twice(lambda: request.headers["X-Name"], headers={"X-Name": "Zoë"})
    assert seen == "Zoë"


def test_cookies_are_kept(twice: Twice) -> None:
    """Each cookie that the client sent."""
    seen = twice(lambda: request.cookies.to_dict(), headers={"Cookie": "a=1; b=2; b=3"})
    assert seen["a"] == "1"


@pytest.mark.parametrize(
    "query", ["q=1&q=2&empty=", "x=%2F%26+%E2%9C%93", "b=2&a=1", "flag", "a=%ff", "%"]
)
def test_a_query_is_kept_as_it_was_sent(twice: Twice, query: str) -> None:
    """Repeated, encoded, empty, broken: byte for byte."""
    seen = twice(
        lambda: (request.query_string, request.args.to_dict(flat=False)),
        query_string=query,
    )
    assert seen[0] == query.encode()


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/work/p%C3%A4th/%E2%9C%93", "päth/✓"),
        ("/work/a%20b%3Fc%23d", "a b?c#d"),
        ("/work/100%25", "100%"),
        ("/work/a%2Fb", "a/b"),
        ("/work/a+b;c=d", "a+b;c=d"),
        ("/work/a/../b/./c", "a/../b/./c"),
    ],
)
def test_a_path_is_kept(twice: Twice, path: str, rest: str) -> None:
    """Also what is encoded in it; the rule's converters see the same text."""
    seen = twice(lambda: (request.view_args, request.url, request.full_path), path)
    assert seen[0] == {"rest": rest}


def test_url_values_keep_their_types(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """Converters work on each attempt."""
    seen: list[t.Any] = []

    @app.post("/trips/<int:number>/<uuid:user>/<float:price>")
    @durable.endpoint
    def work(**values: t.Any) -> str:
        seen.append(values)
        step.sleep("nap", 60)
        return "done"

    user = "0198c0de-0000-7000-8000-000000000001"
    drive.finish(client.post(f"/trips/7/{user}/9.5"))
    assert [type(one).__name__ for one in seen[0].values()] == ["int", "UUID", "float"]
    assert seen[0] == seen[1]


def address() -> list[t.Any]:
    """List all that a view may know of the way of the request."""
    return [
        request.remote_addr,
        request.scheme,
        request.is_secure,
        request.host,
        request.url,
        request.script_root,
        request.root_url,
        list(request.access_route),
    ]


def test_client_address_scheme_and_host_are_kept(twice: Twice) -> None:
    """Whoever replays, the view sees the client."""
    seen = twice(
        address,
        base_url="https://shop.example:8443",
        environ_overrides={"REMOTE_ADDR": "203.0.113.7"},
    )
    assert seen[:4] == ["203.0.113.7", "https", True, "shop.example:8443"]
    assert seen[4] == "https://shop.example:8443/work"


def test_a_mount_point_is_kept(twice: Twice) -> None:
    """An app that is mounted under a prefix has it in each attempt."""
    seen = twice(address, base_url="http://shop.example/api")
    assert seen[4:7] == [
        "http://shop.example/api/work",
        "/api",
        "http://shop.example/api/",
    ]


def test_the_address_behind_a_proxy_is_kept(app: Flask, twice: Twice) -> None:
    """Middleware that mends it runs at each attempt, and comes to the same."""
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1, x_prefix=1)  # type: ignore[method-assign]
    seen = twice(
        address,
        headers={
            "X-Forwarded-For": "203.0.113.7",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "shop.example",
            "X-Forwarded-Prefix": "/api",
        },
        environ_overrides={"REMOTE_ADDR": "10.0.0.1"},
    )
    assert seen[:4] == ["203.0.113.7", "https", True, "shop.example"]
    assert seen[4] == "https://shop.example/api/work"


@pytest.mark.config(DURABLE_MAX_REQUEST_BYTES=100)
def test_a_body_over_the_limit_is_refused(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """413 as a problem, before the view runs."""
    view = Flaky("done")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return view()

    response = client.post("/work", data=b"x" * 101)
    assert response.status_code == 413
    assert response.mimetype == "application/problem+json"
    assert response.get_json()["status"] == 413
    assert view.calls == 0
    assert client.post("/work", data=b"x" * 100).text == "done"


@pytest.mark.config(DURABLE_MAX_REQUEST_BYTES=100)
def test_a_body_without_a_length_over_the_limit_is_refused(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """No length is no way around the limit."""
    view = Flaky("done")

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return view()

    def send(length: int) -> int:
        return client.post(
            "/work",
            input_stream=io.BytesIO(b"x" * length),
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True},
        ).status_code

    assert send(101) == 413
    assert view.calls == 0
    assert send(100) == 200


@pytest.mark.config(DURABLE_MAX_REQUEST_BYTES=100)
@pytest.mark.parametrize("limit", [50, 200])
def test_an_endpoint_may_have_a_limit_of_its_own(
    app: Flask, durable: FlaskDurable, client: FlaskClient, limit: int
) -> None:
    """Smaller or bigger than that of the config."""

    @app.post("/work")
    @durable.endpoint(max_request_bytes=limit)
    def work() -> str:
        return "done"

    @app.post("/other")
    @durable.endpoint
    def other() -> str:
        return "done"

    assert client.post("/work", data=b"x" * limit).status_code == 200
    assert client.post("/work", data=b"x" * (limit + 1)).status_code == 413
    assert client.post("/other", data=b"x" * 100).status_code == 200
    assert client.post("/other", data=b"x" * 101).status_code == 413


@pytest.mark.parametrize("replay", ["in process", "http"])
def test_a_limit_that_is_lower_by_now_stops_no_replay(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
    replay: str,
) -> None:
    """What was accepted once is finished."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return str(len(request.get_data()))

    answer = client.post("/work", data=b"x" * 1000)
    assert answer.status_code == 202
    lower = dataclasses.replace(drive.state.config, max_request_bytes=10)
    monkeypatch.setattr(drive.state, "config", lower)

    with serving(app) as url:
        if replay == "http":
            higher = dataclasses.replace(lower, replay_url=url)
            monkeypatch.setattr(drive.state, "config", higher)

        assert drive.finish(answer).text == "1000"

    assert client.post("/work", data=b"x" * 1000).status_code == 413
    bad = {"Durable-Replay": "bad"}
    assert client.post("/work", data=b"x" * 1000, headers=bad).status_code == 403


@pytest.mark.config(DURABLE_MAX_REQUEST_BYTES=100)
@pytest.mark.parametrize("limit", [None, 50, 200])
def test_a_limit_is_the_same_for_what_no_client_sends(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    limit: int | None,
) -> None:
    """Over it, the caller hears so, as of a wrong argument; nothing is stored."""

    @app.post("/work")
    @durable.endpoint(max_request_bytes=limit)
    def work() -> dict[str, object]:
        return {"size": len(request.get_data())}

    @app.post("/parent/<int:size>")
    @durable.endpoint
    def parent(size: int) -> t.Any:
        return step.invoke("child", "work", json="x" * (size - 2))

    most = limit or 100

    with app.app_context():
        started = durable.start("work", json="x" * (most - 2))
        drive.run_due()
        assert durable.get(started).status == "completed"

        with pytest.raises(ValueError, match=f"{most + 1} bytes, and its limit is"):
            durable.start("work", json="x" * (most - 1))

    answer = client.post(f"/parent/{most}")
    assert drive.finish(answer).get_json() == {"size": most}
    answer = client.post(f"/parent/{most + 1}")
    assert answer.status_code == 500


@pytest.mark.config(DURABLE_MAX_REQUEST_BYTES=100)
def test_the_limit_is_not_for_plain_views(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """What isn't captured isn't limited."""

    @app.post("/plain")
    def plain() -> str:
        return str(len(request.get_data()))

    assert client.post("/plain", data=b"x" * 1000).text == "1000"


@pytest.mark.config(MAX_CONTENT_LENGTH=100)
def test_the_apps_own_limit_holds(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """Flask's ``MAX_CONTENT_LENGTH`` is 413 as in a plain view."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        return str(len(request.get_data()))

    assert client.post("/work", data=b"x" * 101).status_code == 413
    assert client.post("/work", data=b"x" * 100).text == "100"


def test_broken_json_is_the_apps_own_error(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """400 by the app's handler completes the execution; no retry."""

    @app.errorhandler(400)
    def bad(error: BadRequest) -> ResponseReturnValue:
        return jsonify(error="not JSON"), 400

    @app.post("/work")
    @durable.endpoint
    def work() -> ResponseReturnValue:
        step.run("a", lambda: 1)
        return {"seat": request.json}

    response = client.post("/work", data=b"{", content_type="application/json")
    assert (response.status_code, response.json) == (400, {"error": "not JSON"})
    assert drive.status(response)["status"] == "completed"
    assert drive.run_due() == 0


def test_a_missing_field_is_the_apps_own_error(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """``request.form["seat"]`` that isn't there is 400, not a failure."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("a", lambda: 1)
        return request.form["seat"]

    response = client.post("/work", data={"car": "1"})
    assert response.status_code == 400
    assert drive.status(response)["status"] == "completed"


def test_a_hook_that_reads_the_form_leaves_it_to_the_view(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The request is captured before hooks, as CSRF protection is one."""
    seen: list[t.Any] = []

    @app.before_request
    def look() -> None:
        seen.append(request.form.get("seat"))

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        seen.append(request.form["seat"])
        step.sleep("nap", 60)
        return "done"

    response = client.post("/work", data={"seat": "14A"})
    drive.advance(61)
    assert drive.run_due() == 1
    assert drive.status(response)["status"] == "completed"
    assert [one for one in seen if one] == ["14A"] * 4


def test_a_hook_that_empties_the_stream_gets_it_again_in_a_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """What is stored is what the client sent."""
    seen: list[bytes] = []

    @app.before_request
    def look() -> None:
        if request.method == "POST":
            seen.append(request.stream.read())

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    drive.finish(client.post("/work", data=PNG))
    assert seen == [PNG, PNG]


def test_a_view_that_never_reads_the_body_has_it_in_a_replay(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """The whole body is stored before the view runs."""
    seen: list[bytes] = []

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        seen.append(request.get_data())
        return "done"

    drive.finish(client.post("/work", data=PNG))
    assert seen == [PNG]


def test_credentials_are_erased_when_the_execution_ends(
    app: Flask,
    durable: FlaskDurable,
    client: FlaskClient,
    drive: Drive,
    database_url: str,
) -> None:
    """While it runs they are stored, afterwards no column has them."""

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.sleep("nap", 60)
        return "done"

    headers = {"Authorization": "Bearer hush-hush", "Cookie": "sid=whisper"}
    response = app.test_client(use_cookies=False).post("/work", headers=headers)
    assert secrets_in(database_url) == {"hush-hush", "whisper"}
    drive.finish(response)
    assert secrets_in(database_url) == set()


def secrets_in(database_url: str) -> set[str]:
    """Find the secrets of the test above in any cell of any table."""
    engine = sa.create_engine(database_url)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    found = set()
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            cells = repr([tuple(row) for row in connection.execute(table.select())])
            found |= {secret for secret in ("hush-hush", "whisper") if secret in cells}
    engine.dispose()
    return found


def test_a_host_that_the_app_routes_by_is_kept(
    make_app: MakeApp, sqlite_url: str
) -> None:
    """With ``SERVER_NAME`` and a rule for a subdomain."""
    app = make_app(DURABLE_DATABASE_URL=sqlite_url, SERVER_NAME="shop.example:5000")
    app.subdomain_matching = True
    durable = FlaskDurable(app)
    seen: list[t.Any] = []

    @app.post("/work", subdomain="<tenant>")
    @durable.endpoint
    def work(tenant: str) -> str:
        seen.append((tenant, request.url))
        step.sleep("nap", 60)
        return "done"

    response = app.test_client().post("/work", base_url="http://ann.shop.example:5000")
    assert response.status_code == 202
    drive = Drive(app)
    drive.advance(61)
    assert drive.run_due() == 1
    assert seen == [("ann", "http://ann.shop.example:5000/work")] * 2
