"""The app's extensions; ``create_app`` initialises them with an app."""

from __future__ import annotations

from flask import Request

from flask_durable import FlaskDurable

LOCAL = ("127.0.0.1", "localhost")

durable = FlaskDurable()


@durable.console_auth
def comes_from_here(request: Request) -> bool:
    """Allow the console only for a browser on this machine.

    The host name is checked, too: a foreign name may have been made to lead here (DNS
    rebinding).
    """
    name = request.host.partition(":")[0]
    return request.remote_addr == "127.0.0.1" and name in LOCAL
