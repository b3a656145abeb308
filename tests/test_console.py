"""The console's pages: the list, one execution, its buttons, counts."""

from __future__ import annotations

import json
import re
import typing as t

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import listing_sql
from flask_durable import Retry
from flask_durable import step
from flask_durable.ids import first_id
from flask_durable.listing import Filters
from flask_durable.progress import progress_topic
from flask_durable.state import get_state
from flask_durable.tables import events
from flask_durable.tables import executions
from flask_durable.web.console import executions as console_pages

from .console_pages import address
from .console_pages import ids
from .console_pages import LIST
from .console_pages import press
from .console_pages import text
from .driving import Drive


@pytest.fixture(autouse=True)
def open_console(durable: FlaskDurable) -> None:
    """Let everybody use the console."""
    durable.console_auth(lambda request: True)


@pytest.fixture(autouse=True)
def views(app: Flask, durable: FlaskDurable) -> dict[str, bool]:
    """Set up the views; one fails as long as the test says."""
    away = {"bank": True}

    @app.post("/fine")
    @durable.endpoint
    def fine() -> str:
        return "fine"

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.progress("<i>hello</i>", token="t-9")
        step.run("before", lambda: {"seat": "14A", "api_key": "k-1"})
        step.sleep("nap", 3600)
        return "rested"

    @app.post("/pay")
    @durable.endpoint(retry=Retry(1))
    def pay() -> dict[str, t.Any]:
        def charge() -> str:
            if away["bank"]:
                raise ConnectionError("the <b>bank</b> is away")

            return "paid"

        seat = step.run("reserve", lambda: "14A")
        return {"seat": seat, "paid": step.run("charge", charge)}

    return away


def begin(client: FlaskClient, url: str, **options: t.Any) -> str:
    """Begin an execution and give its id."""
    return str(client.post(url, **options).headers["Durable-Execution"])


def test_an_empty_list_tells_what_to_do(client: FlaskClient) -> None:
    """With the names of the endpoints that there are."""
    said = text(client.get(LIST))
    assert "No executions yet" in said and "fine , nap , pay" in said


def test_the_list_has_the_newest_first(client: FlaskClient) -> None:
    """With status, answer and error."""
    mine = [begin(client, url) for url in ("/fine", "/nap", "/pay")]
    page = client.get(LIST)
    assert ids(page) == sorted(mine, reverse=True)
    said = text(page)
    assert "Completed answered 200 fine" in said
    assert re.search("Suspended goes on in (1 h|59 m) nap", said)
    assert "pay" in said and "ConnectionError: the <b>bank</b> is away" in said


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ({"status": "failed"}, ["/pay"]),
        ({"status": "suspended"}, ["/nap"]),
        ({"status": "completed"}, ["/fine"]),
        ({"status": "running"}, []),
        ({"endpoint": "nap"}, ["/nap"]),
        ({"endpoint": "nap", "status": "failed"}, []),
        ({"endpoint": "pay", "status": "failed"}, ["/pay"]),
        ({"endpoint": "x' OR 1=1 --"}, []),
        ({"within": "15m"}, ["/pay", "/nap", "/fine"]),
        ({"from": "2000-01-01T00:00"}, ["/pay", "/nap", "/fine"]),
        ({"from": "2199-01-01T00:00"}, []),
        ({"to": "2000-01-01T00:00"}, []),
        ({"to": "2199-01-01T00:00+01:00", "status": "failed"}, ["/pay"]),
        ({"id": "0"}, ["/pay", "/nap", "/fine"]),
        ({"id": "ffff"}, []),
    ],
)
def test_filters(client: FlaskClient, query: dict[str, str], fits: list[str]) -> None:
    """Each alone and together."""
    mine = {url: begin(client, url) for url in ("/fine", "/nap", "/pay")}
    page = client.get(LIST, query_string=query)
    assert page.status_code == 200
    assert ids(page) == sorted([mine[url] for url in fits], reverse=True)


def test_a_whole_id_or_a_part_is_found(client: FlaskClient) -> None:
    """Whatever its letters' case, and nothing else."""
    mine = [begin(client, "/fine") for _ in range(3)]
    assert ids(client.get(LIST, query_string={"id": mine[1].upper()})) == [mine[1]]
    assert mine[1] in ids(client.get(LIST, query_string={"id": f" {mine[1][:30]} "}))


@pytest.mark.parametrize(
    "query",
    [
        {"status": "odd"},
        {"id": "%"},
        {"before": "<script>"},
        {"from": "yesterday"},
        {"within": "1y"},
    ],
)
def test_filters_that_make_no_sense_are_said(
    client: FlaskClient, query: dict[str, str]
) -> None:
    """With 400, and escaped."""
    page = client.get(LIST, query_string=query)
    assert page.status_code == 400
    assert 'role="alert"' in page.text and "<script>" not in page.text


def walk(client: FlaskClient, url: str) -> list[list[str]]:
    """Read page after page."""
    found = []

    while True:
        page = client.get(url)
        found.append(ids(page))
        older = re.search(r'rel="next" href="([^"]+)"', page.text)

        if older is None:
            return found

        url = older[1].replace("&amp;", "&")


@pytest.mark.parametrize(
    ("count", "sizes"), [(2, [2]), (3, [3]), (4, [3, 1]), (6, [3, 3])]
)
def test_pages_end_where_they_should(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]
) -> None:
    """A full last page has no next one; none is shown twice or left out."""
    monkeypatch.setattr(console_pages, "ROWS", 3)
    mine = [begin(client, "/fine") for _ in range(count)]
    pages = walk(client, LIST)
    assert [len(page) for page in pages] == sizes
    assert sum(pages, []) == sorted(mine, reverse=True)


def test_pages_keep_their_filters(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while others begin."""
    monkeypatch.setattr(console_pages, "ROWS", 1)
    mine = [begin(client, url) for url in ("/pay", "/fine", "/pay", "/nap")]
    pages = walk(client, f"{LIST}?status=failed&endpoint=pay")
    assert pages == [[mine[2]], [mine[0]]]


def test_what_no_index_finds_is_looked_for_piece_by_piece(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page says that there is more to look through, also if nothing fits on it."""
    monkeypatch.setattr(listing_sql, "SCAN", 2)
    monkeypatch.setattr("flask_durable.sql._forms", {})
    monkeypatch.setattr("flask_durable.listing.SCAN", 2)
    mine = [begin(client, url) for url in ("/nap", "/fine", "/fine", "/fine", "/fine")]
    url = f"{LIST}?endpoint=nap"
    assert "None of the executions searched so far matches" in client.get(url).text
    assert walk(client, url) == [[], [], [mine[0]]]


def test_rare_statuses_are_found_by_their_index(
    client: FlaskClient, drive: Drive
) -> None:
    """Not by a walk over all that completed."""
    begin(client, "/fine")
    store = drive.state.store
    statement = drive.state.store.database.prepare(listing_sql.page, "failed", False)
    form = statement.form
    low, high = Filters(status="failed").bounds()
    names = {"app": store.app, "low": low, "high": high, "limit": 5}
    sqlite = store.database.sqlite
    verb = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "

    def explain(connection: sa.Connection) -> str:
        if not sqlite:
            connection.exec_driver_sql("SET enable_seqscan = off")
            connection.exec_driver_sql("SET enable_bitmapscan = off")

        rows = connection.exec_driver_sql(
            verb + form.text, form.parameters(statement.bind(names).values)
        )
        return "\n".join(str(tuple(row)) for row in rows)

    plan = store.database.run(explain)
    assert "ix_durable_executions_status" in plan
    assert "sort" not in plan.lower().replace("sorted", "")


def test_one_execution(client: FlaskClient, drive: Drive) -> None:
    """With its request, steps and response; secrets are redacted."""
    secret = {"Authorization": "Bearer abc", "X-Api-Key": "def", "X-Trace": "t-1"}
    body = {"flight": "LH 1", "password": "hunter2", "card": {"number": "4242"}}
    answer = client.post("/nap?to=LAX&access_token=xyz", json=body, headers=secret)
    assert drive.finish(answer).text == "rested"
    mine = answer.headers["Durable-Execution"]
    page = client.get(address(mine))
    said = text(page)
    assert "POST /nap?to=LAX&access_token=[redacted]" in said
    assert "X-Trace t-1" in said and '"flight": "LH 1"' in said
    assert "Attempt 2" in said and "nap" in said and "rested" in said

    for hidden in ("abc", "def", "hunter2", "4242", "xyz"):
        assert f"{hidden}<" not in page.text and f'"{hidden}' not in said


def test_replays_that_are_turned_away_are_shown(
    app: Flask, client: FlaskClient, drive: Drive
) -> None:
    """Else it looks as if nothing happened."""
    mine = begin(client, "/nap")
    words = "Replays that did not reach the view: 1"
    assert words not in text(client.get(address(mine)))
    hooks = app.before_request_funcs.setdefault(None, [])
    hooks.append(lambda: ("no", 401))
    drive.advance(3601)
    drive.run_due()
    hooks.pop()
    assert words in text(client.get(address(mine)))


def test_of_very_many_steps_the_newest_are_shown(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The page says so, and asks less often what has changed."""

    @app.post("/many/<int:count>")
    @durable.endpoint
    def many(count: int) -> str:
        step.map("item", str, range(count))
        step.sleep("nap", 3600)
        return "done"

    few = client.get(address(begin(client, "/many/3"))).text
    assert 'data-live="800"' in few and "left out" not in few
    most = listing_sql.MAX_STEPS
    page = client.get(address(begin(client, f"/many/{most}")))
    assert f"The newest {most} steps; others are left out." in text(page)
    assert f'data-live="{8 * most}"' in page.text


def test_lines_of_progress_are_shown(client: FlaskClient) -> None:
    """As text, without the data that is for programs."""
    page = client.get(address(begin(client, "/nap")))
    assert "Progress <i>hello</i>" in text(page)
    assert "t-9" not in page.text


def test_of_many_lines_the_newest_are_shown(app: Flask, client: FlaskClient) -> None:
    """However many there are, the oldest of these first."""
    mine = begin(client, "/nap")
    rows = [
        {
            "topic": progress_topic(mine),
            "dedup": f"~{number}",
            "data": json.dumps({"step": None, "message": f"line-{number}"}).encode(),
            "created_at": 0.0,
        }
        for number in range(1100)
    ]

    with get_state(app).store.database.engine.begin() as connection:
        connection.execute(sa.insert(events), rows)

    said = re.findall(r"line-(\d+)", client.get(address(mine)).text)
    assert said == [str(number) for number in range(1000, 1100)]


def test_a_steps_output_is_shown_without_secrets(client: FlaskClient) -> None:
    """On a page of its own, and as a part for the script."""
    mine = begin(client, "/nap")
    url = address(mine, "step")
    page = client.get(url, query_string={"name": "before"})
    assert '"seat": "14A"' in text(page) and "k-1" not in page.text
    headers = {"Durable-Console": "part"}
    part = client.get(url, query_string={"name": "before"}, headers=headers)
    assert "<html" not in part.text and "14A" in part.text
    assert client.get(url, query_string={"name": "none"}).status_code == 404


def test_an_error_is_shown_with_its_traceback(client: FlaskClient) -> None:
    """Escaped."""
    mine = begin(client, "/pay")
    page = client.get(address(mine, "step"), query_string={"name": "charge"})
    assert "ConnectionError : the <b>bank</b> is away" in text(page)
    assert "raise ConnectionError" in text(page)
    assert "<b>bank" not in page.text
    assert "<b>bank" not in client.get(address(mine)).text


def test_names_are_text(app: Flask, durable: FlaskDurable, client: FlaskClient) -> None:
    """A step, an endpoint or an error that looks like a script is none."""
    evil = "<script>alert(1)</script>\"'"

    def fail() -> None:
        raise ConnectionError(evil)

    def view() -> t.Any:
        step.run(evil, fail)

    app.add_url_rule(
        "/evil", evil, durable.endpoint(retry=Retry(1))(view), methods=["POST"]
    )
    mine = begin(client, "/evil", data=evil, headers={"X-Evil": "<script>"})
    urls = [LIST, address(mine), f"{LIST}stats"]
    pages = [client.get(url) for url in urls]
    pages.append(client.get(address(mine, "step"), query_string={"name": evil}))
    pages.append(client.get(LIST, query_string={"endpoint": evil}))

    for page in pages:
        assert page.status_code == 200
        assert "<script>" not in page.text and "&lt;script&gt;" in page.text


def test_the_part_of_a_live_page(client: FlaskClient) -> None:
    """A page asks again as long as something may change, and then no more."""
    mine, done = begin(client, "/nap"), begin(client, "/fine")
    headers = {"Durable-Console": "part"}
    part = client.get(address(mine), headers=headers)
    assert 'data-live="' in part.text and "<html" not in part.text
    assert "Request" not in text(part)
    assert 'data-live="' not in client.get(address(done)).text


def test_cancel(client: FlaskClient, drive: Drive) -> None:
    """A suspended one at once."""
    mine = begin(client, "/nap")
    answer = press(client, mine, "cancel")
    assert drive.state.store.execution(mine).status == "cancelled"
    page = client.get(answer.headers["Location"])
    said = text(page)
    assert "Cancelled. If a step is running" in said
    assert "was cancelled" in said
    # The step waits no more, and words stand apart without a script or a style.
    assert "Cut off: nap sleep cut off" in said and "sleeping" not in said
    assert '</span><span class="kind' not in page.text


def test_cancel_what_has_ended(client: FlaskClient) -> None:
    """A button of a page that is behind does nothing, and says so."""
    mine = begin(client, "/fine")
    answer = press(client, mine, "cancel")
    assert answer.status_code == 409
    assert f"Execution {mine} has ended already." in text(answer)


def test_resume(client: FlaskClient, drive: Drive, views: dict[str, bool]) -> None:
    """The failed step is tried anew, the others are kept."""
    mine = begin(client, "/pay")
    views["bank"] = False
    assert press(client, mine, "resume").status_code == 303
    drive.run_due()
    said = text(client.get(address(mine)))
    assert '"paid": "paid"' in said and "Attempt 2" in said


def test_resume_that_would_forget_steps_asks(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """And does it when it is told to."""

    @app.post("/caught")
    @durable.endpoint(retry=Retry(1))
    def caught() -> t.Any:
        from flask_durable import StepError

        try:
            step.run("charge", lambda: 1 / 0)
        except StepError:
            step.run("release", int)
            raise

    mine = begin(client, "/caught")
    answer = press(client, mine, "resume")
    assert answer.status_code == 409
    assert "Resume by force" in text(answer)
    assert press(client, mine, "resume", force="1").status_code == 303
    assert drive.state.store.execution(mine).status == "suspended"


def test_rerun(client: FlaskClient, drive: Drive, views: dict[str, bool]) -> None:
    """A new execution with the same request."""
    mine = begin(client, "/pay", json={"card": "1"})
    views["bank"] = False
    answer = press(client, mine, "rerun")
    other = answer.headers["Location"].rpartition("/")[2].partition("?")[0]
    assert other != mine
    drive.run_due()
    said = text(client.get(address(other)))
    assert "Completed" in said and "kept" not in said


def test_rerun_from_a_step(
    client: FlaskClient, drive: Drive, views: dict[str, bool]
) -> None:
    """What came before is kept, and said to be."""
    mine = begin(client, "/pay")
    views["bank"] = False
    answer = press(client, mine, "rerun", from_step="charge")
    drive.run_due()
    said = text(client.get(answer.headers["Location"]))
    assert "This is the new execution" in said
    assert "reserve kept from the first run" in said
    assert press(client, mine, "rerun", from_step="none").status_code == 409


def test_children_and_parents_are_linked(
    app: Flask, durable: FlaskDurable, client: FlaskClient, drive: Drive
) -> None:
    """In both directions."""

    @app.post("/parent")
    @durable.endpoint
    def parent() -> t.Any:
        return step.invoke("child", "pay")

    mine = begin(client, "/parent")
    page = client.get(address(mine)).text
    (child,) = re.findall(r'href="[^"]*/executions/([^"/?]+)">Open its execution', page)
    assert address(mine) in client.get(address(child)).text
    assert "child" in text(client.get(LIST))


def test_counts_by_endpoint(client: FlaskClient) -> None:
    """Of the time that is asked for."""
    for url in ("/fine", "/fine", "/pay", "/nap"):
        begin(client, url)

    said = text(client.get(f"{LIST}stats"))
    assert "Began 4" in said and "Completed 2" in said and "Failure rate 33.3 %" in said
    assert re.search(r"fine .* 2 0\.0 0 0\.0 %", said)


def test_counts_of_a_time_without_any(client: FlaskClient, drive: Drive) -> None:
    """An empty chart would tell nothing."""
    old = executions.update().values(id=first_id(1e9) + "-7000-8000-000000000000")
    begin(client, "/fine")
    drive.state.store.database.run(lambda c: c.execute(old))
    assert (
        "No execution began in the last 15 minutes"
        in client.get(f"{LIST}stats?within=15m").text
    )
    assert client.get(f"{LIST}stats?within=odd").status_code == 200


def test_counts_are_bounded(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the page says so."""
    monkeypatch.setattr(listing_sql, "SCAN", 2)
    monkeypatch.setattr("flask_durable.sql._forms", {})
    monkeypatch.setattr("flask_durable.listing.SCAN", 2)

    for _ in range(3):
        begin(client, "/fine")

    assert "only the newest are counted: 2" in client.get(f"{LIST}stats").text


def test_what_cannot_be_decrypted_is_said(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """The rest of a page is there."""
    app.config["DURABLE_ENCRYPTION_KEYS"] = Fernet.generate_key().decode()
    other = Flask(app.name, instance_path=app.instance_path)
    other.config.update(app.config)
    locked = FlaskDurable(other)

    @other.post("/pay")
    @locked.endpoint(retry=Retry(1))
    def pay() -> str:
        step.run("charge", lambda: 1 / 0)
        return ""

    other.config["PROPAGATE_EXCEPTIONS"] = False
    mine = begin(other.test_client(), "/pay")
    other.extensions["durable"].close()
    assert mine in ids(client.get(LIST))
    page = client.get(address(mine))
    assert page.status_code == 200 and "DURABLE_ENCRYPTION_KEYS is not set" in page.text
    one = client.get(address(mine, "step"), query_string={"name": "charge"})
    assert one.status_code == 409 and "can't be decrypted" in text(one)


def test_encrypted_values_are_shown(app: Flask, client: FlaskClient) -> None:
    """Who has the keys sees them as ever."""
    key = Fernet.generate_key().decode()
    other = Flask("locked", instance_path=app.instance_path)
    other.config.update(app.config | {"DURABLE_ENCRYPTION_KEYS": [key]})
    durable = FlaskDurable(other)
    durable.console_auth(lambda request: True)
    other.add_url_rule("/x", "x", durable.endpoint(lambda: step.run("a", dict, b=7)))
    reader = other.test_client()
    mine = reader.get("/x").headers["Durable-Execution"]
    shown = reader.get(address(mine, "step"), query_string={"name": "a"})
    assert '"b": 7' in text(shown)
    other.extensions["durable"].close()


def test_an_unknown_execution(client: FlaskClient) -> None:
    """Is answered 404, on a page that leads back."""
    page = client.get(address("0198"))
    assert page.status_code == 404 and "All executions" in page.text


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"{LIST}?endpoint=%00", 400),
        (f"{LIST}?from=0001-01-01T00:00", 200),
        (f"{LIST}?to=9999-12-31T23:59", 200),
        (f"{LIST}?endpoint=%ff&id=%20", 200),
        (address("%00"), 404),
        (address("%ff"), 404),
        (address("x", "step?name=%00"), 404),
    ],
)
def test_odd_addresses(client: FlaskClient, url: str, code: int) -> None:
    """Are answered as those of nothing, whatever the database takes."""
    assert client.get(url).status_code == code


def test_an_app_whose_rules_name_hosts(sqlite_url: str) -> None:
    """The console is on each host, and its links lead to the request's own."""
    app = Flask("hosts", host_matching=True, static_host="h.example")
    app.config.update(SECRET_KEY="t", DURABLE_DATABASE_URL=sqlite_url, TESTING=True)
    durable = FlaskDurable(app)
    durable.console_auth(lambda request: True)
    page = app.test_client().get(LIST, base_url="http://other.example/")
    assert page.status_code == 200 and 'href="/durable/console/stats"' in page.text
    app.extensions["durable"].close()
