"""Leases of this process: renewed, lost, handed back; slow steps shown."""

from __future__ import annotations

import collections.abc as cabc
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from flask_durable import clock
from flask_durable import heartbeat as module
from flask_durable.database import Database
from flask_durable.errors import JournalLostError
from flask_durable.errors import JournalUnavailable
from flask_durable.errors import LeaseLostError
from flask_durable.heartbeat import Heartbeat
from flask_durable.heartbeat import Lease
from flask_durable.ids import new_id
from flask_durable.owner import current_owner
from flask_durable.records import Execution
from flask_durable.records import RequestRecord
from flask_durable.records import StepRecord
from flask_durable.store import OUTAGE_PATIENCE
from flask_durable.store import Store
from flask_durable.tables import executions
from flask_durable.threads import start_native_thread
from flask_durable.upkeep import Upkeep

from .processes import wait_until

SECONDS = 30.0
PAY = StepRecord("pay", "run", "running", 1, 0, 1, 5.0)


class Bench:
    """A journal, its heartbeat, and a clock to turn."""

    def __init__(self, url: str) -> None:
        self.now = 1000.0
        self.store = Store(Database.open(url))
        self.beat = Heartbeat(self.store, SECONDS, threaded=False)
        self.renewals: list[list[str]] = []
        renew = self.beat._upkeep.renew

        def count(owner: str, ids: t.Any, lease: float) -> dict[str, int]:
            self.renewals.append(list(ids))
            return renew(owner, ids, lease)

        t.cast(t.Any, self.beat._upkeep).renew = count

    def begin(self) -> Lease:
        """Begin an execution, and give its first attempt's lease."""
        execution_id = new_id()
        request = RequestRecord(b"{}", None, b"", "digest")
        owner = current_owner()
        self.store.begin(execution_id, "view", owner, SECONDS, request, None)
        lease = self.beat.lease(execution_id, 1, self.now)
        self.beat.hold(lease)
        return lease

    def execution(self, lease: Lease) -> Execution:
        """Read a lease's execution."""
        return self.store.execution(lease.execution_id)

    def steal(self, lease: Lease, **values: t.Any) -> None:
        """Have another process take an attempt over."""
        taken = {"attempt": 2, "owner": "bob:2:2", **values}
        row = executions.c.id == lease.execution_id
        update = executions.update().where(row).values(taken)
        self.store.database.run(lambda c: c.execute(update))


@pytest.fixture
def bench(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> cabc.Iterator[Bench]:
    """Set up a heartbeat without a thread."""
    bench = Bench(sqlite_url)
    monkeypatch.setattr(clock, "boottime", lambda: bench.now)
    yield bench
    bench.store.database.close()


# Renewing


def test_a_lease_counts_from_before_its_statement(bench: Bench) -> None:
    """However long the answer took."""
    lease = bench.beat.lease(new_id(), 1, since=990.0)
    assert lease.expires_at == 990.0 + SECONDS
    assert not lease.lost


@pytest.mark.parametrize(("age", "renewals"), [(0, 0), (9.9, 0), (10, 0), (10.1, 1)])
def test_a_lease_is_renewed_after_a_third_of_it(
    bench: Bench, age: float, renewals: int
) -> None:
    """And not before: a short attempt costs no statement."""
    bench.begin()
    bench.now += age
    bench.beat.tick()
    assert len(bench.renewals) == renewals


def test_a_renewal_begins_the_lease_anew(bench: Bench) -> None:
    """Here and in the journal."""
    lease = bench.begin()
    row = executions.c.id == lease.execution_id
    before = executions.update().where(row).values(ready_at=1.0)
    bench.store.database.run(lambda c: c.execute(before))
    bench.now += 20
    bench.beat.tick()
    assert lease.expires_at == bench.now + SECONDS
    assert (bench.execution(lease).ready_at or 0.0) > 1.0
    bench.beat.tick()
    assert len(bench.renewals) == 1


def test_all_leases_are_renewed_at_once(bench: Bench) -> None:
    """Young ones too, so that they stay together."""
    leases = [bench.begin()]
    bench.now += 10.1
    leases.append(bench.begin())
    bench.beat.tick()
    assert bench.renewals == [sorted(lease.execution_id for lease in leases)]
    assert {lease.expires_at for lease in leases} == {bench.now + SECONDS}


def test_an_ended_attempt_is_not_renewed(bench: Bench) -> None:
    """Nobody holds it any more."""
    lease = bench.begin()
    assert bench.beat.holds(lease.execution_id)
    bench.beat.end(lease)
    assert not bench.beat.holds(lease.execution_id)
    bench.now += 20
    bench.beat.tick()
    assert bench.renewals == []


def test_an_end_may_be_told_twice(bench: Bench) -> None:
    """It is not an error."""
    lease = bench.begin()
    bench.beat.end(lease)
    bench.beat.end(lease)


def test_without_leases_nothing_is_asked(bench: Bench) -> None:
    """An idle process leaves the database alone."""
    bench.store.database.close()
    bench.beat.tick()


# Losing


@pytest.mark.parametrize(
    "values", [{}, {"owner": current_owner()}, {"attempt": 1}, {"status": "completed"}]
)
def test_a_lease_that_another_took_is_lost(
    bench: Bench, values: dict[str, t.Any]
) -> None:
    """Another attempt, another owner, or an end."""
    lease, other = bench.begin(), bench.begin()
    bench.steal(lease, **values)
    bench.now += 20
    bench.beat.tick()
    assert (lease.lost, other.lost) == (True, False)

    with pytest.raises(LeaseLostError, match="^Attempt 1 of execution .* ends"):
        bench.beat.ensure(lease)


def test_a_lost_lease_is_not_renewed_again(bench: Bench) -> None:
    """It stays lost."""
    lease = bench.begin()
    bench.steal(lease)
    bench.now += 20
    bench.beat.tick()
    bench.now += 20
    bench.beat.tick()
    assert len(bench.renewals) == 1


def test_an_attempt_that_ends_while_it_is_renewed_is_no_loss(bench: Bench) -> None:
    """Its row says itself that it has ended."""
    lease = bench.begin()
    renew = bench.beat._upkeep.renew

    def end_first(owner: str, ids: t.Any, seconds: float) -> dict[str, int]:
        bench.store.finish(lease.execution_id, 1, "completed", None)
        bench.beat.end(lease)
        return renew(owner, ids, seconds)

    t.cast(t.Any, bench.beat._upkeep).renew = end_first
    bench.now += 20
    bench.beat.tick()
    assert not lease.lost


def test_a_database_that_is_away_costs_no_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal is done when it is back."""
    lease = bench.begin()
    bench.now += 20

    with monkeypatch.context() as patch:
        patch.setattr(bench.beat._upkeep, "renew", unavailable)

        with pytest.raises(JournalUnavailable, match="away"):
            bench.beat.tick()

    assert not lease.lost
    bench.beat.tick()
    assert lease.expires_at == bench.now + SECONDS


def unavailable(*args: object) -> t.NoReturn:
    """Be away."""
    raise JournalUnavailable("away")


# Making sure


def test_a_lease_that_lasts_is_sure(bench: Bench) -> None:
    """Without a statement."""
    lease = bench.begin()
    bench.now += SECONDS - 0.1
    bench.beat.ensure(lease)
    assert bench.renewals == []


def test_an_expired_lease_is_renewed_before_a_step(bench: Bench) -> None:
    """The process was stopped, or without its database, and nobody took over."""
    lease = bench.begin()
    bench.now += SECONDS
    bench.beat.ensure(lease)
    assert lease.expires_at == bench.now + SECONDS


def test_an_expired_lease_that_another_took_raises(bench: Bench) -> None:
    """Before a function is run twice."""
    lease = bench.begin()
    bench.steal(lease)
    bench.now += SECONDS

    with pytest.raises(LeaseLostError, match="another took over"):
        bench.beat.ensure(lease)


def test_an_expired_lease_waits_for_the_database(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back in time."""
    lease = bench.begin()
    bench.now += SECONDS
    renew = bench.beat._upkeep.renew
    calls: list[float] = []

    def away_twice(owner: str, ids: t.Any, seconds: float) -> dict[str, int]:
        calls.append(bench.now)
        return renew(owner, ids, seconds) if len(calls) > 2 else unavailable()

    monkeypatch.setattr(bench.beat._upkeep, "renew", away_twice)
    monkeypatch.setattr(clock, "sleep", lambda s: setattr(bench, "now", bench.now + s))
    bench.beat.ensure(lease)
    assert len(calls) == 3
    assert lease.expires_at == bench.now + SECONDS


def test_an_expired_lease_that_nobody_can_renew_ends_the_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as long as an attempt's writes wait."""
    lease = bench.begin()
    bench.now += SECONDS
    monkeypatch.setattr(bench.beat._upkeep, "renew", unavailable)
    monkeypatch.setattr(clock, "sleep", lambda s: setattr(bench, "now", bench.now + s))
    began = bench.now

    with pytest.raises(JournalLostError, match="away"):
        bench.beat.ensure(lease)

    patience = OUTAGE_PATIENCE
    assert patience <= bench.now - began <= patience + 2 * module.RETRY_PAUSE
    assert not lease.lost


def test_a_forked_child_has_no_lease(bench: Bench) -> None:
    """Its parent runs the attempt."""
    lease = bench.begin()
    lease.pid += 1

    with pytest.raises(LeaseLostError, match="ends"):
        bench.beat.ensure(lease)


# Handing back


def test_an_abandoned_attempt_is_handed_back(bench: Bench) -> None:
    """As a crash, at the next tick."""
    lease, other = bench.begin(), bench.begin()
    bench.beat.abandon(lease)
    assert not bench.beat.holds(lease.execution_id)
    bench.beat.tick()
    found = bench.execution(lease)
    assert (found.status, found.crashes) == ("suspended", 1)
    assert bench.execution(other).status == "running"


def test_an_attempt_is_handed_back_once(bench: Bench) -> None:
    """The next attempt may run in this very process."""
    lease = bench.begin()
    bench.beat.abandon(lease)
    bench.beat.tick()
    bench.store.claim(lease.execution_id, 2, current_owner(), SECONDS)
    bench.beat.tick()
    assert bench.execution(lease).status == "running"


def test_a_later_attempt_is_not_handed_back_for_an_earlier(bench: Bench) -> None:
    """It began before the heartbeat came to the first."""
    lease = bench.begin()
    bench.store.suspend(lease.execution_id, 1, 0.0)
    bench.store.claim(lease.execution_id, 2, current_owner(), SECONDS)
    bench.beat.abandon(lease)
    bench.beat.tick()
    assert bench.execution(lease).status == "running"


def test_what_could_not_be_handed_back_is_handed_back_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away."""
    lease = bench.begin()
    bench.beat.abandon(lease)

    with monkeypatch.context() as patch:
        patch.setattr(bench.beat._upkeep, "held", unavailable)

        with pytest.raises(JournalUnavailable, match="away"):
            bench.beat.tick()

    bench.beat.tick()
    assert bench.execution(lease).status == "suspended"


def test_an_attempt_that_may_have_begun_is_handed_back(bench: Bench) -> None:
    """Whether its row is there or not."""
    lease = bench.begin()
    bench.beat.abandon(lease)
    bench.beat.abandon(bench.beat.lease(new_id(), 1, bench.now))
    bench.beat.tick()
    assert bench.execution(lease).status == "suspended"


def test_a_lease_that_is_taken_anew_is_not_handed_back(bench: Bench) -> None:
    """A claim whose answer was lost is made again before the heartbeat looks."""
    lease = bench.begin()
    bench.beat.abandon(lease)
    again = bench.beat.lease(lease.execution_id, lease.attempt, bench.now)
    bench.beat.tick()
    assert bench.execution(lease).status == "running"
    bench.beat.hold(again)
    bench.beat.tick()
    assert not again.lost


def test_a_lease_is_not_renewed_before_it_is_held(bench: Bench) -> None:
    """Its row does not say so yet, which is no loss."""
    early = bench.beat.lease(new_id(), 1, bench.now - SECONDS)
    bench.begin()
    bench.beat.tick()
    assert not early.lost


def test_a_stop_hands_back_without_a_crash(bench: Bench) -> None:
    """Views that still run hear of it at their next step."""
    lease = bench.begin()
    bench.beat.stop()
    found = bench.execution(lease)
    assert (found.status, found.crashes) == ("suspended", 0)
    assert not bench.beat.holds(lease.execution_id)

    with pytest.raises(LeaseLostError, match="handed it back to stop"):
        bench.beat.ensure(lease)


def test_a_stop_without_a_database_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that ends waits for nobody."""
    bench.begin()
    monkeypatch.setattr(bench.beat._upkeep, "held", unavailable)
    bench.beat.stop()
    assert "Leases were not handed back: away" in caplog.text


def test_a_stop_may_come_twice(bench: Bench) -> None:
    """Once by a server's hook, once at the end of the process."""
    bench.begin()
    bench.beat.stop()
    bench.store.database.close()
    bench.beat.stop()


# Slow steps


def begin_try(bench: Bench, lease: Lease, step: StepRecord = PAY) -> None:
    """Have a step's function begin."""
    lease.tries[step.id] = bench.now, step


def lines(bench: Bench, lease: Lease) -> list[tuple[str, str, int]]:
    """List what the journal shows."""
    found = bench.store.journal(lease.execution_id)
    return [(line.id, line.status, line.tries) for line in found]


@pytest.mark.parametrize(("age", "shown"), [(0.0, 0), (0.19, 0), (0.21, 1)])
def test_a_step_is_shown_when_it_is_slow(bench: Bench, age: float, shown: int) -> None:
    """Fast ones cost no statement."""
    lease = bench.begin()
    begin_try(bench, lease)
    bench.now += age
    bench.beat.tick()
    assert lines(bench, lease) == [("pay", "running", 1)] * shown


def test_a_slow_step_is_shown_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each tick."""
    lease = bench.begin()
    begin_try(bench, lease)
    bench.now += 1
    bench.beat.tick()
    monkeypatch.setattr(Upkeep, "mark_running", unavailable)
    bench.now += 1
    bench.beat.tick()


def test_a_step_that_has_ended_is_not_shown(bench: Bench) -> None:
    """It left before the tick."""
    lease = bench.begin()
    begin_try(bench, lease)
    lease.tries.clear()
    bench.now += 1
    bench.beat.tick()
    assert lines(bench, lease) == []


def test_a_mark_after_the_outcome_changes_nothing(bench: Bench) -> None:
    """The step ended while its mark was on its way."""
    lease = bench.begin()
    begin_try(bench, lease)
    outcome = StepRecord("pay", "run", "completed", 1, 0, 1, 5.0, output=b"7")
    bench.store.record(lease.execution_id, 1, outcome)
    bench.now += 1
    bench.beat.tick()
    assert bench.store.journal(lease.execution_id) == [outcome]


def test_each_slow_step_of_each_attempt_is_shown(bench: Bench) -> None:
    """Branches run beside each other."""
    one, two = bench.begin(), bench.begin()
    begin_try(bench, one)
    begin_try(bench, one, StepRecord("fly", "run", "running", 3, 1, 1, 5.0))
    begin_try(bench, two)
    bench.now += 1
    bench.beat.tick()
    assert lines(bench, one) == [("pay", "running", 1), ("fly", "running", 3)]
    assert lines(bench, two) == [("pay", "running", 1)]


# The thread


@pytest.fixture
def threaded(sqlite_url: str) -> cabc.Iterator[Heartbeat]:
    """Run a heartbeat with its thread, and a short lease."""
    store = Store(Database.open(sqlite_url))
    beat = Heartbeat(store, 0.5)
    yield beat
    beat.stop()
    store.database.close()


def test_the_thread_starts_with_the_first_lease(threaded: Heartbeat) -> None:
    """And renews until it is stopped."""
    before = set(threading.enumerate())
    execution_id = new_id()
    request = RequestRecord(b"{}", None, b"", "digest")
    since = clock.boottime()
    threaded._store.begin(execution_id, "view", current_owner(), 0.5, request, None)
    lease = threaded.lease(execution_id, 1, since)
    assert set(threading.enumerate()) <= before
    threaded.hold(lease)
    wait_until(lambda: lease.expires_at > since + 0.6)
    assert [one.name for one in set(threading.enumerate()) - before] == [
        "flask_durable.heartbeat"
    ]
    threaded.stop()
    assert threaded._store.execution(execution_id).status == "suspended"
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_the_thread_is_rung_only_while_it_rests(
    threaded: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that looks often finds a new attempt by itself."""
    waits: list[float] = []
    rings: list[int] = []
    ring, wait = threaded._bell.ring, threaded._bell.wait

    def noted_ring() -> None:
        rings.append(1)
        ring()

    def noted_wait(timeout: float) -> None:
        waits.append(timeout)
        wait(timeout)

    monkeypatch.setattr(threaded._bell, "ring", noted_ring)
    monkeypatch.setattr(threaded._bell, "wait", noted_wait)
    first = threaded.lease(new_id(), 1, clock.boottime())
    threaded.hold(first)
    wait_until(lambda: not threaded._resting)
    assert len(rings) == 1
    second = threaded.lease(new_id(), 1, clock.boottime())
    threaded.hold(second)
    assert len(rings) == 1
    threaded.end(first)
    threaded.end(second)
    wait_until(lambda: threaded._resting and waits[-1] == module.IDLE)
    threaded.hold(threaded.lease(new_id(), 1, clock.boottime()))
    assert len(rings) == 2
    wait_until(lambda: waits[-1] == module.TICK)


def test_the_thread_goes_on_after_errors(
    threaded: Heartbeat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of the database, and of our own."""
    errors: list[Exception] = [ValueError("bug"), JournalUnavailable("away")]
    ticks = threading.Semaphore(0)

    def tick() -> None:
        ticks.release()

        if errors:
            raise errors.pop()

    monkeypatch.setattr(module, "RETRY_PAUSE", 0.01)
    monkeypatch.setattr(threaded, "tick", tick)
    threaded.hold(threaded.lease(new_id(), 1, clock.boottime()))

    for _ in range(3):
        assert ticks.acquire(timeout=10)

    assert caplog.text.count("The heartbeat failed and goes on") == 1


def no_thread(target: object, name: str) -> t.NoReturn:
    """Be at the limit of threads."""
    raise RuntimeError("can't start new thread")


def test_a_thread_that_can_not_start_is_started_with_the_next_lease(
    threaded: Heartbeat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And renews the earlier leases, too."""
    first = threaded.lease(new_id(), 1, clock.boottime())

    with monkeypatch.context() as patch:
        patch.setattr(module, "start_native_thread", no_thread)
        threaded.hold(first)
        assert "No leases are renewed: can't start new thread" in caplog.text

        with pytest.raises(RuntimeError, match="start new thread"):
            threaded.start()

    ticked = threading.Event()
    monkeypatch.setattr(threaded, "tick", ticked.set)
    threaded.hold(threaded.lease(new_id(), 1, clock.boottime()))
    assert ticked.wait(10)


def test_what_is_abandoned_without_a_thread_is_handed_back_later(
    threaded: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error that ends the attempt is not replaced."""
    execution_id = new_id()
    request = RequestRecord(b"{}", None, b"", "digest")
    threaded._store.begin(execution_id, "view", current_owner(), 9.0, request, None)

    with monkeypatch.context() as patch:
        patch.setattr(module, "start_native_thread", no_thread)
        threaded.abandon(threaded.lease(execution_id, 1, clock.boottime()))

    threaded.start()
    wait_until(lambda: threaded._store.execution(execution_id).status == "suspended")


def test_a_stop_waits_for_no_thread_that_never_ran(
    threaded: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None could be started."""
    monkeypatch.setattr(module, "start_native_thread", no_thread)
    threaded.hold(threaded.lease(new_id(), 1, clock.boottime()))
    monkeypatch.setattr(threaded._ended, "wait", lambda seconds: pytest.fail("waits"))
    threaded.stop()


def test_threads_that_start_it_at_once_start_one(
    threaded: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would renew all twice."""
    started: list[str] = []
    meet = threading.Barrier(8, timeout=10)

    def start(number: int) -> None:
        meet.wait()
        threaded.start()

    def note(target: cabc.Callable[[], None], name: str) -> None:
        started.append(name)
        start_native_thread(target, name)

    monkeypatch.setattr(module, "start_native_thread", note)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(8)))

    assert started == ["flask_durable.heartbeat"]


def test_a_mistake_of_ours_loses_no_lease(bench: Bench) -> None:
    """An error that is no outage leaves the tick as it is."""
    lease = bench.begin()
    drop = sa.text("DROP TABLE durable_executions")
    bench.store.database.run(lambda c: c.execute(drop))
    bench.now += 20

    with pytest.raises(bench.store.database.errors, match="no such table"):
        bench.beat.tick()

    assert not lease.lost
