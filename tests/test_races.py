"""Two that want the same: what one of them must not get."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import threading
import time
import typing as t

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from flask_durable import database
from flask_durable import sql
from flask_durable.control import Control
from flask_durable.database import Database
from flask_durable.errors import LeaseLostError
from flask_durable.ids import new_id
from flask_durable.records import RequestRecord
from flask_durable.records import StepRecord
from flask_durable.store import Store
from flask_durable.upkeep import Upkeep

from .fakes import FakeStatement
from .fakes import put
from .processes import wait_until

REQUEST = RequestRecord(b"{}", None, b"", "digest")


@pytest.fixture
def execution_id(store: Store) -> str:
    """Store an execution whose first attempt is running."""
    execution_id = new_id()
    store.begin(execution_id, "view", "ada:1:1", 60.0, REQUEST, None)
    return execution_id


def outcome(attempt: int) -> StepRecord:
    """Make a step's outcome."""
    return StepRecord("pay", "run", "completed", 1, 0, attempt, 1.0, output=b"1")


def waits_for_lock(store: Store) -> bool:
    """Tell whether a statement of the journal's database waits for another."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return bool(store.database.run(lambda c: c.exec_driver_sql(query).scalar()))


def test_a_stale_outcome_waits_for_a_claim_that_commits(
    postgres_url: str,
) -> None:
    """The claim has updated the row, but not committed: the outcome is refused."""
    store = Store(Database.open(postgres_url))
    execution_id = new_id()
    store.begin(execution_id, "view", "ada:1:1", 60.0, REQUEST, None)
    takeover = "UPDATE durable_executions SET attempt = 2, owner = 'bob:2:2'"

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with store.database.engine.connect() as claimer:
            claimer.exec_driver_sql("BEGIN")
            claimer.exec_driver_sql(takeover)
            stale = pool.submit(store.record, execution_id, 1, outcome(1))
            wait_until(lambda: waits_for_lock(store), 10)
            claimer.exec_driver_sql("COMMIT")

        with pytest.raises(LeaseLostError, match="another attempt took over"):
            stale.result(10)

    assert store.journal(execution_id) == []
    store.database.close()


def test_a_claim_waits_for_an_outcome_that_commits(postgres_url: str) -> None:
    """The other way round: what was recorded first is in the claimer's journal."""
    store = Store(Database.open(postgres_url))
    upkeep = Upkeep(store)
    execution_id = new_id()
    store.begin(execution_id, "view", "ada:1:1", 60.0, REQUEST, None)
    lock = "SELECT 1 FROM durable_executions FOR SHARE"
    (held,) = upkeep.held("ada:1:1")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with store.database.engine.connect() as recorder:
            recorder.exec_driver_sql("BEGIN")
            recorder.exec_driver_sql(lock).all()
            release = pool.submit(upkeep.release, held, "ada:1:1", 1, 0.0)
            wait_until(lambda: waits_for_lock(store), 10)
            assert not release.done()
            recorder.exec_driver_sql("COMMIT")

        assert release.result(10)

    store.database.close()


def test_many_claim_and_one_gets_it(store: Store, execution_id: str) -> None:
    """Whoever loses hears so, and the attempt is counted once."""
    store.suspend(execution_id, 1, 0.0)
    barrier = threading.Barrier(8)

    def claim(number: int) -> bool:
        barrier.wait(10)
        owner = f"host:{number}:1"
        return store.claim(execution_id, 2, owner, 60.0) is not None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1

    assert store.execution(execution_id).attempt == 2


def test_many_sweep_and_each_execution_is_taken_once(store: Store) -> None:
    """Sweepers of several processes share the work."""
    ids = {new_id() for _ in range(40)}

    for execution_id in ids:
        store.begin(execution_id, "view", "ada:1:1", 60.0, REQUEST, None)
        store.suspend(execution_id, 1, 0.0)

    upkeep = Upkeep(store)

    def sweep(number: int) -> list[str]:
        found: list[str] = []

        while taken := upkeep.sweep(3, 60.0, 60.0):
            found.extend(due.id for due in taken)

        return found

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        taken = [one for found in pool.map(sweep, range(6)) for one in found]

    # With SKIP LOCKED a sweeper may leave rows to those who lock them.
    taken += sweep(0)
    assert sorted(taken) == sorted(ids)


def test_a_record_whose_answer_was_lost_is_known_again(
    store: Store, execution_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit happened, the connection broke: nobody takes that for a loss."""
    breaks_once(store, monkeypatch, "record")
    store.record(execution_id, 1, outcome(1))
    assert [step.id for step in store.journal(execution_id)] == ["pay"]


def test_a_suspension_whose_answer_was_lost_is_known_again(
    store: Store, execution_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is no longer this attempt's, but carries this write's mark."""
    breaks_once(store, monkeypatch, "suspend")
    store.suspend(execution_id, 1, 5.0)
    assert store.execution(execution_id).ready_at == 5.0


def test_an_end_whose_answer_was_lost_is_known_again(
    store: Store, execution_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The execution ended by this very write."""
    breaks_once(store, monkeypatch, "finish")
    store.finish(execution_id, 1, "completed", None)
    assert store.execution(execution_id).status == "completed"


def test_a_claim_whose_answer_was_lost_is_known_again(
    store: Store, execution_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the attempt would wait for its own lease to run out."""
    store.suspend(execution_id, 1, 0.0)
    breaks_once(store, monkeypatch, "claim")
    claimed = store.claim(execution_id, 2, "bob:2:2", 60.0)
    assert claimed is not None and claimed.attempt == 2


def test_a_begin_whose_answer_was_lost_is_known_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view runs, once."""
    breaks_once(store, monkeypatch, "begin")
    execution_id = new_id()
    now = store.begin(execution_id, "view", "ada:1:1", 60.0, REQUEST, None)
    assert now == pytest.approx(time.time(), abs=60)
    assert store.execution(execution_id).status == "running"


def test_a_rerun_whose_answer_was_lost_is_known_again(
    store: Store, execution_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it runs by then: nobody is told to do it once more."""
    store.record(execution_id, 1, outcome(1))
    again: list[str] = []

    def say(connection: sa.Connection, text: str) -> None:
        sql.say(connection, text)

        if text == "COMMIT" and not again:
            again.extend(due.id for due in Upkeep(store).sweep(9, 60.0, 60.0))
            assert store.claim(again[0], 1, "bob:2:2", 60.0)
            raise exc.OperationalError("", {}, Exception("the answer was lost"))

    monkeypatch.setattr(database, "say", say)
    assert [Control(store).rerun(execution_id)] == again


def breaks_once(store: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the connection break after a statement's commit, one time."""
    statement = getattr(store.sql, name)
    broken = False

    def make(values: cabc.Mapping[str, t.Any]) -> cabc.Callable[[t.Any], t.Any]:
        bound = statement.bind(values)

        def run(connection: sa.Connection) -> object:
            nonlocal broken
            rows = bound.run(connection)

            if not broken:
                broken = True
                connection.invalidate()
                raise exc.OperationalError("", {}, Exception("the answer was lost"))

            return rows

        return run

    put(monkeypatch, store.sql, name, FakeStatement(make))
