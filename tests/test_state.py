"""What one app has of the extension, opened, forked, closed."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import gc
import os
import threading
import typing as t
import weakref

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from flask_durable import FlaskDurable
from flask_durable import state as module
from flask_durable import step
from flask_durable.config import Config
from flask_durable.database import Database
from flask_durable.errors import JournalUnavailable
from flask_durable.ids import new_id
from flask_durable.owner import current_owner
from flask_durable.records import RequestRecord
from flask_durable.state import all_states
from flask_durable.state import get_state
from flask_durable.state import Hooks
from flask_durable.state import opened_state
from flask_durable.state import State

from .processes import wait_until

REQUEST = RequestRecord(b"{}", None, b"", "digest")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def state(app: Flask, durable: FlaskDurable) -> State:
    """Open an app's state."""
    return opened_state(app)


class Dispatcher:
    """A dispatcher that only counts."""

    def __init__(self) -> None:
        self.started = 0
        self.graces: list[float] = []
        self.woken: list[float] = []

    def start(self) -> None:
        """Count a start."""
        self.started += 1

    def wake(self, delay: float) -> None:
        """Note a wake."""
        self.woken.append(delay)

    def stop(self, grace: float) -> None:
        """Note a stop."""
        self.graces.append(grace)


def begin(state: State) -> str:
    """Begin an execution of this process, and give its id."""
    execution_id = new_id()
    owner = current_owner()
    state.store.begin(execution_id, "view", owner, 60.0, REQUEST, None)
    state.heartbeat.hold(state.lease(execution_id, 1))
    return execution_id


@pytest.mark.parametrize(("lease", "silence"), [(4.0, "2000"), (60.0, "10000")])
def test_the_heartbeat_gives_a_silent_database_up_within_its_lease(
    app: Flask, postgres_url: str, lease: float, silence: str
) -> None:
    """Else it would come back too late; whatever else writes has time."""
    app.config.update(DURABLE_DATABASE_URL=postgres_url, DURABLE_LEASE=lease)
    FlaskDurable(app)
    state = opened_state(app)
    parameters = [
        database.run(_parameters)["tcp_user_timeout"] for database in state.databases
    ]
    assert parameters == [silence, "10000"]
    state.close()


def _parameters(connection: sa.Connection) -> dict[str, str]:
    raw = t.cast(t.Any, connection.connection.dbapi_connection)
    return dict(raw.info.get_parameters())


def run_together(count: int, call: cabc.Callable[[], object]) -> list[object]:
    """Call a function in several threads at the same moment."""
    barrier = threading.Barrier(count)

    def run(_: int) -> object:
        barrier.wait(10)
        return call()

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def in_child(check: cabc.Callable[[], bool]) -> bool:
    """Ask something in a forked child."""
    if (pid := os.fork()) == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)

    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_an_app_without_the_extension_says_what_to_do() -> None:
    """Both ways of setting it up."""
    with pytest.raises(RuntimeError, match="call FlaskDurable.app., or.*init_app"):
        get_state(Flask(__name__))


def test_the_journal_is_opened_once_under_a_race(app: Flask, sqlite_url: str) -> None:
    """Many first requests come at the same moment."""
    calls: list[Flask] = []

    def connect(app: Flask) -> tuple[Database, Database]:
        calls.append(app)
        return Database.open(sqlite_url), Database.open(sqlite_url)

    state = State(Config(), Hooks(), connect)

    def open_it() -> object:
        state.open(app)
        return state.store

    assert len({id(store) for store in run_together(8, open_it)}) == 1
    assert calls == [app]
    state.close()


def test_the_dispatcher_is_started_once_under_a_race(state: State) -> None:
    """As above."""
    made: list[Dispatcher] = []

    def make() -> Dispatcher:
        made.append(Dispatcher())
        return made[-1]

    run_together(8, lambda: state.start(make))
    assert [one.started for one in made] == [1]
    assert state.dispatcher is made[0]


def test_a_dispatcher_that_fails_to_start_is_started_later(state: State) -> None:
    """The next request tries again."""

    class Broken(Dispatcher):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="new thread"):
        state.start(Broken)

    state.start(Dispatcher)
    assert type(state.dispatcher) is Dispatcher


def test_the_heartbeat_starts_with_the_dispatcher(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is begun whose lease it could not renew."""

    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    dispatcher = Dispatcher()

    with monkeypatch.context() as patch:
        patch.setattr(state.heartbeat, "start", refuse)

        with pytest.raises(RuntimeError, match="new thread"):
            state.start(lambda: dispatcher)

    assert (state.dispatcher, dispatcher.started) == (None, 0)
    state.start(lambda: dispatcher)
    assert state.dispatcher is dispatcher


def test_a_wake_reaches_the_dispatcher(state: State) -> None:
    """If there is one."""
    state.wake(5.0)
    dispatcher = Dispatcher()
    state.start(lambda: dispatcher)
    state.wake(5.0)
    assert dispatcher.woken == [5.0]


def test_the_heartbeat_has_connections_of_its_own(state: State) -> None:
    """Branches that use up the journal's don't stop it."""
    engines = {id(database.engine.pool) for database in state.databases}
    assert len(engines) == 2
    assert state.heartbeat._store.database is not state.store.database


def test_a_stop_hands_back_what_is_left(state: State) -> None:
    """After the dispatcher had its grace."""
    dispatcher = Dispatcher()
    state.start(lambda: dispatcher)
    execution_id = begin(state)
    state.stop(7.0)
    assert dispatcher.graces == [7.0]
    found = state.store.execution(execution_id)
    assert (found.status, found.crashes) == ("suspended", 0)


def test_what_is_closed_stays_closed(
    app: Flask, durable: FlaskDurable, client: FlaskClient
) -> None:
    """This process ends: requests that still come are turned away."""
    app.add_url_rule("/", view_func=durable.endpoint(lambda: "done"), methods=["POST"])
    assert client.post("/").status_code == 200
    get_state(app).close()
    answer = client.post("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_a_closed_state_starts_no_dispatcher(state: State) -> None:
    """Its threads would outlive their connections."""
    state.close()
    state.start(Dispatcher)
    assert state.dispatcher is None


def test_a_close_may_come_twice(state: State) -> None:
    """By a server's hook, and at the end of the process."""
    dispatcher = Dispatcher()
    state.start(lambda: dispatcher)
    state.close(3.0)
    state.close(5.0)
    assert dispatcher.graces == [3.0]

    with pytest.raises(JournalUnavailable, match="was closed"):
        state.store.execution("x")


def test_a_state_that_was_never_opened_is_closed(
    app: Flask, durable: FlaskDurable
) -> None:
    """A command that used no journal ends, too."""
    get_state(app).close()


def test_the_end_of_the_process_closes_it(state: State) -> None:
    """With some grace for what is in hand."""
    dispatcher = Dispatcher()
    state.start(lambda: dispatcher)
    execution_id = begin(state)
    module._stop_at_exit(weakref.ref(state), os.getpid())
    assert dispatcher.graces == [module.EXIT_GRACE]
    again = Database.open(state.store.database.label)
    query = "SELECT status FROM durable_executions WHERE id = ?"
    status = again.run(lambda c: c.exec_driver_sql(query, (execution_id,)).scalar())
    assert status == "suspended"
    again.close()


def test_a_state_that_is_gone_needs_no_end(app: Flask) -> None:
    """Its app was collected long before."""
    state = State(Config(), Hooks(), lambda app: pytest.fail("opened"))
    reference = weakref.ref(state)
    assert state in all_states()
    del state
    gc.collect()
    assert reference() is None
    module._stop_at_exit(reference, os.getpid())


def test_a_state_does_not_hold_its_app(sqlite_url: str) -> None:
    """A factory's apps can be collected, with what they had."""
    app = Flask("short-lived")
    app.config.update(DURABLE_DATABASE_URL=sqlite_url, TESTING=True)
    FlaskDurable(app)
    opened_state(app).close()
    reference = weakref.ref(app)
    del app
    wait_until(lambda: gc.collect() is not None and reference() is None)


def test_a_state_that_is_gone_leaves_no_connection_open(app: Flask) -> None:
    """Tests make many apps, and from Python 3.13 on those of SQLite warn."""
    FlaskDurable(app)
    state = opened_state(app)
    state.store.check()
    closed: list[object] = []
    pool = state.store.database.engine.pool
    event.listen(pool, "close", lambda *_: closed.append(1))
    del app.extensions["durable"], state, pool
    wait_until(lambda: gc.collect() is not None and closed != [])


@forks
def test_a_forked_child_forgets_its_parents_work(state: State) -> None:
    """Store, leases, dispatcher; it opens its own at its first request."""
    dispatcher = Dispatcher()
    state.start(lambda: dispatcher)
    begin(state)
    upkeep, heartbeat = state.upkeep, state.heartbeat
    assert upkeep is state.upkeep
    assert in_child(lambda: (state._store, state._beat) == (None, None))
    assert in_child(lambda: state.dispatcher is None)
    assert in_child(lambda: "upkeep" not in vars(state))
    assert state.heartbeat is heartbeat
    assert state.dispatcher is dispatcher


@forks
def test_a_forked_child_works_on_its_own(app: Flask, state: State) -> None:
    """With another owner's name, and with no lease of its parent's."""
    execution_id = begin(state)

    def work() -> bool:
        own = opened_state(app)
        found = own.store.execution(begin(own))
        return found.owner == own.owner and not own.heartbeat.holds(execution_id)

    assert in_child(work)
    assert state.heartbeat.holds(execution_id)


@forks
def test_the_end_of_a_forked_child_releases_nothing(app: Flask, state: State) -> None:
    """Neither what its parent registered for its end, nor its own."""
    execution_id = begin(state)
    parent = os.getpid()

    def end() -> bool:
        module._stop_at_exit(weakref.ref(state), parent)
        opened_state(app).close()
        return True

    assert in_child(end)
    assert state.store.execution(execution_id).status == "running"
    assert state.dispatcher is None


@forks
def test_a_forked_child_may_work_after_its_parent_was_closed(
    app: Flask, state: State
) -> None:
    """It has not been closed itself."""
    begin(state)
    state.close()
    assert in_child(lambda: opened_state(app).store.execution(begin(state)) is not None)


@forks
def test_a_fork_while_the_state_is_locked_does_not_hang(
    app: Flask, state: State
) -> None:
    """Another thread of the parent opens it at that moment."""
    with state._lock:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(in_child, lambda: bool(opened_state(app))).result(20)


def test_two_apps_have_two_states(app: Flask, durable: FlaskDurable) -> None:
    """Closing one leaves the other open."""
    other = Flask("other", instance_path=app.instance_path)
    other.config.from_mapping(app.config)
    durable.init_app(other)

    @other.post("/")
    @durable.endpoint
    def view() -> str:
        return str(step.run("a", str, 7))

    opened_state(app).close()
    assert other.test_client().post("/").text == "7"
    get_state(other).close()
