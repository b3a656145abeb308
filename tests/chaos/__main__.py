"""``python -m tests.chaos --seconds 600 --seed 1``: a long run with a report."""

from __future__ import annotations

import argparse
import functools
import pathlib
import random
import signal
import sys
import tempfile

from .run import run


def main() -> int:
    """Run, print the report, and keep the logs if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--folder", type=pathlib.Path, help="for ledger and logs")
    given = parser.parse_args()
    # A way to end that lets everything be put away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    folder = given.folder or pathlib.Path(tempfile.mkdtemp(prefix="flask-durable-"))
    folder.mkdir(parents=True, exist_ok=True)
    say = functools.partial(print, flush=True)
    report = run(folder, given.seconds, given.seed, say)
    print(f"\n{report.text()}\nledger and logs: {folder}", flush=True)
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main())
