"""Who may use the console, and what keeps it safe."""

from __future__ import annotations

import collections.abc as cabc
import re
import typing as t

import pytest
from flask import abort
from flask import Flask
from flask import redirect
from flask import Request
from flask import session
from flask.testing import FlaskClient
from flask_wtf.csrf import CSRFProtect

from flask_durable import ConsoleAccess
from flask_durable import FlaskDurable
from flask_durable import step

from .console_pages import address
from .console_pages import LIST
from .console_pages import press
from .console_pages import text
from .console_pages import token
from .driving import Drive

PAGES = [LIST, f"{LIST}stats", f"{LIST}files/console.css", address("none")]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Use one database: who may see it does not depend on it."""
    return sqlite_url


@pytest.fixture
def mine(app: Flask, durable: FlaskDurable, client: FlaskClient) -> str:
    """Make an execution that sleeps."""

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.run("dream", lambda: {"of": "sheep"})
        step.sleep("nap", 3600)
        return "rested"

    return client.post("/nap", json={"bed": "soft"}).headers["Durable-Execution"]


@pytest.fixture
def allow(durable: FlaskDurable) -> cabc.Callable[[t.Any], None]:
    """Let the console be used as the test says."""

    def allow(answer: t.Any) -> None:
        durable.console_auth(lambda request: answer)

    return allow


Allow = cabc.Callable[[t.Any], None]


@pytest.mark.usefixtures("durable")
@pytest.mark.parametrize("url", PAGES)
def test_it_is_off_by_default(client: FlaskClient, url: str) -> None:
    """Nothing tells that it exists."""
    assert client.get(url).status_code == 404
    assert client.post(address("none", "cancel")).status_code == 404


@pytest.mark.parametrize("answer", [False, ConsoleAccess(view=False, act=True)])
def test_who_may_not_see_it_gets_404(
    client: FlaskClient, allow: Allow, mine: str, answer: t.Any
) -> None:
    """Also for what is there."""
    allow(answer)

    for url in [*PAGES, address(mine)]:
        assert client.get(url).status_code == 404

    assert client.post(address(mine, "cancel")).status_code == 404


def test_true_allows_all(client: FlaskClient, allow: Allow, mine: str) -> None:
    """Data and buttons."""
    allow(True)
    page = client.get(address(mine))
    assert page.status_code == 200
    assert '"bed": "soft"' in text(page)
    assert press(client, mine, "cancel").status_code == 303


def test_without_data_there_are_no_values(
    client: FlaskClient, allow: Allow, mine: str
) -> None:
    """Neither of requests nor of steps."""
    allow(ConsoleAccess())
    said = text(client.get(address(mine)))
    assert "dream" in said and "soft" not in said
    said = text(client.get(address(mine, "step"), query_string={"name": "dream"}))
    assert "completed" in said.lower() and "sheep" not in said


def test_without_data_there_are_no_messages(
    app: Flask, durable: FlaskDurable, client: FlaskClient, allow: Allow
) -> None:
    """A message may say anything; the type of an error is told."""

    @app.post("/fail")
    @durable.endpoint(retry=None)
    def fail() -> t.Any:
        step.run("pay", abort_with, "card 4242")

    def abort_with(secret: str) -> None:
        from flask_durable import NonRetryableError

        raise NonRetryableError(secret)

    mine = client.post("/fail").headers["Durable-Execution"]
    allow(ConsoleAccess(act=True))
    urls = [LIST, address(mine), f"{address(mine, 'step')}?name=pay"]
    pages = [client.get(url) for url in urls]
    assert all(page.status_code == 200 for page in pages)
    assert not any("4242" in page.text for page in pages)
    assert "NonRetryableError" in pages[1].text
    allow(True)
    assert all("4242" in client.get(url).text for url in urls)


def test_who_may_not_act_has_no_buttons(
    client: FlaskClient, allow: Allow, mine: str, drive: Drive
) -> None:
    """And is refused without them."""
    allow(ConsoleAccess(data=True))
    assert "<form" not in client.get(address(mine)).text
    allow(True)
    form = {"token": token(client.get(address(mine)))}
    allow(ConsoleAccess(data=True))
    assert client.post(address(mine, "cancel"), data=form).status_code == 403
    assert drive.state.store.execution(mine).status == "suspended"


def test_the_apps_own_login_decides(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The function has the request, the session, and may send to a login."""

    @durable.console_auth
    async def may(request: Request) -> bool:
        if "user" not in session:
            abort(redirect("/login"))

        return request.headers.get("X-Office") == "yes"

    assert client.get(LIST).headers["Location"] == "/login"

    with client.session_transaction() as login:
        login["user"] = "ada"

    assert client.get(LIST).status_code == 404
    assert client.get(LIST, headers={"X-Office": "yes"}).status_code == 200


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_another_answer_is_an_error(
    client: FlaskClient, allow: Allow, answer: t.Any
) -> None:
    """What is only truthy may be a mistake."""
    allow(answer)
    client.application.config["PROPAGATE_EXCEPTIONS"] = True

    with pytest.raises(TypeError, match="return True, False or a ConsoleAccess"):
        client.get(LIST)


@pytest.fixture
def local(app: Flask) -> Flask:
    """Turn the console on for this machine."""
    app.config["DURABLE_CONSOLE"] = True
    app.debug = True
    FlaskDurable(app)
    return app


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:5000", "[::1]:80", "[::1]"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_in_debug(local: Flask, host: str, peer: str) -> None:
    """By a name that is its own."""
    client = local.test_client()
    environ = {"REMOTE_ADDR": peer, "HTTP_HOST": host}
    assert client.get(LIST, environ_overrides=environ).status_code == 200


@pytest.mark.parametrize(
    "environ",
    [
        {"REMOTE_ADDR": "10.0.0.7"},
        {"REMOTE_ADDR": "::ffff:10.0.0.7"},
        {"REMOTE_ADDR": ""},
        {"HTTP_HOST": "rebound.example"},
        {"HTTP_HOST": "127.0.0.1.example:5000"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        *(
            {f"HTTP_{name}": "127.0.0.1"}
            for name in (
                "X_FORWARDED",
                "X_FORWARDED_FOR",
                "X_FORWARDED_PREFIX",
                "X_FORWARDED_PROTO",
                "CF_CONNECTING_IP",
                "CF_RAY",
                "TRUE_CLIENT_IP",
                "X_CLIENT_IP",
                "X_REAL_IP",
            )
        ),
    ],
    ids=str,
)
def test_others_may_not(local: Flask, environ: dict[str, str]) -> None:
    """Nor who comes through a proxy, or by a foreign name."""
    client = local.test_client()
    assert client.get(LIST, environ_overrides=environ).status_code == 404


def test_not_without_debug(local: Flask) -> None:
    """A setting that was forgotten opens nothing."""
    local.debug = False
    assert local.test_client().get(LIST).status_code == 404


def test_the_function_decides_also_in_debug(local: Flask) -> None:
    """Where there is one, the setting is not asked."""
    local.extensions["durable"].hooks.console_auth = lambda request: False
    assert local.test_client().get(LIST).status_code == 404


@pytest.mark.parametrize("url", [*PAGES, f"{LIST}?status=odd"])
def test_answers_have_safe_headers(client: FlaskClient, allow: Allow, url: str) -> None:
    """Each of them, also those of errors."""
    allow(True)
    headers = client.get(url).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_files_may_be_kept_by_their_version(client: FlaskClient, allow: Allow) -> None:
    """Their address changes with what is in them."""
    allow(True)
    (url,) = re.findall(r'href="([^"]+\.css\?v=[^"]+)"', client.get(LIST).text)
    answer = client.get(url)
    assert answer.headers["Cache-Control"].startswith("private, max-age=")
    assert answer.content_type == "text/css; charset=utf-8"
    assert client.get(f"{LIST}files/pages.py").status_code == 404
    assert client.get(f"{LIST}files/..%2Froutes.py").status_code == 404


def test_pages_have_nothing_inline(
    client: FlaskClient, allow: Allow, mine: str
) -> None:
    """No script, no style, no handler that the policy would have to allow."""
    allow(True)

    for url in (LIST, address(mine), f"{LIST}stats"):
        page = client.get(url).text
        assert re.search(r"<style|<script(?! src)|\sstyle=|\son[a-z]+=", page) is None


@pytest.mark.parametrize(
    "form", [{}, {"token": ""}, {"token": "made.up"}, {"token": "é.é"}]
)
def test_buttons_need_their_token(
    client: FlaskClient, allow: Allow, mine: str, drive: Drive, form: dict[str, str]
) -> None:
    """Without it nothing is done."""
    allow(True)
    client.get(address(mine))

    for action in ("cancel", "resume", "rerun"):
        answer = client.post(address(mine, action), data=form)
        assert answer.status_code == 403
        assert "Nothing was done" in answer.text

    assert drive.state.store.execution(mine).status == "suspended"
    assert len(drive.state.control.find(None, None, None, 9)) == 1


def test_a_token_is_one_browsers(
    app: Flask, client: FlaskClient, allow: Allow, mine: str
) -> None:
    """Another browser's is not taken, nor one without its cookie."""
    allow(True)
    form = {"token": token(client.get(address(mine)))}
    other = app.test_client()
    assert other.post(address(mine, "cancel"), data=form).status_code == 403
    other.get(address(mine))
    assert other.post(address(mine, "cancel"), data=form).status_code == 403
    assert client.post(address(mine, "cancel"), data=form).status_code == 303


def test_a_form_of_another_site_is_refused(
    client: FlaskClient, allow: Allow, mine: str
) -> None:
    """Browsers say where a request comes from."""
    allow(True)
    form = {"token": token(client.get(address(mine)))}
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = client.post(address(mine, "cancel"), data=form, headers=headers)
    assert answer.status_code == 403


def test_the_cookie_is_for_the_console_alone(client: FlaskClient, allow: Allow) -> None:
    """Not for scripts, not for other sites; secure where the page is."""
    allow(True)
    cookie = client.get(LIST, base_url="https://localhost").headers["Set-Cookie"]
    assert "Path=/durable/console/" in cookie
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Secure" in cookie
    assert "Set-Cookie" not in client.get(LIST, base_url="https://localhost").headers


def test_flask_wtf_lets_the_buttons_be(
    app: Flask, durable: FlaskDurable, client: FlaskClient, allow: Allow
) -> None:
    """They have their own protection; the app's other forms keep theirs."""
    CSRFProtect(app)
    app.add_url_rule("/own", "own", lambda: "", methods=["POST"])

    @app.get("/nap")
    @durable.endpoint
    def nap() -> t.Any:
        step.sleep("nap", 60)

    mine = client.get("/nap").headers["Durable-Execution"]
    allow(True)
    assert client.post(address(mine, "cancel")).status_code == 403
    assert press(client, mine, "cancel").status_code == 303
    assert client.post("/own").status_code == 400


def test_flask_wtf_lets_callbacks_pass(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """They come from systems that have no token; their link is signed."""
    CSRFProtect(app)
    urls: list[str] = []

    @app.get("/ask")
    @durable.endpoint
    def ask() -> t.Any:
        callback = step.callback("answer")
        urls.append(callback.url)
        return callback.wait()

    client.get("/ask")
    assert client.post(urls[0], json={"ok": True}).status_code == 204


def test_another_apps_executions_are_not_shown(
    app: Flask, allow: Allow, mine: str, sqlite_url: str
) -> None:
    """Though they share the journal."""
    other = Flask("other")
    other.config.update(app.config)
    durable = FlaskDurable(other)
    durable.console_auth(lambda request: True)
    client = other.test_client()
    allow(True)
    form = {"token": token(app.test_client().get(address(mine)))}
    assert mine not in client.get(LIST).text
    assert client.get(address(mine)).status_code == 404
    client.set_cookie("durable_console", "x" * 32, path="/durable/console/")
    assert client.post(address(mine, "cancel"), data=form).status_code in (403, 404)
    other.extensions["durable"].close()
