"""Writes of several threads in one commit."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import dis
import functools
import sys
import threading
import types
import typing as t

import psycopg
import pytest
import sqlalchemy as sa

from flask_durable import commits as module
from flask_durable import file_lock as file_locks
from flask_durable.commits import Commits
from flask_durable.database import Database
from flask_durable.errors import JournalLostError
from flask_durable.errors import LeaseLostError
from flask_durable.ids import new_id
from flask_durable.records import RequestKey
from flask_durable.records import RequestRecord
from flask_durable.records import StepRecord
from flask_durable.sql import Bound
from flask_durable.store import Store

from .processes import wait_until

REQUEST = RequestRecord(b"{}", None, b"", "digest")
PAY = StepRecord("pay", "run", "completed", 1, 0, 1, 1.5, 2.5, output=b'{"id":7}')
OTHERS = 5


@pytest.fixture
def store(database_url: str, monkeypatch: pytest.MonkeyPatch) -> cabc.Iterator[Store]:
    """Open a journal where one thread writes at a time."""
    monkeypatch.setattr(module, "LANES", 1)
    store = Store(Database.open(database_url))
    yield store
    store.database.close()


@pytest.fixture
def pool() -> cabc.Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Have some threads."""
    with concurrent.futures.ThreadPoolExecutor(OTHERS + 1) as pool:
        yield pool


class Door:
    """Holds the first write in its commit until it is opened, and counts commits."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.fails: list[int] = []
        """Sizes of commits that are to fail."""
        self._open = threading.Event()
        self._open.set()
        self._commits = store.commits
        self._run = store.commits._run
        monkeypatch.setattr(store.commits, "_run", self.run)

    def run(self, lane: t.Any, connection: sa.Connection, batch: t.Any) -> t.Any:
        """Commit, as soon as the door is open."""
        self.sizes.append(len(batch))
        assert self._open.wait(10)

        if len(batch) in self.fails:
            connection.exec_driver_sql("SELECT * FROM missing")

        return self._run(lane, connection, batch)

    def open(self) -> None:
        """Let them through."""
        self._open.set()

    def close(self) -> None:
        """Hold the next ones."""
        self._open.clear()

    def wait_for(self, count: int) -> None:
        """Wait until so many threads wait for the first one's commit."""
        wait_until(lambda: len(self._commits._waiting) == count, 10)


@pytest.fixture
def door(store: Store, monkeypatch: pytest.MonkeyPatch) -> Door:
    """Put a door before the commits; the tables are there."""
    store.check()
    return Door(store, monkeypatch)


def begin(store: Store, count: int) -> list[str]:
    """Begin executions."""
    ids = [new_id() for _ in range(count)]

    for each in ids:
        store.begin(each, "view", "ada:1:1", 60.0, REQUEST, None)

    return ids


def crowd(
    store: Store,
    door: Door,
    pool: concurrent.futures.ThreadPoolExecutor,
    writes: cabc.Sequence[cabc.Callable[[], t.Any]],
) -> list[concurrent.futures.Future[t.Any]]:
    """Have one write wait at the door, and the others for it."""
    door.close()
    door.sizes.clear()
    first = pool.submit(writes[0])
    wait_until(lambda: len(door.sizes) == 1, 10)
    rest = [pool.submit(write) for write in writes[1:]]
    door.wait_for(len(rest))
    return [first, *rest]


def records(store: Store, ids: cabc.Iterable[str]) -> list[cabc.Callable[[], bool]]:
    """Give a write for each execution."""
    return [functools.partial(store.record, each, 1, PAY) for each in ids]


def test_those_who_wait_share_a_commit(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Two commits for six writes, and each is there."""
    ids = begin(store, OTHERS + 1)
    found = crowd(store, door, pool, records(store, ids))
    door.open()
    assert [each.result(10) for each in found] == [False] * len(ids)
    assert door.sizes == [1, OTHERS]
    assert [store.journal(each) for each in ids] == [[PAY]] * len(ids)


def test_a_lost_lease_is_nobody_elses(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """The fence is each write's own."""
    ids = begin(store, OTHERS + 1)
    store.suspend(ids[3], 1, 0.0)
    found = crowd(store, door, pool, records(store, ids))
    door.open()

    with pytest.raises(LeaseLostError, match=ids[3]):
        found.pop(3).result(10)

    assert [each.result(10) for each in found] == [False] * OTHERS
    assert store.journal(ids[3]) == []


def test_different_writes_share_a_commit(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Beginnings, outcomes, suspensions and ends."""
    ids = begin(store, 5)
    nap = StepRecord("nap", "sleep", "sleeping", 1, 0, 1, 1.0, wake_at=9.0)
    new = new_id()
    writes = [
        *records(store, ids[:3]),
        lambda: store.suspend(ids[3], 1, 9.0, nap),
        lambda: store.finish(ids[4], 1, "completed", None),
        lambda: store.begin(new, "view", "ada:1:1", 60.0, REQUEST, None),
    ]
    found = crowd(store, door, pool, writes)
    door.open()

    for each in found:
        each.result(10)

    assert door.sizes == [1, OTHERS]
    statuses = [store.execution(each).status for each in (*ids, new)]
    assert statuses == [*["running"] * 3, "suspended", "completed", "running"]
    assert store.journal(ids[3]) == [nap]


@pytest.mark.parametrize(
    "step",
    [
        StepRecord("ü \U0001f600", "run", "completed", 3, 7, 1, 0.1, 0.2, output=b""),
        StepRecord("a", "poll", "waiting", 0, 2, 1, 1e-9, wake_at=1e9 + 1 / 3),
        StepRecord("b", "run", "failed", 1, 0, 1, 0.0, 1.0, None, "E", b"\0\xff\\x"),
        StepRecord("c", "event", "completed", 1, 0, 1, 1.0, topic="t", event=2**40),
    ],
    ids=["text", "mark", "bytes", "event"],
)
def test_a_shared_write_is_as_one_alone(
    store: Store,
    door: Door,
    pool: concurrent.futures.ThreadPoolExecutor,
    step: StepRecord,
) -> None:
    """Whatever is in it."""
    ids = begin(store, OTHERS + 1)
    writes = [functools.partial(store.record, each, 1, step) for each in ids]
    found = crowd(store, door, pool, writes)
    door.open()
    concurrent.futures.wait(found, 10)
    assert [store.journal(each) for each in ids] == [[step]] * len(ids)


def test_a_cancel_is_heard_by_whom_it_is_for(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Each gets the flag of its own execution."""
    ids = begin(store, OTHERS + 1)
    mark = sa.text("UPDATE durable_executions SET cancel_requested = 1 WHERE id = :id")
    store.database.run(lambda c: c.execute(mark, {"id": ids[2]}))
    found = crowd(store, door, pool, records(store, ids))
    door.open()
    assert [each.result(10) for each in found] == [each == ids[2] for each in ids]


def test_after_an_error_each_writes_by_itself(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Nothing is lost, and nothing is there twice."""
    ids = begin(store, OTHERS + 1)
    door.fails.append(OTHERS)
    found = crowd(store, door, pool, records(store, ids))
    door.open()
    assert [each.result(10) for each in found] == [False] * len(ids)
    assert [store.journal(each) for each in ids] == [[PAY]] * len(ids)


def test_who_waits_too_long_writes_by_itself(
    store: Store,
    door: Door,
    pool: concurrent.futures.ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that writes may hang; what it does in the end changes nothing."""
    ids = begin(store, 2)
    door.close()
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    door.sizes.clear()
    stuck = pool.submit(store.record, ids[0], 1, PAY)
    wait_until(lambda: len(door.sizes) == 1, 10)
    assert store.record(ids[1], 1, PAY) is False
    assert not stuck.done()
    door.open()
    assert stuck.result(10) is False
    assert [store.journal(each) for each in ids] == [[PAY]] * 2


class Interrupted(BaseException):
    """Ends a thread's wait, as a time-out of gevent does."""


def test_who_is_thrown_out_holds_up_nobody(
    store: Store,
    door: Door,
    pool: concurrent.futures.ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves the queue; the others are written."""
    ids = begin(store, 3)
    first, second = crowd(store, door, pool, records(store, ids[:2]))
    monkeypatch.setattr(module, "threading", Interrupting)

    with pytest.raises(Interrupted):
        store.record(ids[2], 1, PAY)

    door.open()
    assert (first.result(10), second.result(10)) == (False, False)
    assert not store.commits._waiting
    assert store.journal(ids[2]) == []


class Interrupting:
    """Stands in for ``threading``: its locks can't be waited for."""

    class Lock:
        """A lock whose second holder is interrupted."""

        def __init__(self) -> None:
            self.held = False

        def acquire(self, timeout: float = -1) -> bool:
            """Take it, or be interrupted."""
            if self.held:
                raise Interrupted

            self.held = True
            return True

        def release(self) -> None:
            """Let it go."""
            self.held = False


def test_the_next_one_leads_after_one_that_was_thrown_out(store: Store) -> None:
    """It had its turn, and passes it on."""
    store.check()
    commits = store.commits
    lane = commits._free.pop()
    out, waiting = (module.Write(name, ()) for name in ("out", "waiting"))
    out.lane = lane
    waiting.turn = threading.Lock()
    waiting.turn.acquire()
    commits._waiting.append(waiting)
    commits._leave(out)
    assert [out.lane, waiting.lane] == [None, lane]
    assert waiting.turn.acquire(blocking=False)


def test_a_closed_journal_takes_no_write(store: Store) -> None:
    """Also if a connection was kept."""
    (one,) = begin(store, 1)
    store.database.close()

    with pytest.raises(JournalLostError, match=f"execution {one} ends"):
        store.record(one, 1, PAY)


def test_a_connection_is_kept(store: Store) -> None:
    """Not one a write."""
    begin(store, 3)
    pool = t.cast(t.Any, store.database.engine.pool)
    assert pool.checkedout() == 1
    store.database.close()
    assert pool.checkedout() == 0


def test_a_connection_in_use_is_closed_after_it(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Its write is committed."""
    (one,) = begin(store, 1)
    (found,) = crowd(store, door, pool, records(store, [one]))
    store.commits.close()
    door.open()
    assert found.result(10) is False
    assert [lane.connection for lane in store.commits._lanes] == [None]


def test_several_commits_are_under_way_on_postgresql(database_url: str) -> None:
    """The server joins them; a file takes one."""
    database = Database.open(database_url)
    lanes = 1 if database.sqlite else module.LANES
    assert len(Commits(database)._lanes) == lanes
    database.close()


def test_a_zombies_write_is_not_taken_for_the_live_attempts(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Both write the same step in one commit; the fence knows whose outcome it is."""
    ids = begin(store, 3)
    store.suspend(ids[1], 1, 0.0)
    assert store.claim(ids[1], 2, "ada:1:1", 60.0)
    live = PAY._replace(attempt=2, output=b"2")
    writes = records(store, ids)
    writes.append(functools.partial(store.record, ids[1], 2, live))
    found = crowd(store, door, pool, writes)
    door.open()

    with pytest.raises(LeaseLostError, match=ids[1]):
        found.pop(1).result(10)

    assert [each.result(10) for each in found] == [False] * len(found)
    assert store.journal(ids[1]) == [live]


def test_an_error_is_raised_in_the_thread_whose_it_is(
    store: Store, door: Door, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """A value that the driver can't take is not the fault of who writes for all."""
    ids = begin(store, 4)
    writes = records(store, ids[:3])
    bad = PAY._replace(id="\ud800")
    writes.append(functools.partial(store.record, ids[3], 1, bad))
    found = crowd(store, door, pool, writes)
    door.open()

    with pytest.raises(UnicodeEncodeError):
        found.pop().result(10)

    assert [each.result(10) for each in found] == [False] * 3
    assert [store.journal(each) for each in ids] == [[PAY], [PAY], [PAY], []]


def test_rows_are_locked_in_one_order(
    postgres_url: str,
    pool: concurrent.futures.ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who renews several leases locks them in the same order, so nobody deadlocks."""
    monkeypatch.setattr(module, "LANES", 1)
    store = Store(Database.open(postgres_url))
    door = Door(store, monkeypatch)
    door.open()
    ids = sorted(begin(store, 4))
    end = functools.partial(store.finish, ids[0], 1, "completed", None)
    writes: list[cabc.Callable[[], t.Any]]
    writes = [*records(store, ids[3:]), end, *records(store, ids[1:3])]
    found = crowd(store, door, pool, writes)
    lock = sa.text("UPDATE durable_executions SET looks = 0 WHERE id = :id")
    waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    with sa.create_engine(postgres_url, poolclass=sa.NullPool).begin() as other:
        other.execute(lock, {"id": ids[0]})
        door.open()
        wait_until(lambda: other.execute(waits).scalar() == 1, 10)
        other.execute(lock, {"id": ids[1]})

    concurrent.futures.wait(found, 10)
    assert store.database.troubled_at is None
    store.database.close()


def test_new_executions_share_a_commit_in_the_order_of_their_keys(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that gets the same requests waits for the same keys."""
    keys: list[str] = []
    write = store.commits.write

    def note(key: str, *bounds: Bound) -> t.Any:
        keys.append(key)
        return write(key, *bounds)

    monkeypatch.setattr(store.commits, "write", note)
    ids = [new_id(), new_id()]

    for each, key in zip(ids, [None, RequestKey("digest", "")], strict=True):
        store.begin(each, "view", "ada:1:1", 60.0, REQUEST, None, key=key)

    assert keys == [ids[0], "digest"]


@pytest.mark.parametrize("size", [1, 3])
def test_a_small_pool_has_connections_for_others(
    postgres_url: str, pool: concurrent.futures.ThreadPoolExecutor, size: int
) -> None:
    """At most half of it is kept."""
    engine = sa.create_engine(
        postgres_url, pool_size=size, max_overflow=0, pool_timeout=5
    )
    store = Store(Database.beside(engine))

    def write_and_read(_: int) -> None:
        ids = begin(store, 1)
        store.record(ids[0], 1, PAY)
        assert store.journal(ids[0]) == [PAY]

    list(pool.map(write_and_read, range(3 * OTHERS)))
    assert len(store.commits._lanes) == size // 2
    store.database.close()


@pytest.mark.parametrize(
    ("cls", "lanes"), [(sa.NullPool, module.LANES), (sa.StaticPool, 0)]
)
def test_a_pool_of_another_kind(
    postgres_url: str, cls: type[sa.Pool], lanes: int
) -> None:
    """One that shares a connection has none that could be kept."""
    engine = sa.create_engine(postgres_url, poolclass=cls)
    assert len(Commits(Database.beside(engine))._lanes) == lanes


def test_without_pipelines_a_transaction_serves(
    store: Store,
    door: Door,
    pool: concurrent.futures.ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with an old libpq."""
    ids = begin(store, OTHERS + 1)
    monkeypatch.setattr(psycopg.Connection, "pipeline", None)
    monkeypatch.setattr(store.commits, "_pipelines", False)
    found = crowd(store, door, pool, records(store, ids))
    door.open()
    concurrent.futures.wait(found, 10)
    assert store.database.troubled_at is None
    assert [store.journal(each) for each in ids] == [[PAY]] * len(ids)


class Limit(Exception):
    """A time limit, raised by a signal's handler."""


WHERE = ("CALL", "RESUME", "JUMP_BACKWARD")
"""After these operations of its code the interpreter may call a signal's handler."""


def interrupt(point: int, call: cabc.Callable[[], object]) -> bool:
    """Call a function, and raise where a handler could for the n-th time.

    Tell whether there was such a point.
    """
    files = {module.__file__, file_locks.__file__}
    seen = 0

    def trace(frame: types.FrameType, event: str, argument: object) -> t.Any:
        nonlocal seen

        if frame.f_code.co_filename not in files:
            return None

        frame.f_trace_opcodes = True

        if event == "opcode" and operation_before(frame).startswith(WHERE):
            seen += 1

            if seen == point:
                raise Limit

        return trace

    before = sys.gettrace()
    sys.settrace(trace)

    try:
        call()
    except Limit:
        pass
    finally:
        sys.settrace(before)

    return seen == point


def operation_before(frame: types.FrameType) -> str:
    """Name the operation that a frame has just done."""
    code, place = frame.f_code.co_code, frame.f_lasti - 2

    while place > 0 and dis.opname[code[place]] == "CACHE":
        place -= 2

    return dis.opname[code[place]] if place >= 0 else ""


@pytest.mark.parametrize("alone", [False, True], ids=["a lane", "a block"])
def test_a_signal_that_raises_anywhere_keeps_no_other_write_waiting(
    store: Store, alone: bool
) -> None:
    """A view may have a time limit; later writes would all wait for the one before."""
    [execution_id] = begin(store, 1)
    commits, lock = store.commits, store.database.lock
    points = 0

    def write() -> None:
        if not alone:
            store.record(execution_id, 1, PAY._replace(id=f"pay{points}"))
        elif lock is not None:
            with lock.held(10.0):
                pass

    while interrupt(points + 1, write):
        points += 1
        assert commits._free == commits._lanes, points
        assert lock is None or not lock._mine.locked(), points

    assert points > 5 or (alone and lock is None)
    store.record(execution_id, 1, PAY)
