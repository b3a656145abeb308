"""Traces and metrics of processes that are killed."""

from __future__ import annotations

import json
import pathlib

import pytest
import requests

from ..processes import Gunicorn
from .sites import Journal
from .sites import SECRET_KEY
from .sites import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def test_a_killed_process_is_one_trace_and_one_count(tmp_path: pathlib.Path) -> None:
    """Another worker goes on with the trace; all workers count together."""
    url = f"sqlite:///{tmp_path}/journal.db"
    (tmp_path / "counts").mkdir()
    env = {
        "FLASK_DURABLE_DATABASE_URL": url,
        "FLASK_SECRET_KEY": SECRET_KEY,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "counts"),
    }
    module = "tests.integration.apps.telemetry:app"
    server = Gunicorn(module, tmp_path, workers=2, env=env)

    with server:
        site = Site(server, Journal(url))

        with pytest.raises(requests.ConnectionError):
            site.post("/order")

        (row,) = site.journal.rows()
        site.journal.wait_for(row.id)
        text = site.get("/metrics").text

    lines = (tmp_path / "spans.jsonl").read_text().splitlines()
    spans = list(map(json.loads, lines))
    assert len({span["trace"] for span in spans}) == 1
    assert len({span["pid"] for span in spans}) == 2
    assert sorted(span["name"] for span in spans) == [
        "attempt order",
        "execution order",
        "recovery order",
        "step first",
        "step last",
    ]
    assert 'durable_attempts_total{endpoint="order",role="view"} 2.0' in text
    assert 'durable_recoveries_total{endpoint="order",role="view"} 1.0' in text
