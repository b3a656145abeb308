"""An execution's events in a real browser: fetch and EventSource."""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import typing as t

import pytest

from ..processes import Gunicorn

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOLLOW = """
async () => {
  const headers = {"Prefer": "respond-async", "Idempotency-Key": '"browser"'};
  const answer = await fetch("/naps/browser?nap=3", {method: "POST", headers});
  const {events_url} = await answer.json();
  const found = [];
  const source = new EventSource(events_url);
  for (const name of ["execution", "step", "progress"])
    source.addEventListener(name, e => found.push([name, JSON.parse(e.data)]));
  const end = await new Promise(
    resolve => source.addEventListener("end", e => resolve(JSON.parse(e.data))));
  const response = await fetch(end.response_url);
  const body = await response.json();
  // Left open, it comes again once, and is told to stay away.
  await new Promise(resolve => source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) resolve();
  }));
  return {found, end, body};
}
"""


@pytest.fixture(params=["gthread", "sync"])
def server(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> cabc.Iterator[Gunicorn]:
    """Run the app, where streams stay open and where they can't."""
    env = {
        "FLASK_SECRET_KEY": "tests",
        "FLASK_DURABLE_DATABASE_URL": f"sqlite:///{tmp_path}/journal.db",
    }
    options: dict[str, t.Any] = {"gthread": {"threads": 8}, "sync": {}}[request.param]
    app = "tests.integration.apps.clients:app"
    kind = request.param

    with Gunicorn(app, tmp_path, env=env, worker_class=kind, **options) as server:
        yield server


def test_an_event_source_follows_to_the_end(browser: Browser, server: Gunicorn) -> None:
    """By itself, across streams that close."""
    page = browser.new_page()
    page.goto(f"{server.url}/page")
    result = page.evaluate(FOLLOW)
    page.close()
    said = [data["message"] for name, data in result["found"] if name == "progress"]
    assert list(dict.fromkeys(said)) == ["charging", "charged"]
    steps = [data for name, data in result["found"] if name == "step"]
    done = {data["id"] for data in steps if data["status"] == "completed"}
    assert {"charge", "nap"} <= done
    assert result["end"]["status"] == "completed"
    assert result["body"] == {"charged": "browser"}
