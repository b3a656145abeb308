"""A process is killed before and after every statement of what it does."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import typing as t

import pytest

from .crash_lab import GROUPS
from .crash_lab import SHAPES
from .processes import ROOT

Report = dict[str, t.Any]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS)
def test_a_killed_process_loses_nothing(
    database_url: str, tmp_path: pathlib.Path, group: str
) -> None:
    """Wherever it dies: all ends as it must, and no step that is done is called."""
    names = [shape.__name__ for shape in GROUPS[group]]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash_lab", database_url, str(tmp_path), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [problem for report in reports for problem in problems(report)] == []
    assert [name for name in names if not was_thorough(name, reports)] == []


def was_thorough(name: str, reports: list[Report]) -> bool:
    """Tell whether there were as many statements as this needs, each with a kill."""
    kills: int = sum(report["killed"] for report in reports if report["shape"] == name)
    return kills >= SHAPES[name].least


def problems(report: Report) -> list[str]:
    """Say what is not as it must be after one kill."""
    shape = SHAPES[report["shape"]]

    if was_lost(report):
        return []

    calls = {name: report["calls"].get(name, 0) for name in shape.calls}
    counts = {"orphans": 0, "rows": 0} | shape.counts
    in_flight = shape.in_flight if report["killed"] else 0
    wrong = {
        "ends": report["ends"] != shape.ends,
        "answers": any(answer not in shape.answers for answer in report["answers"]),
        "calls": any(not within(calls[name], shape.calls[name]) for name in calls),
        "unknown steps": not report["calls"].keys() <= shape.calls.keys(),
        "more than were in flight": repeated(calls, shape.calls) > in_flight,
        "recorded ones again": bool(report["again"]),
        "counts": not report["counts"].items() >= counts.items(),
    }
    return [f"{what}: {report}" for what in wrong if wrong[what]]


def was_lost(report: Report) -> bool:
    """Tell whether nothing was stored yet, so that nothing had to be done."""
    lost = report["killed"] and report["statement"] == 1 and not report["ends"]
    return lost and SHAPES[report["shape"]].may_be_lost and not report["calls"]


def repeated(calls: dict[str, int], limits: dict[str, tuple[int, int]]) -> int:
    """Count the calls that there would not have been without the kill."""
    return sum(calls[name] - max(1, limits[name][0]) for name in calls if calls[name])


def within(value: int, limits: tuple[int, int]) -> bool:
    """Tell whether a number is within two others."""
    return limits[0] <= value <= limits[1]
