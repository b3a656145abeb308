"""The extension: the only place that wires the parts together."""

from __future__ import annotations

import atexit
import collections.abc as cabc
import contextlib
import datetime as dt
import functools
import logging
import os
import pathlib
import shutil
import tempfile
import typing as t
import weakref

import sqlalchemy as sa
from flask import Flask
from flask import got_request_exception
from flask import request

from .arrival import arrive
from .arrival import install_entry
from .call import Call
from .call import KEY
from .checks import check_engine
from .checks import check_hook
from .checks import check_view
from .cli import durable_cli
from .config import Config
from .database import Database
from .database import SILENCE
from .dispatch import Dispatcher
from .dispatch_thread import ThreadDispatcher
from .doubts import doubts
from .endpoint import serve
from .operations import Operations
from .options import Idempotency
from .options import MARK
from .options import OnFailure
from .options import Options
from .options import options_of
from .problems import Problem
from .retry import Retry
from .state import get_state
from .state import Hooks
from .state import opened_state
from .state import State
from .state import this_app
from .web import make_blueprint

F = t.TypeVar("F", bound=cabc.Callable[..., t.Any])
Engine = sa.Engine | cabc.Callable[[], sa.Engine]

NO_THREADS = "The server can't start threads now, so nothing was begun: try later."
"""For clients. Without threads an execution could get stuck, or lose its lease."""

logger = logging.getLogger(__name__)

_engines: weakref.WeakKeyDictionary[Flask, Engine | None] = weakref.WeakKeyDictionary()
"""The durable apps of this process, and the engines that they were given."""


class FlaskDurable(Operations):
    """Makes views durable. One object serves several apps.

    :param app: call :meth:`init_app` with this app
    :param engine: an engine, or a function that gives one in the app's
        context: the journal then lives in its database, with a pool of its own
    """

    def __init__(self, app: Flask | None = None, *, engine: Engine | None = None):
        if engine is not None and not callable(engine):
            check_engine(engine, "this")

        self._engine = engine
        self._hooks = Hooks()

        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set the extension up on an app, by its config's ``DURABLE_`` keys.

        :raises RuntimeError: if that was done before
        :raises ConfigError: if a setting is wrong
        """
        if "durable" in app.extensions:
            raise RuntimeError(
                "FlaskDurable is set up on this app already: call init_app once,"
                " and import the object where you need it."
            )

        config = Config.from_mapping(app.config)
        app.extensions["durable"] = State(config, self._hooks, _connect)
        _engines[app] = self._engine
        app.register_blueprint(
            make_blueprint(config.url_prefix, app.url_map.host_matching)
        )
        app.cli.add_command(durable_cli)
        install_entry(app)
        app.url_value_preprocessor(_on_request)
        app.teardown_request(_on_teardown)
        got_request_exception.connect(_on_exception, app)

        if not app.testing:
            for doubt in doubts(app.config):
                logger.warning("%s", doubt)

    @t.overload
    def endpoint(self, view: F, /) -> F: ...

    @t.overload
    def endpoint(
        self,
        /,
        *,
        retry: Retry | None = None,
        idempotency: Idempotency = "optional",
        pending: t.Literal["accepted", "redirect"] | None = None,
        deadline: float | dt.timedelta | None = None,
        on_failure: OnFailure | None = None,
        max_request_bytes: int | None = None,
    ) -> cabc.Callable[[F], F]: ...

    def endpoint(
        self,
        view: cabc.Callable[..., t.Any] | None = None,
        /,
        *,
        retry: Retry | None = None,
        idempotency: Idempotency = "optional",
        pending: t.Literal["accepted", "redirect"] | None = None,
        deadline: float | dt.timedelta | None = None,
        on_failure: OnFailure | None = None,
        max_request_bytes: int | None = None,
    ) -> t.Any:
        """Make a view durable; put it below the route.

        :param retry: the policy of the view's steps, else ``DURABLE_RETRY``
        :param idempotency: what to do with an ``Idempotency-Key``: ``"optional"``,
            ``"required"`` or ``"off"``; or a function that reads the key from the
            request, and returns ``None`` if there is none
        :param pending: how to answer when the execution suspends: ``"accepted"``
            (202) or ``"redirect"`` (303), else by the ``Accept`` header
        :param deadline: how long an execution may take, in seconds or as a
            ``timedelta``; after that no step begins, and the execution fails
        :param on_failure: a function that runs once after an execution failed or was
            cancelled, with steps of its own; it gets an :class:`ExecutionInfo`
        :param max_request_bytes: limit of the request's body, else
            ``DURABLE_MAX_REQUEST_BYTES``
        """
        chosen = Options(
            retry, pending, max_request_bytes, deadline, on_failure, idempotency
        )

        def decorate(view: F) -> F:
            check_view(view)

            @functools.wraps(view)
            def durable_view(*args: t.Any, **kwargs: t.Any) -> t.Any:
                return serve(chosen, view, args, kwargs)

            setattr(durable_view, MARK, chosen)
            return t.cast(F, durable_view)

        return decorate if view is None else decorate(view)

    def identity(self, function: F) -> F:
        """Register the function that says whose execution a request begins.

        Its value (JSON) is stored with the execution; a replay's hooks read it
        from ``durable_replay().identity``. It is also called when a view calls
        :meth:`start`: it must return ``None`` if nobody is logged in.
        """
        check_hook("@durable.identity", function)
        self._hooks.identity = function
        return function

    def console_auth(self, function: F) -> F:
        """Register the function that decides who may use the console; turns it on.

        It gets the request, and returns true, false or a :class:`ConsoleAccess`.
        Who may not see the console is answered 404.
        """
        check_hook("@durable.console_auth", function)
        self._hooks.console_auth = function
        return function

    def register_type(
        self,
        cls: type,
        encode: cabc.Callable[[t.Any], t.Any] | None = None,
        decode: cabc.Callable[[t.Any], t.Any] | None = None,
    ) -> None:
        """Let steps return objects of a class.

        The journal knows them by the class's name, so keep that name. Register
        subclasses as well.

        :param encode: turns an object into a value that steps may return; dataclasses
            and Enums need none
        :param decode: makes the object from that value
        :raises TypeError: if it is not a class, or a class that needs functions
        :raises ValueError: if another class of this name is registered, or if it is one
            of JSON's own, which are stored as they are
        """
        self._hooks.codec.register(cls, encode, decode)

    def start_dispatcher(self, app: Flask) -> None:
        """Start the threads that replay due executions in this process.

        Without this they start with the app's first request.
        """
        _start(app)


def start_all() -> None:
    """Start the dispatchers of all durable apps of this process."""
    for app in list(_engines):
        _start(app)


def _start(app: Flask) -> None:
    state = opened_state(app)
    install_entry(app)
    state.start(lambda: _make_dispatcher(app, state))


def _make_dispatcher(app: Flask, state: State) -> Dispatcher:
    if state.config.redis_url is None:
        return ThreadDispatcher(app)

    # RQ takes 0.3 s to import, and only this needs it.
    from .dispatch_rq import RqDispatcher

    return RqDispatcher(app)


def _on_exception(app: Flask, **extra: t.Any) -> None:
    """End an execution whose error Flask will raise, instead of making a response.

    Not at teardown: a teardown function of the app may raise before ours is called.
    """
    propagates = app.config["PROPAGATE_EXCEPTIONS"]

    if app.testing or app.debug if propagates is None else propagates:
        call = request.environ.get(KEY)

        if isinstance(call, Call):
            call.tear_down()


def _on_request(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
    """Before any hook: open the journal, start the threads, capture the request."""
    app = this_app()
    state = opened_state(app)
    install_entry(app)

    if state.dispatcher is None and not app.testing:
        _start_for_request(app)

    arrive(app)


def _start_for_request(app: Flask) -> None:
    """Start the threads; if that fails, only durable views are refused.

    :raises Problem: 503 if that fails, and the view is durable
    """
    # Outside of the ``try``: an error in the settings is not one of threads.
    opened_state(app)

    try:
        _start(app)
    except RuntimeError as error:
        # Each request tries again.
        logger.error("No execution can be replayed: %s.", error)

        if options_of(app, request.endpoint or "", request.method) is not None:
            raise Problem(503, NO_THREADS, {"Retry-After": "5"}) from error


def _on_teardown(error: BaseException | None) -> None:
    """After the request: end an execution whose error got no response."""
    call = request.environ.get(KEY)

    if isinstance(call, Call):
        call.tear_down()


def _connect(app: Flask) -> tuple[Database, Database]:
    """Make two databases of one journal: for the heartbeat, and for all else."""
    engine = _engines.get(app)

    if engine is None:
        config = get_state(app).config
        url = _url(app, config.database_url or _default_url(app))
        # Lost packets are resent at ever longer intervals. With a new connection the
        # heartbeat is back sooner, before another machine looks for the second time.
        return Database.open(url, min(SILENCE, config.lease / 2)), Database.open(url)

    if not isinstance(engine, sa.Engine):
        with app.app_context():
            engine = engine()

        check_engine(engine, "what this one gave")

    return Database.beside(engine), Database.beside(engine)


def _url(app: Flask, url: str) -> str:
    """Resolve a relative SQLite path from the instance folder, as users expect."""
    parsed = sa.make_url(url)
    path = parsed.database or ""
    relative = not os.path.isabs(path) and not path.startswith("file:")

    if parsed.get_backend_name() == "sqlite" and relative:
        parsed = parsed.set(database=os.path.join(app.instance_path, path))

        with contextlib.suppress(OSError):
            os.makedirs(app.instance_path, exist_ok=True)

    return parsed.render_as_string(hide_password=False)


def _default_url(app: Flask) -> str:
    """Name a file in the instance folder, or a temporary one while testing."""
    folder = pathlib.Path(app.instance_path)

    if app.testing:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="flask_durable-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)

    # If that fails, opening the file raises an error that says what to do.
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)

    path = folder / "durable.sqlite3"

    # Private, as requests are in it; SQLite's files beside it get the same mode. An
    # existing file is not opened: closing it would release SQLite's locks.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    return f"sqlite:///{path}"
