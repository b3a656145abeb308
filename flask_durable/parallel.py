"""Branches of a view in threads, each with its own Flask context."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import contextvars
import functools
import itertools
import os
import threading
import typing as t

from flask import current_app
from flask import Flask
from flask import request
from flask.ctx import AppContext
from flask.globals import app_ctx

from .awaiting import resolve
from .errors import Cancelled
from .errors import LeaseLostError
from .errors import Suspended
from .outbox import Outbox
from .scope import current_scope
from .scope import Scope

MAX_THREADS = 128
"""Most threads of all parallel calls of a process; the callers run what is left."""

_free_threads = threading.Semaphore(MAX_THREADS)


def _after_fork() -> None:
    """Count from zero in a forked child: its parent's threads don't exist there."""
    global _free_threads
    _free_threads = threading.Semaphore(MAX_THREADS)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

READERS = ("get_data", "_load_form_data")
"""The methods of werkzeug's request through which all others read the body."""

Branch = cabc.Callable[[], t.Any]
Reader = cabc.Callable[..., t.Any]


class Ran:
    """How a branch ended."""

    def __init__(self, value: t.Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


def run_branches(
    scope: Scope,
    branches: cabc.Sequence[Branch],
    max_workers: int,
    outbox: Outbox | None = None,
) -> list[Ran]:
    """Run branches at once and wait until every one has ended.

    The calling thread runs branches, too, so that a nested call never waits for
    threads that others hold.

    :param outbox: where other threads run the branches, the calling thread serves this
        instead: it commits their outcomes
    :raises LeaseLostError: if the attempt may not go on
    :raises Suspended: if a branch is suspended, with the earliest wake time
    """
    results: list[Ran | None] = [None] * len(branches)
    commit = None if outbox is None else outbox.put
    scopes = [scope.fork(commit) for _ in branches]
    isolation = Isolation()
    queue = itertools.count()

    def work() -> None:
        while (index := next(queue)) < len(branches):
            results[index] = isolation.run(branches[index], scopes[index])

    most = min(max_workers, len(branches))
    serves = outbox is not None and most > 1

    with _read_one_by_one():
        helpers = _start_helpers(work, most if serves else most - 1, outbox)

        if outbox is not None and helpers:
            outbox.serve(helpers)
        else:
            work()

        for helper in helpers:
            helper.join()

    scope.join(scopes)

    if outbox is not None:
        outbox.check()

    ended = [t.cast(Ran, result) for result in results]
    _leave_if_not_done(scope, scopes, ended)
    return ended


@contextlib.contextmanager
def _read_one_by_one() -> cabc.Iterator[None]:
    """Let only one branch at a time read the body of the request that all share.

    If two read at once, each would get a part of it, or nothing.
    """
    shared = t.cast(t.Any, request)._get_current_object()

    # In a branch of another parallel call the methods are locked already.
    if READERS[0] in shared.__dict__:
        yield
        return

    lock = threading.RLock()

    for name in READERS:
        setattr(shared, name, _locked(lock, getattr(shared, name)))

    try:
        yield
    finally:
        for name in READERS:
            delattr(shared, name)


def _locked(lock: t.Any, read: Reader) -> Reader:
    @functools.wraps(read)
    def read_alone(*args: t.Any, **kwargs: t.Any) -> t.Any:
        with lock:
            return read(*args, **kwargs)

    return read_alone


def _start_helpers(
    work: Branch, count: int, outbox: Outbox | None
) -> list[threading.Thread]:
    helpers: list[threading.Thread] = []

    def help_out() -> None:
        try:
            work()
        finally:
            _free_threads.release()

            if outbox is not None:
                outbox.leave()

    while len(helpers) < count and _free_threads.acquire(blocking=False):
        thread = threading.Thread(target=help_out, name="flask_durable.branch")
        thread.daemon = True

        try:
            thread.start()
        except RuntimeError:
            # The system allows no more threads: the caller does the rest.
            _free_threads.release()
            break

        helpers.append(thread)

    return helpers


class Isolation:
    """Runs each branch in an app context of its own, and so with a new ``g``.

    The request context is the view's, and its teardown functions run when that ends.
    Those of the app context, in which an ORM closes its session, run with the branch.
    """

    def __init__(self) -> None:
        self._variables = contextvars.copy_context()
        self._app = t.cast(t.Any, current_app)._get_current_object()

    def run(self, branch: Branch, scope: Scope) -> Ran:
        """Run a branch, in any thread."""
        try:
            return Ran(self._variables.copy().run(_run_alone, self._app, branch, scope))
        except BaseException as error:
            return Ran(error=error)


def _run_alone(app: Flask, branch: Branch, scope: Scope) -> t.Any:
    current_scope.set(scope)
    scope.names.home = threading.get_ident()

    with _own_context(app):
        return resolve(branch())


def _own_context(app: Flask) -> AppContext:
    # Later versions of Flask have one context for app and request.
    if hasattr(AppContext, "copy"):
        return t.cast(AppContext, t.cast(t.Any, app_ctx)._get_current_object().copy())

    return app.app_context()


def _leave_if_not_done(
    scope: Scope, scopes: cabc.Sequence[Scope], ended: cabc.Sequence[Ran]
) -> None:
    suspended = [each.suspended for each in scopes if each.suspended]

    for ran in ended:
        if isinstance(ran.error, LeaseLostError | Cancelled):
            raise ran.error

        if isinstance(ran.error, Suspended):
            suspended.append(ran.error)
        elif ran.error is not None and not isinstance(ran.error, Exception):
            raise ran.error

    if suspended:
        raise scope.suspend(min(each.wake_at for each in suspended))


def results_of(ended: cabc.Iterable[Ran], return_exceptions: bool) -> list[t.Any]:
    """Return the branches' values in order.

    :param return_exceptions: put exceptions in their places, else raise the first
    """
    values = []

    for ran in ended:
        if ran.error is not None and not return_exceptions:
            raise ran.error

        values.append(ran.value if ran.error is None else ran.error)

    return values
