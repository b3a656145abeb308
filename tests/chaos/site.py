"""All the servers of a run: databases, web servers, workers."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import dataclasses
import os
import pathlib
import signal

from .. import servers
from ..processes import free_port
from ..processes import Gunicorn
from ..processes import HOST
from ..processes import Process
from ..processes import Worker
from .ledger import Ledger
from .ledger import NAME

APP = "tests.chaos.app:app"


@dataclasses.dataclass(frozen=True)
class Site:
    """Servers that run."""

    folder: pathlib.Path
    url: str
    """The journal's."""
    ledger: Ledger
    postgres: servers.Postgres
    redis: servers.Redis
    webs: list[Gunicorn]
    workers: list[Worker]

    @property
    def web_urls(self) -> list[str]:
        """Where clients may send their requests."""
        return [web.url for web in self.webs]


@contextlib.contextmanager
def running_site(folder: pathlib.Path) -> cabc.Iterator[Site]:
    """Run two web servers, each with two processes, and as many workers.

    Each worker replays through another web server. One web server loads the app
    before it forks, the other one after.
    """
    with contextlib.ExitStack() as stack:
        # What is committed must survive an immediate stop.
        postgres = stack.enter_context(servers.postgres(fsync=True))
        redis = stack.enter_context(servers.redis())
        stack.callback(_thaw, redis)
        url = stack.enter_context(postgres.database())
        env = {
            "FLASK_DURABLE_DATABASE_URL": url,
            "FLASK_DURABLE_REDIS_URL": redis.url,
            "FLASK_SECRET_KEY": "chaos",
            # A busy machine must not look like a hanging worker.
            "GUNICORN_CMD_ARGS": "--timeout=120",
        }
        webs = [_web(folder, env, preload) for preload in (True, False)]
        workers = [_worker(folder, env, web) for web in webs]

        for process in [*webs, *workers]:
            stack.callback(end, process)
            process.start()

        yield Site(folder, url, Ledger(folder / NAME), postgres, redis, webs, workers)


def _web(folder: pathlib.Path, env: dict[str, str], preload: bool) -> Gunicorn:
    port = free_port()
    options = {"FLASK_DURABLE_REPLAY_URL": f"http://{HOST}:{port}"}
    return Gunicorn(
        APP,
        folder,
        workers=2,
        worker_class="gthread",
        threads=8,
        preload=preload,
        env=env | options,
        port=port,
    )


def _worker(folder: pathlib.Path, env: dict[str, str], web: Gunicorn) -> Worker:
    options = {"FLASK_DURABLE_REPLAY_URL": web.url}
    return Worker(APP, folder, processes=2, env=env | options)


def runs(process: Process) -> bool:
    """Tell whether a program was started and has not ended."""
    try:
        return not process.ended()
    except RuntimeError:
        return False


def end(process: Process) -> None:
    """Kill what is left of a program."""
    with contextlib.suppress(RuntimeError):
        process.kill()


def _thaw(redis: servers.Redis) -> None:
    if runs(redis):
        os.kill(redis.pid, signal.SIGCONT)
