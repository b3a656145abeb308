"""Configuration by mark, and further apps beside the usual one."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import pytest
from flask import Flask


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of this folder."""
    config.addinivalue_line(
        "markers", "config(**values): set these in app.config before init_app"
    )


@pytest.fixture(autouse=True)
def marked_config(request: pytest.FixtureRequest) -> None:
    """Copy the values of all ``config`` marks into the app, the nearest one last."""
    marks = list(request.node.iter_markers("config"))
    if marks:
        app = request.getfixturevalue("app")
        for mark in reversed(marks):
            app.config.update(mark.kwargs)


class MakeApp(t.Protocol):
    """How a test makes an app of its own: config values replace the usual ones."""

    def __call__(self, name: str = "shop", /, **config: t.Any) -> Flask: ...


@pytest.fixture
def make_app(database_url: str) -> cabc.Iterator[MakeApp]:
    """Make apps without the extension; what is set up on them is closed at the end."""
    made: list[Flask] = []

    def make(name: str = "shop", /, **config: t.Any) -> Flask:
        app = Flask(name)
        app.config.update(
            DURABLE_DATABASE_URL=database_url,
            PROPAGATE_EXCEPTIONS=False,
            SECRET_KEY="tests",
            TESTING=True,
        )
        app.config.update(config)
        made.append(app)
        return app

    yield make
    for app in made:
        if "durable" in app.extensions:
            app.extensions["durable"].close()
