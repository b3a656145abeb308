"""A process is killed before and after every statement of a request."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from .crash_lab import SHAPES
from .processes import ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_killed_request_is_completed(
    database_url: str, tmp_path: pathlib.Path, shape: str
) -> None:
    """Wherever it dies: done steps are not called again, one in flight at most."""
    program = [sys.executable, "-m", "tests.crash_lab", database_url]
    done = subprocess.run(
        [*program, str(tmp_path), shape],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    least = {"straight": 12, "suspended": 50}[shape]
    assert len(reports) >= least, "fewer statements than a request needs"

    for report in reports:
        check(report, shape)


def check(report: dict[str, object], shape: str) -> None:
    """Check what came of one kill."""
    calls = report["calls"]
    done_before = report["done_before"]
    assert isinstance(calls, dict) and isinstance(done_before, list)
    # In one shape the second step fails once by itself.
    wanted = {name: 2 if (shape, name) == ("suspended", "b") else 1 for name in calls}

    if report["status"] is None:
        assert report["statement"] == 1 and not any(calls.values()), report
        return

    assert report["status"] == "completed", report
    again = [name for name in calls if calls[name] > wanted[name]]
    assert not set(again) & set(done_before), report
    assert sum(calls[name] - wanted[name] for name in calls) <= 1, report
    assert all(calls[name] >= wanted[name] for name in calls), report
