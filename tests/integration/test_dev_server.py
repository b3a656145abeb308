"""A beginner's first ten minutes with ``flask run``."""

from __future__ import annotations

import collections.abc as cabc
import os
import pathlib
import signal
import time

import pytest

from flask_durable.records import Failure

from ..processes import FlaskRun
from ..processes import wait_until
from .sites import copy_app
from .sites import FirstSite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

PROMPTLY = 4.5
"""Seconds in which a server ends that was asked to."""

modes = pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])


@pytest.fixture
def site(tmp_path: pathlib.Path) -> cabc.Iterator[FirstSite]:
    """Have the app ready in a folder; the test starts the server."""
    copy_app("first", tmp_path)
    server = FlaskRun("app", tmp_path)
    yield FirstSite(server)

    if runs(server):
        server.kill()

    print(server.log())


def runs(server: FlaskRun) -> bool:
    """Tell whether a server was started and not stopped."""
    try:
        return server.pid > 0
    except RuntimeError:
        return False


def start(site: FirstSite, *, debug: bool = False, reloader: bool = False) -> None:
    """Run the app, as ``flask run`` or ``flask run --debug`` does."""
    command = site.server.command
    for given, words in {
        "--debug" if debug else "--no-debug": ("--debug", "--no-debug"),
        "--reload" if reloader else "--no-reload": ("--reload", "--no-reload"),
    }.items():
        command[:] = [given if part in words else part for part in command]

    site.server.start()


def press_ctrl_c(site: FirstSite) -> float:
    """Interrupt all processes of the server, and give the seconds until they ended."""
    began = time.monotonic()
    os.killpg(site.server.pid, signal.SIGINT)
    wait_until(site.server.ended, 20, "the server ends")
    seconds = time.monotonic() - began
    site.server.kill()
    return seconds


@modes
def test_the_first_request_succeeds(site: FirstSite, debug: bool) -> None:
    """With nothing else installed or configured."""
    start(site, debug=debug, reloader=debug)
    answer = site.post("/hello", "a")
    assert (answer.status_code, answer.json()) == (200, {"one": "one", "two": "two"})
    assert site.get(answer.links["status"]["url"]).json()["status"] == "completed"
    assert site.said("a") == ["one", "two"]


@modes
def test_a_failing_step_is_finished_in_the_background(
    site: FirstSite, debug: bool
) -> None:
    """202 at once, and the result is there a little later."""
    start(site, debug=debug, reloader=debug)
    answer = site.post("/pay", "a")
    assert answer.status_code == 202
    status = answer.json()
    assert status["waiting_for"]["step"] == "pay"
    site.journal.wait_for(status["id"])
    assert site.get(status["response_url"]).json() == {"paid": "pay"}
    assert site.said("a") == ["reserve", "pay", "pay", "pay"]


@modes
def test_a_typo_in_a_view_is_an_ordinary_error(site: FirstSite, debug: bool) -> None:
    """It is shown at once, as by Flask, and nothing is tried again."""
    site.edit('{"one": step.run("one", say', '{"one": step.run("one", sya')
    start(site, debug=debug, reloader=debug)
    answer = site.post("/hello", "a")
    assert answer.status_code == 500
    assert "text/html" in answer.headers["Content-Type"]
    assert ("NameError" in answer.text) == debug
    wait_until(lambda: "NameError: name 'sya' is not defined" in site.server.log())
    row = site.only_row()
    assert (row.status, row.attempt, row.due_at) == ("failed", 1, None)


def test_a_typo_in_a_view_after_a_step_is_an_error_in_debug(site: FirstSite) -> None:
    """A person who looks at the page needn't wait for further attempts."""
    site.edit('"two": step.run("two", say', '"two": step.run("two", sya')
    start(site, debug=True, reloader=True)
    answer = site.post("/hello", "a")
    assert answer.status_code == 500
    assert "NameError" in answer.text
    row = site.only_row()
    assert (row.status, row.attempt, row.due_at) == ("failed", 1, None)


def test_a_typo_in_a_step_is_not_tried_again_in_debug(site: FirstSite) -> None:
    """The step fails in its first try, and the error page names the typo."""
    site.edit("    return word", "    return word.uper()")
    start(site, debug=True, reloader=True)
    answer = site.post("/hello", "a")
    assert answer.status_code == 500
    assert "has no attribute &#39;uper&#39;" in answer.text
    row = site.only_row()
    assert (row.status, row.attempt, row.due_at) == ("failed", 1, None)
    assert Failure.decode(row.error).type == "flask_durable.errors.StepError"
    assert [step.tries for step in site.journal.steps(row.id)] == [1]
    assert site.said("a") == ["one"]


@modes
def test_a_missing_secret_key_is_explained(site: FirstSite, debug: bool) -> None:
    """The first request says which command makes one, and no step runs."""
    site.edit('app.secret_key = "dev"\n', "")
    start(site, debug=debug, reloader=debug)
    assert site.get("/").status_code == 200
    assert site.post("/hello", "a").status_code == 500
    command = "import secrets; print(secrets.token_hex())"
    wait_until(lambda: command in site.server.log())
    assert site.said("a") == []


@pytest.mark.parametrize("path", ["/", "/nowhere"])
def test_a_killed_server_goes_on_at_the_first_request(
    site: FirstSite, path: str
) -> None:
    """Any request will do, also one that finds nothing."""
    start(site)
    site.post_in_background("/slow", "a", seconds=1.5)
    site.wait_for_word("a", "slow")
    site.server.kill()
    row = site.only_row()
    assert row.status == "running"

    start(site)
    site.get(path)
    row = site.journal.wait_for(row.id)
    assert row.attempt == 2
    assert site.said("a") == ["one", "slow", "slow"]


@modes
def test_ctrl_c_ends_at_once(site: FirstSite, debug: bool) -> None:
    """Nobody waits for a slow request, and what it ran is handed back."""
    start(site, debug=debug, reloader=debug)
    site.post_in_background("/slow", "a", seconds=20)
    site.wait_for_word("a", "slow")
    assert press_ctrl_c(site) < PROMPTLY
    row = site.journal.row(site.only_row().id)
    assert (row.status, row.crashes) == ("suspended", 0)
    assert row.ready_at <= row.now
    assert site.said("a") == ["one", "slow"]


def test_ctrl_c_ends_soon_while_a_replay_runs(site: FirstSite) -> None:
    """The replay has a few seconds to end, then it is handed back."""
    start(site)
    site.post("/nap", "a", nap=0.2, seconds=20)
    site.wait_for_word("a", "slow")
    assert press_ctrl_c(site) < 5 + PROMPTLY
    row = site.journal.row(site.only_row().id)
    assert (row.status, row.crashes) == ("suspended", 0)
    assert row.ready_at <= row.now


def test_ctrl_c_without_work_ends_at_once(site: FirstSite) -> None:
    """The dispatcher's threads hold nothing up."""
    start(site)
    assert site.post("/hello", "a").status_code == 200
    assert press_ctrl_c(site) < PROMPTLY


def test_the_reloader_may_restart_while_an_execution_sleeps(site: FirstSite) -> None:
    """The new code goes on where the old one stopped, once somebody asks."""
    start(site, debug=True, reloader=True)
    answer = site.post("/nap", "a", nap=4, seconds=0)
    assert answer.status_code == 202
    old = site.get("/").text
    site.edit('step.run("last", say, "last")', 'step.run("last", say, "changed")')
    wait_until(lambda: served_by_another(site, old), 15, "a restart")
    row = site.journal.wait_for(answer.json()["id"])
    assert (row.attempt, row.crashes) == (2, 0)
    assert site.said("a") == ["one", "slow", "changed"]
    assert site.get(answer.json()["response_url"]).status_code == 200


def test_the_reloader_may_restart_while_a_step_runs(site: FirstSite) -> None:
    """It is handed back, and the step under way is called once more."""
    start(site, debug=True, reloader=True)
    old = site.get("/").text
    site.post_in_background("/slow", "a", seconds=4)
    site.wait_for_word("a", "slow")
    site.edit("Have a slow step.", "Have a really slow step.")
    wait_until(lambda: served_by_another(site, old), 15, "a restart")
    site.wait_for_word("a", "slow", 2)
    assert site.only_row().crashes == 0
    assert site.journal.wait_for(site.only_row().id).attempt == 2
    assert site.said("a") == ["one", "slow", "slow"]


def served_by_another(site: FirstSite, pid: str) -> bool:
    """Tell whether a process other than this one answers."""
    try:
        return site.get("/").text != pid
    except OSError:
        return False
