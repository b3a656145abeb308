"""Each measurement runs, in a small size, so that none of them rots."""

from __future__ import annotations

import pathlib

import pytest

from . import __main__ as suite
from . import console
from . import recoveries
from .figures import Comparison
from .figures import write_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("name", sorted(suite.ALL.keys() - {"volume"}))
def test_each_comparison_is_measured(name: str) -> None:
    """Once, and small: its figures say nothing, but they are there."""
    found = suite.run([name], small=True)
    assert found
    assert all(figure >= 0 for each in found for figure in each.ours + each.theirs)


def test_the_table_of_the_documents_is_written(tmp_path: pathlib.Path) -> None:
    """A row a comparison, against another or against a unit."""
    write_table(
        [
            Comparison(
                "steps", "SQLite", "the driver", [900, 1100], [2000, 2000], "/s"
            ),
            Comparison("more", "SQLite", "1 ms", [2.0], [1.0], "ms", 2.5, False),
            Comparison("four", "SQLite", "DBOS", [3.0], [2.0], "/s", 5.0),
        ],
        tmp_path / "table.csv",
    )
    assert (tmp_path / "table.csv").read_text().splitlines()[1:] == [
        'steps,SQLite,"1,000 /s","the driver: 2,000 /s",0.50 (0.45 to 0.55),--',
        'more,SQLite,2 ms,--,--,"≤ 2.5 ms, yes"',
        'four,SQLite,3 /s,DBOS: 2 /s,1.50 (1.50 to 1.50),"≥ 5, **no**"',
    ]


def test_recoveries_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each kind."""
    recoveries.main(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["embedded", "rq"]


def test_a_full_journal_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Each statement has a line, and those that look for due rows use an index."""
    (found,) = suite.run(["volume"], small=True)
    text = capsys.readouterr().out
    assert found.measure.startswith("4,000 stored: ")
    assert "ratio" in text
    assert text.count("ix_durable_executions_due") >= 2
    assert "ix_durable_executions_owner" in text
    assert "Seq Scan" not in text


def test_the_consoles_pages_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a page; with twice the executions none takes long."""
    console.main(2_000)
    text = capsys.readouterr().out
    names = ("list", "failed", "rare endpoint", "execution")
    assert all(f"\n{name} " in text for name in names)
    assert "counts over the newest 20,000" in text
