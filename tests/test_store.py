"""The journal: what is read is what was written, and lost databases."""

from __future__ import annotations

import collections.abc as cabc
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from flask_durable import database as databases
from flask_durable import schema
from flask_durable import store as module
from flask_durable.database import Database
from flask_durable.errors import ExecutionNotFound
from flask_durable.errors import JournalLostError
from flask_durable.errors import JournalUnavailable
from flask_durable.errors import LeaseLostError
from flask_durable.ids import new_id
from flask_durable.records import RequestRecord
from flask_durable.records import ResponseRecord
from flask_durable.records import StepRecord
from flask_durable.records import Wait
from flask_durable.store import Store
from flask_durable.upkeep import Upkeep

from .fakes import FakeStatement
from .fakes import replace
from .processes import wait_until

OWNER = "ada:1:1"
LEASE = 60.0
REQUEST = RequestRecord(b"head", b"secrets", b"body\x00\xff", "digest")
PAY = StepRecord("pay", "run", "completed", 1, 0, 1, 5.0, 6.0, output=b"7")


@pytest.fixture
def running(store: Store) -> str:
    """Store an execution whose first attempt is running."""
    return begin(store)


def begin(store: Store, identity: bytes | None = None) -> str:
    """Begin an execution and give its id."""
    execution_id = new_id()
    store.begin(execution_id, "view", OWNER, LEASE, REQUEST, identity)
    return execution_id


def step(name: str, **changes: object) -> StepRecord:
    """Make a step's outcome."""
    return PAY._replace(id=name, **changes)  # type: ignore[arg-type]


def away(store: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Have a statement fail as if the database were away; count its calls."""
    calls: list[int] = []

    def fail(connection: object) -> None:
        calls.append(1)
        raise exc.OperationalError("", {}, Exception("server closed the connection"))

    replace(monkeypatch, store.sql, name, FakeStatement(lambda values: fail))
    return calls


def test_a_new_execution_is_running(store: Store) -> None:
    """From its first moment, with a lease by the database's clock."""
    execution_id = new_id()
    now = store.begin(execution_id, "view", OWNER, LEASE, REQUEST, None)
    found = store.execution(execution_id)
    assert (found.status, found.attempt, found.owner) == ("running", 1, OWNER)
    assert (found.endpoint, found.created_at) == ("view", now)
    assert found.ready_at == pytest.approx(now + LEASE, abs=0.1)
    assert now == pytest.approx(time.time(), abs=60)
    assert (found.crashes, found.errors, found.rejections, found.refusals) == (0,) * 4


def test_a_request_is_read_as_it_was_written(store: Store, running: str) -> None:
    """To the byte."""
    assert store.outgoing(running).request == REQUEST


@pytest.mark.parametrize("identity", [None, b"", b'"ada"'])
def test_an_identity_is_read_as_it_was_written(
    store: Store, identity: bytes | None
) -> None:
    """None is not the empty one."""
    found = store.replay(begin(store, identity))
    assert found.identity == identity
    assert (found.attempt, found.status, found.is_claimable) == (1, "running", False)


def test_a_replay_may_begin_where_none_runs(store: Store, running: str) -> None:
    """Of a suspended execution, and never of an ended one."""
    store.suspend(running, 1, 0.0)
    assert store.replay(running).is_claimable
    store.claim(running, 2, OWNER, LEASE)
    store.finish(running, 2, "completed", None)
    assert not store.replay(running).is_claimable


@pytest.mark.parametrize("name", ["execution", "replay", "outgoing", "response"])
def test_an_unknown_execution_is_not_found(store: Store, name: str) -> None:
    """Whatever is asked of it."""
    with pytest.raises(ExecutionNotFound, match="There is no execution gone"):
        getattr(store, name)("gone")


def test_a_step_is_read_as_it_was_written(store: Store, running: str) -> None:
    """With all its fields."""
    line = StepRecord(
        id="pay ✓",
        kind="run",
        status="failed",
        tries=3,
        position=7,
        attempt=1,
        started_at=1.5,
        finished_at=2.5,
        wake_at=3.5,
        error_type="ValueError",
        error=b"{}",
        output=b"\x00",
    )
    store.record(running, 1, line)
    assert store.journal(running) == [line]


def test_the_journal_is_in_the_order_of_calls(store: Store, running: str) -> None:
    """Not in that of commits, and without others' steps."""
    other = begin(store)
    store.record(other, 1, step("other"))

    for position in (2, 0, 1):
        store.record(running, 1, step(f"s{position}", position=position))

    assert [line.id for line in store.journal(running)] == ["s0", "s1", "s2"]


def test_the_newest_steps_come_last(store: Store, running: str) -> None:
    """At most so many, without what they returned."""
    for position in range(5):
        store.record(running, 1, step(f"s{position}", position=position))

    found = store.newest_steps(running, 2)
    assert [line.id for line in found] == ["s3", "s4"]
    assert [line.output for line in found] == [None, None]


def test_an_outcome_replaces_a_mark(store: Store, running: str) -> None:
    """But for its place and its beginning."""
    store.record(running, 1, step("pay", status="retrying", wake_at=9.0, output=None))
    store.record(running, 1, step("pay", tries=2, position=8, started_at=99.0))
    (line,) = store.journal(running)
    assert (line.status, line.tries, line.wake_at) == ("completed", 2, None)
    assert (line.position, line.started_at) == (0, 5.0)


def test_an_outcome_is_never_replaced(store: Store, running: str) -> None:
    """The second writer hears that it lost."""
    store.record(running, 1, PAY)

    with pytest.raises(LeaseLostError, match="another attempt took over, or"):
        store.record(running, 1, step("pay", output=b"8"))

    assert store.journal(running) == [PAY]


def test_a_slow_step_is_shown(store: Store, running: str) -> None:
    """With its try and its beginning."""
    Upkeep(store).mark_running(running, 1, step("pay", status="running", tries=2))
    (line,) = store.journal(running)
    assert (line.status, line.tries, line.started_at) == ("running", 2, 5.0)
    assert (line.output, line.finished_at) == (None, None)


def test_a_late_mark_changes_no_outcome(store: Store, running: str) -> None:
    """The step ended while its mark was on its way."""
    store.record(running, 1, PAY)
    Upkeep(store).mark_running(running, 1, step("pay", tries=2))
    assert store.journal(running) == [PAY]


@pytest.mark.parametrize(("tries", "status"), [(1, "retrying"), (2, "running")])
def test_a_late_mark_is_of_its_own_try(
    store: Store, running: str, tries: int, status: str
) -> None:
    """That try one failed is not hidden by its mark; try two is shown."""
    store.record(running, 1, step("pay", status="retrying", output=None))
    Upkeep(store).mark_running(running, 1, step("pay", tries=tries))
    assert store.journal(running)[0].status == status


@pytest.mark.parametrize("status", ["sleeping", "waiting"])
def test_a_mark_shows_only_what_runs(store: Store, running: str, status: str) -> None:
    """A sleep is no running step."""
    store.record(running, 1, step("pay", status=status, output=None))
    Upkeep(store).mark_running(running, 1, step("pay", tries=9))
    assert store.journal(running)[0].status == status


def test_a_mark_of_another_attempt_is_not_written(store: Store, running: str) -> None:
    """And it is no error: a heartbeat may be late."""
    Upkeep(store).mark_running(running, 2, PAY)
    assert store.journal(running) == []


def test_an_attempt_is_suspended_with_its_mark(store: Store, running: str) -> None:
    """Both or none; crashes before it count no more."""
    mark = step("pay", status="retrying", wake_at=9.0, output=None)
    store.suspend(running, 1, 9.0, mark, errors=2, error=b"why")
    found = store.execution(running)
    assert (found.status, found.ready_at, found.crashes) == ("suspended", 9.0, 0)
    assert (found.errors, found.error) == (2, b"why")
    assert store.journal(running) == [mark]


def test_a_suspension_of_another_attempt_writes_nothing(
    store: Store, running: str
) -> None:
    """Not even its mark."""
    with pytest.raises(LeaseLostError, match="^Attempt 2 of execution"):
        store.suspend(running, 2, 9.0, step("pay", status="retrying"))

    assert store.journal(running) == []
    assert store.execution(running).status == "running"


def test_a_lost_machine_locks_an_execution_for_a_moment(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it was suspending it; should it come back, it begins anew."""
    monkeypatch.setattr(databases, "IDLE_LIMIT", 1)
    store = Store(Database.open(postgres_url))
    other = Store(Database.open(postgres_url))
    execution_id = new_id()
    store.begin(execution_id, "view", OWNER, 0.0, REQUEST, None)
    record, calls = store.sql.mark, list[bool]()

    def look() -> bool:
        return bool(Upkeep(other).sweep(1, LEASE, LEASE))

    def stand_still() -> None:
        if not calls:
            calls.append(look())
            wait_until(look, 10, "nobody has it locked")

        calls.append(True)

    def make(values: cabc.Mapping[str, t.Any]) -> cabc.Callable[[t.Any], t.Any]:
        bound = record.bind(values)

        def run(connection: sa.Connection) -> object:
            stand_still()
            return bound.run(connection)

        return run

    monkeypatch.setattr(store.sql, "mark", FakeStatement(make))
    nap = step("nap", status="sleeping", output=None)
    store.suspend(execution_id, 1, 9.0, nap, waits=[Wait("topic", 0, 0.0)])
    assert calls == [False, True, True]
    assert store.execution(execution_id).status == "suspended"
    assert [found.id for found in store.journal(execution_id)] == ["nap"]
    store.database.close()
    other.database.close()


def test_a_claim_comes_no_sooner_than_due(store: Store, running: str) -> None:
    """By the database's clock."""
    now = store.execution(running).now
    store.suspend(running, 1, now + 60)
    assert store.claim(running, 2, "bob:2:2", LEASE) is None
    assert store.execution(running).attempt == 1


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_a_claim_is_for_the_next_attempt(
    store: Store, running: str, attempt: int
) -> None:
    """Not for one that was, nor for one that skips another."""
    store.suspend(running, 1, 0.0)
    assert store.claim(running, attempt, "bob:2:2", LEASE) is None


def test_a_claim_begins_a_lease(store: Store, running: str) -> None:
    """With a new owner; what turned replays away is forgotten."""
    store.suspend(running, 1, 0.0, errors=1, error=b"why")
    Upkeep(store).reject(running, 1, 0.0, True)
    found = store.claim(running, 2, "bob:2:2", LEASE)
    assert found is not None
    assert (found.status, found.attempt, found.owner) == ("running", 2, "bob:2:2")
    assert found.ready_at == pytest.approx(found.now + LEASE)
    assert (found.rejections, found.refusals, found.errors) == (0, 0, 1)


def test_nothing_is_claimed_of_what_is_not_there(store: Store) -> None:
    """A ticket may be older than the journal."""
    assert store.claim(new_id(), 1, OWNER, LEASE) is None


@pytest.mark.parametrize("body", [None, b"", b"\x00bytes"])
def test_an_end_stores_its_response(
    store: Store, running: str, body: bytes | None
) -> None:
    """A body that was too big is None; credentials are erased."""
    response = ResponseRecord(b"head", body)
    store.finish(running, 1, "completed", response)
    found = store.execution(running)
    assert (found.status, found.ready_at) == ("completed", None)
    assert found.finished_at is not None and found.finished_at >= found.created_at
    assert store.response(running) == response
    assert store.outgoing(running).request.secrets is None


def test_an_end_without_a_response_has_none(store: Store, running: str) -> None:
    """Only its error."""
    store.finish(running, 1, "failed", None, b"why")
    assert store.response(running) is None
    assert store.execution(running).error == b"why"


@pytest.mark.parametrize("attempt", [0, 2])
def test_only_the_running_attempt_ends_an_execution(
    store: Store, running: str, attempt: int
) -> None:
    """Attempts are numbered."""
    with pytest.raises(LeaseLostError, match=f"^Attempt {attempt} of execution"):
        store.finish(running, attempt, "completed", None)

    assert store.execution(running).status == "running"


def test_an_id_that_is_taken_is_refused(store: Store, running: str) -> None:
    """Nobody gets another's execution."""
    with pytest.raises(LeaseLostError, match="is begun by somebody else"):
        store.begin(running, "view", "bob:2:2", LEASE, REQUEST, None)

    assert store.execution(running).owner == OWNER


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("record", lambda store, id_: store.record(id_, 1, PAY)),
        ("suspend", lambda store, id_: store.suspend(id_, 1, 5.0)),
        ("finish", lambda store, id_: store.finish(id_, 1, "completed", None)),
    ],
)
def test_a_write_of_an_attempt_waits_and_then_gives_up(
    store: Store,
    running: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    write: cabc.Callable[[Store, str], None],
) -> None:
    """The attempt ends, and says that a later one goes on."""
    monkeypatch.setattr(module, "OUTAGE_PATIENCE", 0.3)
    calls = away(store, monkeypatch, name)

    with pytest.raises(JournalLostError, match="stayed away .* A later attempt goes"):
        write(store, running)

    assert len(calls) > 2
    assert store.execution(running).status == "running"


def test_a_begin_that_was_sent_is_unknown(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been committed before the connection broke."""
    store.check()
    away(store, monkeypatch, "begin")

    with pytest.raises(JournalUnavailable, match="server closed") as caught:
        begin(store)

    assert caught.value.unknown


def test_a_begin_that_was_not_sent_is_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a connection nothing can have been stored."""
    store.check()

    def refuse() -> None:
        raise exc.OperationalError("", {}, Exception("connection refused"))

    monkeypatch.setattr(store.database.engine, "connect", refuse)

    with pytest.raises(JournalUnavailable, match="refused") as caught:
        begin(store)

    assert not caught.value.unknown


def test_reading_waits_for_nothing(
    store: Store, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches asks again."""
    calls = away(store, monkeypatch, "execution")

    with pytest.raises(JournalUnavailable, match="server closed"):
        store.execution(running)

    assert len(calls) == 2


def test_the_schema_is_looked_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each statement."""
    calls: list[bool] = []
    ensure = schema.ensure

    def count(database: Database, create: bool) -> None:
        calls.append(create)
        ensure(database, create)

    monkeypatch.setattr(schema, "ensure", count)
    begin(store)
    begin(store)
    assert calls == [True]


def test_a_schema_that_could_not_be_looked_at_is_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away at the first request."""

    def fail(database: Database, create: bool) -> None:
        raise JournalUnavailable("away")

    monkeypatch.setattr(schema, "ensure", fail)

    with pytest.raises(JournalUnavailable, match="away"):
        begin(store)

    monkeypatch.undo()
    assert store.execution(begin(store)).status == "running"


class Queue:
    """A lock that tells who comes to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.came = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.came.release()
        self.lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.lock.release()


def test_who_waits_for_a_look_that_fails_does_not_look_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is silent would cost them its time-out one after the other."""
    queue = Queue()
    looks: list[int] = []

    def fail(database: Database, create: bool) -> None:
        looks.append(1)

        for _ in range(4 if len(looks) == 1 else 0):
            assert queue.came.acquire(timeout=10)

        raise JournalUnavailable("away")

    monkeypatch.setattr(schema, "ensure", fail)
    monkeypatch.setattr(store, "_checking", queue)

    with ThreadPoolExecutor(4) as pool:
        for check in [pool.submit(store.check) for _ in range(4)]:
            with pytest.raises(JournalUnavailable, match="^away$"):
                check.result(20)

    assert len(looks) == 1

    with pytest.raises(JournalUnavailable, match="^away$"):
        store.check()

    assert len(looks) == 2
