"""A process is killed at every statement of what it does, and so is who recovers."""

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

PROGRAM = [sys.executable, "-m", "tests.crash_lab", "--twice=sample"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS)
def test_a_killed_process_loses_nothing(
    database_url: str, tmp_path: pathlib.Path, group: str
) -> None:
    """Wherever it dies: all ends as it must, and no step that is done is called."""
    done = subprocess.run(
        [*PROGRAM, database_url, str(tmp_path), group],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report for report in reports if report["problems"]] == []
    assert done.returncode == 0, done.stderr
    names = [shape.__name__ for shape in GROUPS[group]]
    assert [name for name in names if not was_thorough(name, reports)] == []


def was_thorough(name: str, reports: list[Report]) -> bool:
    """Tell whether it was killed as often as this needs, and now and then twice."""
    found = [report for report in reports if report["shape"] == name]
    once = [each for each in found if len(each["plan"]) == len(each["texts"]) == 1]
    twice = [each for each in found if len(each["texts"]) == 2]
    return len(once) >= SHAPES[name].least and len(twice) > 0
