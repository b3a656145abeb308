"""All comparisons in one run, as a table and a plot.

``python -m tests.benchmarks [--small] [--save FOLDER] [NAME …]``; the plot needs
matplotlib, which ``pip install -e '.[benchmark]'`` installs.
"""

from __future__ import annotations

import argparse
import collections.abc as cabc
import pathlib

from . import asleep
from . import drains
from . import endpoints
from . import journals
from . import maps
from . import steps
from . import volume
from . import wakeups
from .figures import Comparison
from .figures import write_table

ALL: dict[str, tuple[cabc.Callable[..., list[Comparison]], tuple[float, ...]]] = {
    "steps": (steps.main, (2, 40)),
    "endpoints": (endpoints.main, (1, 0.2)),
    "journals": (journals.main, (1, 50)),
    "maps": (maps.main, (1, 50)),
    "drains": (drains.main, (1, 20)),
    "asleep": (asleep.main, (40,)),
    "wakeups": (wakeups.main, (4,)),
    "volume": (volume.main, (2_000, 2_000)),
}
"""The measurements, and what each takes to be small."""


TICKS = (0.25, 0.5, 1, 2, 4, 8)
"""Marks of the plot's axis."""


def run(names: cabc.Iterable[str], small: bool) -> list[Comparison]:
    """Measure, and print each line as soon as it is there."""
    found = []

    for name in names:
        main, arguments = ALL[name]
        found += main(*arguments) if small else main()

    return found


def plot(found: list[Comparison], path: pathlib.Path) -> None:
    """Draw how far each measure is from its goal, which is 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [each for each in found if each.goal is not None]
    labels = [f"{each.measure}, {each.database}" for each in shown]
    scores = [each.score for each in shown]
    colors = ["#2a7d4f" if each.is_reached else "#b3541e" for each in shown]
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(shown) + 1))
    axes.barh(range(len(shown)), scores, color=colors)
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.axvline(1.0, color="#444444", linewidth=1)
    axes.set_xlabel("times the goal; right of the line it is reached")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--small", action="store_true", help="each once, for a test")
    parser.add_argument("--save", type=pathlib.Path, help="where the documents are")
    options = parser.parse_args()
    found = run(options.names or ALL, options.small)

    if options.save:
        write_table(found, options.save / "performance.csv")
        plot(found, options.save / "performance.svg")


if __name__ == "__main__":
    main()
