"""Serve an app over HTTP from a thread of the test's own process."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import threading
import typing as t

from werkzeug.serving import make_server
from werkzeug.serving import WSGIRequestHandler

from .processes import HOST


class _Handler(WSGIRequestHandler):
    """Serves without a word."""

    def log(self, type: str, message: str, *args: t.Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(app: t.Any) -> cabc.Iterator[str]:
    """Serve a WSGI app, a thread a request, and give its URL.

    It is left without waiting for requests that are under way.
    """
    server = make_server(HOST, 0, app, threaded=True, request_handler=_Handler)
    t.cast(t.Any, server).daemon_threads = True
    t.cast(t.Any, server).block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
