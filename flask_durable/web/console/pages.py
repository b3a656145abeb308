"""The console's pages, rendered apart from the app's own Jinja environment.

So no filter, global or setting of the app changes them, and everything is escaped.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import typing as t
import urllib.parse

import jinja2
from flask import url_for
from werkzeug.wrappers import Response

from ... import clock
from . import wording

WEB = pathlib.Path(__file__).parent.parent
FILES = WEB / "static" / "console"

TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@functools.cache
def file(name: str) -> bytes:
    """Read one of the console's own files."""
    return (FILES / name).read_bytes()


@functools.cache
def file_version(name: str) -> str:
    """Return a digest of a file, which changes when the file does."""
    return hashlib.sha256(file(name)).hexdigest()[:12]


def file_url(name: str) -> str:
    """Return a link to a file under which caches may keep it."""
    return url_for("durable.console_file", name=name, v=file_version(name))


def list_url(**values: str | None) -> str:
    """Return a link to the list with filters: ``url_for`` can't take ``endpoint``."""
    query = {name: value for name, value in values.items() if value}
    url = url_for("durable.console")
    return f"{url}?{urllib.parse.urlencode(query)}" if query else url


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB / "templates" / "flask_durable" / "console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=wording.duration,
        absolute=wording.absolute,
        iso=clock.isoformat,
        size=wording.size,
        code=wording.code,
        own_frames=wording.own_frames,
    )
    environment.globals.update(
        ago=wording.ago,
        words=wording.STATUSES,
        url_for=url_for,
        file_url=file_url,
        list_url=list_url,
    )
    return environment


def render(name: str, code: int = 200, **values: t.Any) -> Response:
    """Render a template as an answer."""
    html = _environment().get_template(name).render(**values)
    return Response(html, code, content_type="text/html; charset=utf-8")
