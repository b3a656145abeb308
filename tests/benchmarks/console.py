"""The console's pages while the journal fills up, in PostgreSQL.

``python -m tests.benchmarks.console [COUNT]`` times each page with 1,000 executions and
with so many, a million by default, and prints the ratios.
"""

from __future__ import annotations

import statistics
import sys
import time

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable.clock import now
from flask_durable.listing_sql import SCAN
from flask_durable.state import get_state

from .. import servers

FEW = 1_000
MANY = 1_000_000
ROUNDS = 40
LIST = "/durable/console/"

FILL = """
INSERT INTO durable_executions (id, app, endpoint, status, attempt, owner, nonce,
    ready_at, due_at, looks, created_at, finished_at, crashes, errors, rejections,
    refusals, digest, request, body, response, response_body)
SELECT substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-7'
        || lpad(to_hex(n % 4096), 3, '0') || '-8000-' || lpad(to_hex(n), 12, '0'),
    'bench', CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'view' END,
    CASE WHEN n % 20 = 5 THEN 'failed' WHEN n % 20 = 6 THEN 'suspended'
        ELSE 'completed' END,
    1, 'boot:1:2:3', md5(n::text), NULL, NULL, 0, at,
    CASE WHEN n % 20 = 6 THEN NULL ELSE at + 1 END, 0, 0, 0, 0, 'digest',
    convert_to('{"environ": {}, "headers": []}' || repeat(' ', 600), 'UTF8'), '',
    convert_to('{"status": "200 OK", "headers": []}', 'UTF8'),
    convert_to(repeat('z', 200), 'UTF8')
FROM (
    SELECT n, at, lpad(to_hex((at * 1000)::bigint), 12, '0') AS hex
    FROM (
        SELECT n, :now - (:count - n) * :apart AS at
        FROM generate_series(CAST(:first AS bigint), :count) n
    ) moments
) made
"""

APART = 0.05
"""Seconds between two executions: 20 a second begin."""


def make_app(url: str) -> Flask:
    """Make an app with an open console."""
    app = Flask("bench")
    app.config.update(SECRET_KEY="bench", DURABLE_DATABASE_URL=url, TESTING=True)
    durable = FlaskDurable(app)
    durable.console_auth(lambda request: True)
    return app


def fill(app: Flask, first: int, count: int) -> None:
    """Make the executions from one number to another, the last one of now."""

    def work(connection: sa.Connection) -> None:
        values = {"first": first, "count": count, "now": now(), "apart": APART}
        connection.execute(sa.text("TRUNCATE durable_executions"))
        connection.execute(sa.text(FILL), values)
        connection.execute(sa.text("VACUUM ANALYZE"))

    get_state(app).store.database.run(work)


def pages(app: Flask, client: FlaskClient) -> dict[str, str]:
    """Name the pages that are timed."""
    store = get_state(app).store
    text = "SELECT {}(id) FROM durable_executions"

    def one(function: str) -> str:
        statement = sa.text(text.format(function))
        return str(store.database.run(lambda c: c.scalar(statement)))

    first, last = one("min"), one("max")
    return {
        "list": LIST,
        "last page": f"{LIST}?before={first[:9]}ffff",
        "failed": f"{LIST}?status=failed",
        "suspended": f"{LIST}?status=suspended",
        "completed": f"{LIST}?status=completed",
        "last hour": f"{LIST}?within=1h",
        "one id": f"{LIST}?id={last}",
        "rare endpoint": f"{LIST}?endpoint=rare",
        "execution": f"{LIST}executions/{last}",
    }


def measure(apps: list[Flask]) -> dict[str, list[float]]:
    """Give the median times of each page in each journal, in seconds.

    They take turns, so that both have the same weather.
    """
    visits = [(app.test_client(), pages(app, app.test_client())) for app in apps]
    medians = {}

    for name in visits[0][1]:
        times: list[list[float]] = [[] for _ in apps]

        for _ in range(ROUNDS):
            for found, (client, urls) in zip(times, visits, strict=True):
                found.append(timed(client, urls[name]))

        medians[name] = [statistics.median(found) for found in times]

    return medians


def timed(client: FlaskClient, url: str) -> float:
    """Give how long a page takes, in seconds."""
    began = time.perf_counter()
    answer = client.get(url)
    passed = time.perf_counter() - began
    assert answer.status_code == 200, answer.text
    return passed


def main(count: int) -> None:
    """Print a line a page."""
    with servers.postgres() as server, server.database() as a, server.database() as b:
        apps = [make_app(a), make_app(b)]

        for app, size in zip(apps, (FEW, count), strict=True):
            app.test_client().get(LIST)
            fill(app, 1, size)

        print(f"{'':14} {FEW:>9,} {count:>10,} {'ratio':>6}   (ms, medians)")

        for name, (before, after) in measure(apps).items():
            print(
                f"{name:14} {before * 1000:9.2f} {after * 1000:10.2f}"
                f" {after / before:6.2f}"
            )

        client = apps[1].test_client()
        seconds = min(timed(client, f"{LIST}stats?within=24h") for _ in range(5))
        print(f"\ncounts over the newest {SCAN:,}: {seconds * 1000:.0f} ms")

        for app in apps:
            get_state(app).close()


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]] or [MANY])
