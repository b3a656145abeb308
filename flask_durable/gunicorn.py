"""Server hooks: ``gunicorn -c python:flask_durable.gunicorn app:app``.

They start the dispatcher of every durable app in each worker, before any
request comes, and hand leases back when a worker exits. What a worker has loaded by
then is not looked through for garbage any more, which would hold up its requests now
and then. A configuration file of your own can take them over::

    from flask_durable.gunicorn import post_worker_init, worker_exit
"""

from __future__ import annotations

import gc
import typing as t

from .extension import start_all
from .state import all_states
from .state import spare_loaded
from .watchers import watchers

EXIT_GRACE = 25.0
"""Seconds that an exiting worker waits for replays in hand; gunicorn's own
``graceful_timeout`` of 30 s is the bound."""


def post_worker_init(worker: t.Any) -> None:
    """Start the dispatchers once the worker has loaded its app."""
    watchers.server_threads = _threads(worker)
    spare_loaded()
    start_all()


def worker_exit(server: t.Any, worker: t.Any) -> None:
    """Finish what is in hand and hand back the rest."""
    for state in all_states():
        state.close(EXIT_GRACE)

    # Frozen objects would outlive what they need when the interpreter ends: with
    # gevent, log handlers raised errors.
    gc.unfreeze()


def _threads(worker: t.Any) -> int | None:
    """Return how many requests a worker serves at a time, if that is known."""
    config = getattr(worker, "cfg", None)

    if config is None:
        return None

    if config.worker_class_str in ("sync", "gthread"):
        return t.cast(int, config.threads)

    return t.cast(int, config.worker_connections)
