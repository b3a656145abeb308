"""A minute of chaos: whatever is killed, every accepted request is finished rightly."""

from __future__ import annotations

import pathlib

import pytest

from .run import run
from .shapes import SHAPES

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(420)]

SECONDS = 60.0

SEED = 1


def test_whatever_is_killed_everything_is_finished_once(tmp_path: pathlib.Path) -> None:
    """Every promise that the report checks holds, and the run was no idle one."""
    report = run(tmp_path, SECONDS, SEED)
    print(report.text())
    assert report.violations == []
    found = report.evidence
    assert {one.shape for one in found.executions} == SHAPES.keys()
    # On a machine that does nothing else there are hundreds, and dozens.
    assert len(found.executions) >= 60
    assert len(found.kills) >= 10
    assert len({one.kind for one in report.monkey.outages}) >= 5
