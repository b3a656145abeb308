"""The shop on PostgreSQL, with its own threads or with workers beside it."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import pathlib
import tempfile

from .. import servers
from ..integration.sites import SECRET_KEY
from ..integration.sites import SHOP
from ..integration.sites import Shop
from ..integration.sites import shop
from ..processes import free_port
from ..processes import HOST
from ..processes import Worker

KINDS = ("embedded", "rq")


@contextlib.contextmanager
def site(kind: str) -> cabc.Iterator[Shop]:
    """Run the shop under gunicorn, two workers with four threads each.

    :param kind: ``embedded``, or ``rq``: two worker processes replay over HTTP
    """
    with (
        tempfile.TemporaryDirectory() as name,
        servers.postgres(fsync=True) as postgres,
        postgres.database() as url,
        contextlib.ExitStack() as stack,
    ):
        folder = pathlib.Path(name)
        port = free_port()
        env = {}

        if kind == "rq":
            redis = stack.enter_context(servers.redis())
            env["FLASK_DURABLE_REDIS_URL"] = redis.url
            env["FLASK_DURABLE_REPLAY_URL"] = f"http://{HOST}:{port}"

        found = stack.enter_context(
            shop(folder, url, env, worker_class="gthread", threads=4, port=port)
        )

        if kind == "rq":
            env |= {"FLASK_DURABLE_DATABASE_URL": url, "FLASK_SECRET_KEY": SECRET_KEY}
            stack.enter_context(Worker(SHOP, folder, processes=2, env=env))

        yield found
