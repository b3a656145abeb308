"""What one app has of the extension: settings, journal, heartbeat, dispatcher."""

from __future__ import annotations

import atexit
import collections.abc as cabc
import dataclasses
import functools
import os
import threading
import typing as t
import weakref

from flask import Flask

from .codec import Codec
from .config import Config
from .database import Database
from .dispatch import Dispatcher
from .heartbeat import Heartbeat
from .heartbeat import Lease
from .owner import current_owner
from .store import Store
from .upkeep import Upkeep

EXIT_GRACE = 5.0
"""Seconds that the end of the process waits for replays in hand."""


@dataclasses.dataclass
class Hooks:
    """Functions that users register on the extension."""

    identity: cabc.Callable[[], t.Any] | None = None


class State:
    """The extension's state of one app; it never holds the app itself."""

    def __init__(self, config: Config, hooks: Hooks) -> None:
        self.config = config
        self.hooks = hooks
        self.codec = Codec()
        self.dispatcher: Dispatcher | None = None
        self._make_database: cabc.Callable[[], Database] | None = None
        self._reset()
        _states.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._beat: Heartbeat | None = None
        self.dispatcher = None

    @property
    def store(self) -> Store:
        """The journal."""
        assert self._store is not None
        return self._store

    @property
    def heartbeat(self) -> Heartbeat:
        """The heartbeat."""
        assert self._beat is not None
        return self._beat

    @functools.cached_property
    def upkeep(self) -> Upkeep:
        """What sweepers and replays do to executions."""
        return Upkeep(self.store)

    @property
    def is_open(self) -> bool:
        """Tell whether the journal was opened in this process."""
        return self._store is not None

    def open(self, make_database: cabc.Callable[[], Database], threads: bool) -> None:
        """Open the journal; nothing is connected yet.

        :param threads: whether leases are renewed by a thread
        """
        with self._lock:
            if self._store is None:
                create = self.config.create_tables
                beats = Store(make_database(), create)
                self._beat = Heartbeat(beats, self.config.lease, threads)
                self._databases = [beats.database, make_database()]
                self._store = Store(self._databases[1], create)
                self._at_exit(threads)

    def _at_exit(self, threads: bool) -> None:
        if threads:
            atexit.register(_stop_at_exit, weakref.ref(self), os.getpid())

    def start(self, make: cabc.Callable[[], Dispatcher]) -> None:
        """Start the dispatcher, unless it runs."""
        if self.dispatcher is None:
            with self._lock:
                if self.dispatcher is None:
                    dispatcher = make()
                    dispatcher.start()
                    self.dispatcher = dispatcher

    def wake(self, delay: float) -> None:
        """Tell the dispatcher that an execution becomes due."""
        if self.dispatcher is not None:
            self.dispatcher.wake(delay)

    def lease(self, execution_id: str, attempt: int, since: float) -> Lease:
        """Begin to renew an attempt's lease."""
        return self.heartbeat.lease(execution_id, attempt, since)

    @property
    def owner(self) -> str:
        """This process."""
        return current_owner()

    def stop(self, grace: float = EXIT_GRACE) -> None:
        """Take no more work, wait for what is in hand, hand back the rest."""
        if self.dispatcher is not None:
            self.dispatcher.stop(grace)
            self.dispatcher = None

        if self._beat is not None:
            self._beat.stop()

    def close(self) -> None:
        """Stop, and close all connections; a later request opens them again."""
        self.stop(grace=0.0)

        if self._store is not None:
            for database in self._databases:
                database.close()

        self.__dict__.pop("upkeep", None)
        self._reset()

    def forget_parent(self) -> None:
        """Leave everything to the parent, after a fork."""
        if self._store is not None:
            for database in self._databases:
                database.forget()

        self.__dict__.pop("upkeep", None)
        self._reset()


_states: weakref.WeakSet[State] = weakref.WeakSet()


def all_states() -> list[State]:
    """List the states of all apps in this process."""
    return list(_states)


def get_state(app: Flask) -> State:
    """Give an app's state.

    :raises RuntimeError: if the extension was not set up on it
    """
    state = app.extensions.get("durable")

    if state is None:
        raise RuntimeError(
            "This app is not durable yet: call FlaskDurable(app), or"
            " durable.init_app(app) in the app factory."
        )

    return t.cast(State, state)


def _stop_at_exit(reference: weakref.ref[State], pid: int) -> None:
    state = reference()

    if state is not None and pid == os.getpid():
        state.stop()


def _after_fork() -> None:
    for state in all_states():
        state.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
