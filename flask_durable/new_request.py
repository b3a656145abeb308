"""Make the request of an execution that the app starts itself."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import typing as t
import urllib.parse

from flask import Flask
from flask import has_request_context
from flask import Request
from flask import request
from flask import url_for
from werkzeug.test import EnvironBuilder

from .capture import capture_request
from .options import Options
from .options import options_of
from .records import RequestRecord
from .state import get_state

METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET")
"""The first of these that the endpoint's rules allow is used."""

Mapping = cabc.Mapping[str, t.Any]


class NewRequest(t.NamedTuple):
    """A request that is ready to be stored, and the endpoint that it is for."""

    endpoint: str
    options: Options | None
    """The options of the endpoint's view, if that is durable."""
    record: RequestRecord


def make_request(
    app: Flask,
    endpoint: str,
    values: Mapping | None,
    query: Mapping | None,
    json: t.Any,
    headers: cabc.Mapping[str, str] | None,
) -> NewRequest:
    """Make a request for an endpoint, as if a client had sent it.

    It goes to the host of the current request, or to that of the endpoint's rule.
    Outside of a request the address comes from the app's ``SERVER_NAME`` and
    ``PREFERRED_URL_SCHEME``, as for ``url_for``, or from its first ``TRUSTED_HOSTS``.

    :param endpoint: as for ``url_for``: ``.name`` is in the current blueprint
    :param values: the rule's variables, as for ``url_for``
    :raises ValueError: if the app has no such endpoint, or the body is too big for it
    :raises TypeError: if the endpoint is not given by its name
    """
    name = _full_name(endpoint)
    method = _method(app, name)

    with contextlib.nullcontext() if has_request_context() else _context(app):
        base, path = _split(url_for(name, _method=method, **(values or {})))

    tracer = get_state(app).tracer

    if tracer is not None:
        headers = {**tracer.headers(), **(headers or {})}

    builder = EnvironBuilder(
        path=path,
        base_url=base,
        method=method,
        query_string=dict(query) if query else None,
        json=json,
        headers=list(headers.items()) if headers else None,
    )
    environ = builder.get_environ()

    # The path as a server received it: no server received this request.
    for key in ("RAW_URI", "REQUEST_URI"):
        environ.pop(key, None)

    environ["REMOTE_ADDR"] = "127.0.0.1"
    options = options_of(app, name, method)
    limit = _check_size(app, name, options, int(environ.get("CONTENT_LENGTH") or 0))
    return NewRequest(name, options, capture_request(Request(environ), limit))


def _split(url: str) -> tuple[str, str]:
    """Split a URL into the app's root URL and the path below it.

    A URL without a host is on that of the current request.
    """
    parts = urllib.parse.urlsplit(url)
    base = urllib.parse.urlsplit(request.root_url)

    if parts.netloc:
        base = base._replace(scheme=parts.scheme, netloc=parts.netloc)

    path = parts._replace(scheme="", netloc="").geturl()
    return base.geturl(), path.removeprefix(request.script_root)


def _check_size(app: Flask, name: str, options: Options | None, size: int) -> int:
    """Refuse a body that is over the endpoint's limit, and return the limit."""
    config = get_state(app).config
    limit = (options and options.max_request_bytes) or config.max_request_bytes

    if size > limit:
        raise ValueError(
            f'The body for endpoint "{name}" has {size} bytes, and its limit is {limit}'
            " (max_request_bytes of the endpoint, or DURABLE_MAX_REQUEST_BYTES)."
        )

    return limit


def trusted_host(app: Flask) -> str | None:
    """Return a host name that the app accepts, if it doesn't accept all."""
    hosts = app.config["TRUSTED_HOSTS"]

    if not hosts:
        return None

    # Flask allows any collection here.
    first: str = hosts if isinstance(hosts, str) else next(iter(hosts))
    return app.config["SERVER_NAME"] or first.removeprefix(".")


def _context(app: Flask) -> t.Any:
    host = trusted_host(app)
    return app.test_request_context(
        environ_overrides={"HTTP_HOST": host} if host else None
    )


def _full_name(endpoint: str) -> str:
    if not isinstance(endpoint, str):
        name = getattr(endpoint, "__name__", "name")
        raise TypeError(
            f'Give the endpoint by its name, as for url_for, such as "{name}", not'
            f" {endpoint!r:.80}."
        )

    if not endpoint.startswith("."):
        return endpoint

    blueprint = request.blueprint if has_request_context() else None
    return f"{blueprint}{endpoint}" if blueprint else endpoint[1:]


def _method(app: Flask, endpoint: str) -> str:
    if endpoint not in app.view_functions:
        raise ValueError(
            f'There is no endpoint "{endpoint}": use the name that url_for takes.'
        )

    rules = app.url_map.iter_rules(endpoint)
    allowed = {method for rule in rules for method in rule.methods or {"GET"}}
    return next(method for method in METHODS if method in allowed)
