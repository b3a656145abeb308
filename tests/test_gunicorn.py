"""The server hooks, called as gunicorn calls them."""

from __future__ import annotations

import collections.abc as cabc
import gc
import types
import typing as t
import weakref

import pytest
from flask import Flask

from flask_durable import extension
from flask_durable import FlaskDurable
from flask_durable import gunicorn
from flask_durable import state as states
from flask_durable.dispatch_thread import ThreadDispatcher
from flask_durable.state import get_state
from flask_durable.watchers import watchers


@pytest.fixture
def worker_apps(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> cabc.Iterator[list[Flask]]:
    """Load two apps in a process that has no others."""
    monkeypatch.setattr(extension, "_engines", weakref.WeakKeyDictionary())
    monkeypatch.setattr(states, "_states", weakref.WeakSet())
    durable = FlaskDurable()
    apps = [Flask("shop"), Flask("admin")]

    for app in apps:
        app.config.update(DURABLE_DATABASE_URL=sqlite_url, TESTING=True)
        durable.init_app(app)

    yield apps
    gc.unfreeze()

    for app in apps:
        get_state(app).close()


def test_a_worker_starts_the_dispatchers_of_all_its_apps(
    worker_apps: list[Flask],
) -> None:
    """Before any request comes."""
    gunicorn.post_worker_init(None)
    found = [get_state(app).dispatcher for app in worker_apps]
    assert all(isinstance(each, ThreadDispatcher) for each in found)
    gunicorn.post_worker_init(None)
    assert [get_state(app).dispatcher for app in worker_apps] == found


def test_what_a_worker_has_loaded_is_no_garbage(worker_apps: list[Flask]) -> None:
    """To look for some there would hold up all its requests."""
    frozen = gc.get_freeze_count()
    gunicorn.post_worker_init(None)
    assert gc.get_freeze_count() > frozen + 10_000


def test_what_a_worker_has_loaded_is_let_go_at_its_exit(
    worker_apps: list[Flask],
) -> None:
    """Else the interpreter's end takes it down in the wrong order, and says so."""
    gunicorn.post_worker_init(None)
    gunicorn.worker_exit(None, None)
    assert gc.get_freeze_count() == 0


def test_a_worker_that_exits_closes_all_its_apps(
    worker_apps: list[Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a grace that is within gunicorn's own."""
    graces: list[float] = []
    gunicorn.post_worker_init(None)
    stop = ThreadDispatcher.stop

    def note(self: ThreadDispatcher, grace: float) -> None:
        graces.append(grace)
        stop(self, 0)

    monkeypatch.setattr(ThreadDispatcher, "stop", note)
    gunicorn.worker_exit(None, None)
    assert graces == [gunicorn.EXIT_GRACE] * 2
    assert gunicorn.EXIT_GRACE < 30
    assert [get_state(app).dispatcher for app in worker_apps] == [None, None]


def test_a_worker_that_served_nothing_exits(worker_apps: list[Flask]) -> None:
    """Its journals were never opened."""
    gunicorn.worker_exit(None, None)


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({}, 1),
        ({"threads": 8}, 8),
        ({"worker_class": "gthread", "threads": 4}, 4),
        ({"worker_class": "gevent", "worker_connections": 50}, 50),
    ],
)
def test_a_worker_tells_how_many_requests_it_serves(
    worker_apps: list[Flask],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, t.Any],
    threads: int,
) -> None:
    """Half of them may watch."""
    config = pytest.importorskip("gunicorn.config").Config()

    for name, value in settings.items():
        config.set(name, value)

    monkeypatch.setattr(watchers, "server_threads", None)
    gunicorn.post_worker_init(types.SimpleNamespace(cfg=config))
    assert watchers.server_threads == threads


def test_gunicorn_knows_the_hooks() -> None:
    """By these names, with so many parameters."""
    config = pytest.importorskip("gunicorn.config")
    known = config.make_settings()

    for name in ("post_worker_init", "worker_exit"):
        setting = known[name]
        setting.set(getattr(gunicorn, name))
        assert setting.get() is getattr(gunicorn, name)
