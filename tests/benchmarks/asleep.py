"""What executions that sleep cost the web process that began them.

``python -m tests.benchmarks.asleep [COUNT]``: the growth of its memory.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import sys
import tempfile

import requests

from ..processes import Gunicorn
from .databases import database
from .figures import Comparison
from .figures import shown

CLIENTS = 4


def resident(pid: int) -> float:
    """Give a process's memory in KiB."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def send(url: str, count: int) -> None:
    """Begin executions that sleep for an hour."""

    def some(number: int) -> None:
        with requests.Session() as session:
            for _ in range(count // CLIENTS):
                assert session.post(f"{url}/nap/3600.0").status_code == 202

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(some, range(CLIENTS)))


def measure(count: int) -> Comparison:
    """Look at the server's one worker before and after."""
    with tempfile.TemporaryDirectory() as name, database("postgresql") as url:
        env = {"FLASK_DURABLE_DATABASE_URL": url, "FLASK_SECRET_KEY": "benchmark"}
        app = f"{__package__}.apps.ours:app"
        folder = pathlib.Path(name)

        with Gunicorn(
            app, folder, worker_class="gthread", threads=CLIENTS, env=env
        ) as server:
            (pid,) = server.worker_pids()
            send(server.url, count)
            before = resident(pid)
            send(server.url, count)
            growth = max(0.0, resident(pid) - before)

    what = f"memory for {count} more asleep"
    return Comparison(what, "PostgreSQL", "1 MiB", [growth], [1024], "KiB", 1.0, False)


def main(count: int = 10_000) -> list[Comparison]:
    """Print a line."""
    return shown([measure(count)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
