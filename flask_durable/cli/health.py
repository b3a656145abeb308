"""The commands that check the setup and count executions."""

from __future__ import annotations

import collections.abc as cabc
import sys
import typing as t
import urllib.parse

import click
from flask.cli import with_appcontext

from .. import schema
from ..doubts import unread
from ..errors import DurableError
from ..new_request import trusted_host
from ..sending import HEADER
from ..signing import check_secret_key
from ..signing import sign_ticket
from ..signing import Ticket
from ..signing import WHAT_TO_DO
from ..state import opened_state
from ..state import State
from ..state import this_app
from ..tables import SCHEMA_VERSION
from .output import as_json
from .output import print_json
from .output import print_table
from .output import printable
from .output import reports_errors

TIMEOUT = 3.0
"""Seconds that a server has to answer."""


LATE = 10.0
"""Seconds that a due execution may wait to begin; an idle worker takes it at once."""


class Trouble(Exception):
    """Something is wrong."""


class Doubt(Exception):
    """Something may be wrong, and only a person can tell."""


MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "bad": ("bad ", "red")}
"""How each kind of result is printed."""


@click.command("check")
@as_json
@with_appcontext
def check(as_json: bool) -> None:
    """Check settings, database, schema, secret key, Redis, workers, URL and hosts.

    Exits with 1 if one is bad.
    """
    state = opened_state(this_app())
    results = [_result(name, test, state) for name, test in TESTS.items()]

    if as_json:
        print_json(
            [
                {"name": name, "ok": mark != "bad", "detail": detail}
                for name, mark, detail in results
            ]
        )
    else:
        for name, mark, detail in results:
            text, color = MARKS[mark]
            click.echo(f"{click.style(text, fg=color)} {name}: {printable(detail)}")

    if any(mark == "bad" for _, mark, _ in results):
        sys.exit(1)


Test = cabc.Callable[[State], str]


def _result(name: str, test: Test, state: State) -> tuple[str, str, str]:
    try:
        return name, "ok", test(state)
    except Doubt as doubt:
        return name, "warn", str(doubt)
    except (Trouble, DurableError, RuntimeError) as error:
        return name, "bad", str(error).partition("\n")[0]


def _check_settings(state: State) -> str:
    if found := unread(this_app().config):
        raise Trouble(" ".join(found))

    return "read"


def _check_database(state: State) -> str:
    database = state.store.database
    database.run(lambda connection: connection.exec_driver_sql("SELECT 1"))
    return database.label


def _check_schema(state: State) -> str:
    found = schema.version(state.store.database)

    if state.config.create_tables and (found is None or found < SCHEMA_VERSION):
        if found is None:
            return "none yet, made at the first use"

        return f"{found}, brought to {SCHEMA_VERSION} at the first use"

    schema.ensure(state.store.database, create=False)
    return SCHEMA_VERSION


def _check_key(state: State) -> str:
    check_secret_key(this_app())
    return "set"


def _check_redis(state: State) -> str:
    if state.config.redis_url is None:
        return "not used"

    import redis

    from ..rq_queue import connect

    try:
        connect(state.config.redis_url, TIMEOUT).ping()
    except redis.RedisError as error:
        raise Trouble(str(error)) from None

    return "answers"


def _check_workers(state: State) -> str:
    if state.config.redis_url is None:
        return "not needed: the app's processes replay"

    import redis
    from rq import Worker

    from ..rq_queue import connect
    from ..rq_queue import durable_queue

    try:
        connection = connect(state.config.redis_url, TIMEOUT)
        queue = durable_queue(state.config.queue, connection)
        count = Worker.count(queue=queue)
        waiting = len(queue)
    except redis.RedisError as error:
        raise Trouble(str(error)) from None

    text = f'{count} on the queue "{state.config.queue}", where {waiting} jobs wait'

    if not count:
        raise Trouble(f"{text}: run `flask durable worker`")

    # Redis still lists workers that were killed.
    if (late := _seconds_late(state)) > LATE:
        raise Trouble(
            f"{text}, and a due execution has waited for {late:.0f} s: does"
            " `flask durable worker` run, with enough processes?"
        )

    return text


def _seconds_late(state: State) -> float:
    """Return how long a due execution has waited, without creating the tables."""
    if schema.version(state.store.database) != SCHEMA_VERSION:
        return 0.0

    return state.control.lateness()


def _check_replay_url(state: State) -> str:
    url = state.config.replay_url

    if url is None:
        return "not used: replays run in the process that sends them"

    import requests

    # Like a replay, which names the host of the client's request, not the URL's.
    host = trusted_host(this_app())
    headers = {"Host": host} if host else {}
    # A ticket for nothing; the server's answer says if it could not accept a real one.
    headers[HEADER] = sign_ticket(this_app(), Ticket("", 0, ""))

    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(
                _nowhere(state),
                headers=headers,
                timeout=TIMEOUT,
                allow_redirects=False,
            )
    except requests.RequestException as error:
        raise Trouble(f"{url} does not answer: {type(error).__name__}") from None

    if "application/problem+json" not in answer.headers.get("Content-Type", ""):
        raise Trouble(f"{url} answers, but not as this app: {answer.status_code}")

    if found := answer.headers.get(HEADER):
        why = WHAT_TO_DO.get(found, f"Replays are refused ({found}).")
        raise Trouble(f"{url} would refuse replays. {why}")

    return f"{url} answers"


def _nowhere(state: State) -> str:
    """Return a URL that only this extension answers, with 404."""
    path = f"{state.config.url_prefix}/executions/none"
    return urllib.parse.urljoin(t.cast(str, state.config.replay_url), path)


def _check_hosts(state: State) -> str:
    app = this_app()
    hosts = app.config["TRUSTED_HOSTS"]

    if hosts:
        return hosts if isinstance(hosts, str) else ", ".join(hosts)

    if app.debug:
        return "any, in debug mode"

    raise Doubt(
        "links lead to whatever host a client names: set TRUSTED_HOSTS, or let the"
        " server in front of the app refuse other hosts"
    )


TESTS: dict[str, Test] = {
    "settings": _check_settings,
    "database": _check_database,
    "schema": _check_schema,
    "secret key": _check_key,
    "redis": _check_redis,
    "workers": _check_workers,
    "replay url": _check_replay_url,
    "hosts": _check_hosts,
}


@click.command("stats")
@as_json
@with_appcontext
@reports_errors
def stats(as_json: bool) -> None:
    """Count executions by endpoint and status."""
    state = opened_state(this_app())
    counts = state.control.count()
    late = state.control.lateness()

    if as_json:
        names = ("endpoint", "status", "count")
        rows = [dict(zip(names, row, strict=True)) for row in counts]
        print_json({"executions": rows, "seconds_late": late})
        return

    print_table(("ENDPOINT", "STATUS", "COUNT"), counts)
    click.echo()
    waits = f"Due executions have waited for up to {late:.1f} s."
    click.echo(waits if late else "Nothing is due.")
