"""The app's extensions; ``create_app`` ties them to an app."""

from __future__ import annotations

from flask import Request

from flask_durable import FlaskDurable

LOCAL = ("127.0.0.1", "localhost")

durable = FlaskDurable()


@durable.console_auth
def comes_from_here(request: Request) -> bool:
    """Let a browser of this machine into the console, and nobody else.

    The name counts, too: a foreign one may have been made to lead here.
    """
    name = request.host.partition(":")[0]
    return request.remote_addr == "127.0.0.1" and name in LOCAL
