"""The extension's state for one app: settings, journal, heartbeat, dispatcher."""

from __future__ import annotations

import atexit
import collections.abc as cabc
import dataclasses
import functools
import gc
import logging
import os
import threading
import typing as t
import weakref

from flask import current_app
from flask import Flask
from flask import Request
from flask import request

from . import clock
from . import forks
from .access import ConsoleAuth
from .codec import Codec
from .config import Config
from .control import Control
from .database import Database
from .dispatch import Dispatcher
from .follow_ups import FollowUps
from .heartbeat import Heartbeat
from .heartbeat import Lease
from .listing import Listing
from .notices import Notices
from .owner import current_owner
from .probe import Probe
from .progress import Progress
from .store import Store
from .tracing import Tracer
from .upkeep import Upkeep
from .vault import Vault

logger = logging.getLogger(__name__)

EXIT_GRACE = 5.0
"""Seconds that a process waits at its end for running replays."""


Connect = cabc.Callable[[Flask], tuple[Database, Database]]
"""Opens an app's database, twice, each with a pool of its own."""


@dataclasses.dataclass
class Hooks:
    """Functions that users register on the extension."""

    identity: cabc.Callable[[], t.Any] | None = None
    console_auth: ConsoleAuth | None = None
    codec: Codec = dataclasses.field(default_factory=Codec)


class State:
    """The extension's state for one app; it never holds the app itself."""

    def __init__(self, config: Config, hooks: Hooks, connect: Connect) -> None:
        self.config = config
        self.hooks = hooks
        self._connect = connect
        self.codec = hooks.codec
        self.dispatcher: Dispatcher | None = None
        self.probe: Probe | None = None
        self.tracer: Tracer | None = None
        self.notices = Notices()
        self._reset()
        _states.add(self)

    databases: cabc.Sequence[Database] = ()
    """The journal's database, for the heartbeat and for all else, once it is open."""

    is_driven = False
    """Whether a test client replays what is due."""

    needs_hands = False
    """Whether to warn that nothing replays by itself, because the app is tested."""

    leaves = False
    """Whether this process is ending: what it hands back has not crashed."""

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._beat: Heartbeat | None = None
        self._closed = False
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
    def follow_ups(self) -> FollowUps:
        """What follows the ends of executions."""
        return FollowUps(self.store)

    @functools.cached_property
    def control(self) -> Control:
        """What operators do with executions."""
        return Control(self.store, self.notices)

    @functools.cached_property
    def listing(self) -> Listing:
        """What the console reads."""
        return Listing(self.store)

    @functools.cached_property
    def progress(self) -> Progress:
        """What watchers read: progress messages, and steps that have changed."""
        return Progress(self.store)

    @functools.cached_property
    def upkeep(self) -> Upkeep:
        """What sweepers and replays do with executions."""
        return Upkeep(self.store, self.notices)

    @property
    def strict_replay(self) -> bool:
        """Whether a replay that differs raises, for the app or for its tests."""
        strict = self.probe is not None and self.probe.strict
        return strict or self.config.strict_replay

    def open(self, app: Flask) -> None:
        """Open the journal, unless it is open; this makes no connection yet.

        If ``app.testing`` is true, no thread renews leases.
        """
        if self._store is not None:
            return

        with self._lock:
            if self._store is None:
                threads = not app.testing
                self.needs_hands = app.testing
                create = self.config.create_tables
                beats, database = self._connect(app)
                self.databases = [beats, database]
                # Tests make many apps, and Python warns of connections left open.
                weakref.finalize(self, _close, self.databases).atexit = False
                beats.vault = database.vault = Vault(self.config.encryption_keys)
                # Whoever has a lease has checked the tables, and must be able to renew
                # it even if they were migrated since.
                beats_store = Store(beats, app.name, create, checked=True)
                self.notices = Notices(weakref.ref(app))
                self._beat = Heartbeat(
                    beats_store, self.config.lease, threads, self.notices
                )
                self._store = Store(database, app.name, create)
                self._at_exit(threads)

    def _at_exit(self, threads: bool) -> None:
        if threads:
            atexit.register(_stop_at_exit, weakref.ref(self), os.getpid())

    def start(self, make: cabc.Callable[[], Dispatcher]) -> None:
        """Start the dispatcher and the heartbeat, unless they run.

        :raises RuntimeError: if the process can't have their threads now
        """
        if self.dispatcher is None and not self._closed:
            with self._lock:
                if self.dispatcher is None:
                    self.heartbeat.start()
                    dispatcher = make()
                    dispatcher.start()
                    self.dispatcher = dispatcher

    def wake(self, delay: float) -> None:
        """Tell the dispatcher that an execution becomes due."""
        if self.dispatcher is not None:
            self.dispatcher.wake(delay)
        elif self.needs_hands and not self.is_driven:
            self.needs_hands = False
            logger.warning(
                "An execution is suspended, and as app.testing is true, nothing replays"
                " it by itself: use flask_durable.testing.durable_client(app)."
            )

    def lease(self, execution_id: str, attempt: int) -> Lease:
        """Note that an attempt's lease is about to be taken."""
        return self.heartbeat.lease(execution_id, attempt, clock.boottime())

    @property
    def owner(self) -> str:
        """This process's name as an owner."""
        return current_owner()

    def stop(self, grace: float) -> None:
        """Take no more work, wait for running replays, hand back the rest."""
        if self.dispatcher is not None:
            self.dispatcher.stop(grace)
            self.dispatcher = None

        if self._beat is not None:
            self._beat.stop()

    def close(self, grace: float = 0.0) -> None:
        """Stop, and close all connections for good, because this process ends.

        Views that still run get an error that says that the journal is closed.
        """
        self._closed = True
        self.stop(grace)

        if self._store is not None:
            _close(self.databases)

    def forget_parent(self) -> None:
        """Forget, in a forked child, what belongs to its parent."""
        if self._store is not None:
            for database in self.databases:
                database.forget()

        for name in ("upkeep", "follow_ups", "control", "listing", "progress"):
            self.__dict__.pop(name, None)

        self._reset()


def _close(databases: cabc.Iterable[Database]) -> None:
    for database in databases:
        database.close()


_states: weakref.WeakSet[State] = weakref.WeakSet()


def all_states() -> list[State]:
    """List the states of all apps in this process."""
    return list(_states)


def spare_loaded() -> None:
    """Exempt all that is loaded so far from garbage collection.

    It stays loaded anyway, and a full collection would hold up every thread for 0.1 to
    0.2 s now and then, the first time soon after the start.
    """
    gc.collect()
    gc.freeze()


def this_app() -> Flask:
    """Return the current app itself, not the proxy for it."""
    return t.cast(Flask, t.cast(t.Any, current_app)._get_current_object())


def this_request() -> Request:
    """Return the current request itself, because its proxy looks it up at each use."""
    return t.cast(Request, t.cast(t.Any, request)._get_current_object())


def opened_state(app: Flask) -> State:
    """Return an app's state with its journal open."""
    state = get_state(app)
    state.open(app)
    return state


def get_state(app: Flask) -> State:
    """Return an app's state.

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
        state.close(EXIT_GRACE)


def _before_fork() -> None:
    forks.rest(database for state in all_states() for database in state.databases)


def _after_fork() -> None:
    forks.begin()

    for state in all_states():
        state.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=forks.go_on, after_in_child=_after_fork
    )
