"""The loop that looks for due executions and for owners that died."""

from __future__ import annotations

import collections.abc as cabc
import threading
import typing as t

import pytest
from flask import Flask

from flask_durable import clock
from flask_durable import FlaskDurable
from flask_durable import owner
from flask_durable import purge
from flask_durable import sweeper as module
from flask_durable.errors import JournalUnavailable
from flask_durable.errors import SchemaError
from flask_durable.ids import new_id
from flask_durable.owner import current_owner
from flask_durable.records import Due
from flask_durable.records import Execution
from flask_durable.records import RequestRecord
from flask_durable.state import opened_state
from flask_durable.state import State
from flask_durable.sweeper import BATCH_PAUSE
from flask_durable.sweeper import POLL
from flask_durable.sweeper import PURGE_PAUSE
from flask_durable.sweeper import Sweeper
from flask_durable.tables import executions

LEASE = 15.0
SECOND_LOOK = LEASE / 3 + 1
ELSEWHERE = "other-boot:1:7:7"


class Hands:
    """Hands that only note what they are given."""

    patience = 2.0
    pause = 1.0
    shared = False
    usable = True

    def __init__(self) -> None:
        self.places = 3
        self.sent: list[Due] = []

    def free(self) -> int:
        """Tell how many more are taken."""
        return self.places - len(self.sent)

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Take some."""
        self.sent += found


class Bench:
    """A sweeper with a clock to turn."""

    def __init__(self, state: State) -> None:
        self.now = 1000.0
        self.state = state
        self.hands = Hands()
        self.fates: dict[str, str] = {}

    def make(self) -> Sweeper:
        """Begin to observe."""
        return Sweeper(self.state, self.hands)

    def begin(self, name: str, lease: float = LEASE) -> str:
        """Begin an execution and give its id."""
        execution_id = new_id()
        request = RequestRecord(b"{}", None, b"", "digest")
        self.state.store.begin(execution_id, "view", name, lease, request, None)
        return execution_id

    def suspend(self, ready_in: float) -> str:
        """Begin an execution, suspend it, and give its id."""
        execution_id = self.begin(ELSEWHERE)
        now = self.execution(execution_id).now
        self.state.store.suspend(execution_id, 1, now + ready_in)
        return execution_id

    def execution(self, execution_id: str) -> Execution:
        """Read an execution."""
        return self.state.store.execution(execution_id)

    def pass_time(self) -> None:
        """Let a second look be due, by both clocks."""
        self.now += SECOND_LOOK
        nearer = {"due_at": executions.c.due_at - SECOND_LOOK}
        update = executions.update().values(nearer)
        self.state.store.database.run(lambda c: c.execute(update))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def bench(app: Flask, durable: FlaskDurable, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Set up a sweeper's surroundings; others' fates are known."""
    bench = Bench(opened_state(app))
    real = owner.fate
    monkeypatch.setattr(
        module, "fate", lambda name: bench.fates.get(name) or real(name)
    )
    monkeypatch.setattr(clock, "boottime", lambda: bench.now)
    return bench


# Looking


def test_without_work_it_looks_once_a_second(bench: Bench) -> None:
    """Others may store some in the same database."""
    assert bench.make().look() == POLL == 1.0


@pytest.mark.parametrize(("ready_in", "least", "most"), [(60, 1, 1), (0.5, 0.1, 0.5)])
def test_it_looks_when_the_next_is_due(
    bench: Bench, ready_in: float, least: float, most: float
) -> None:
    """But at least once a second."""
    bench.suspend(ready_in)
    assert least <= bench.make().look() <= most
    assert bench.hands.sent == []


def test_what_is_due_is_sent(bench: Bench) -> None:
    """And it looks again at once, since there may be more."""
    execution_id = bench.suspend(-1)
    assert bench.make().look() == 0.0
    assert [due.id for due in bench.hands.sent] == [execution_id]


def test_what_was_sent_is_left_for_a_while(bench: Bench) -> None:
    """It is sent again after the hands' patience."""
    bench.suspend(-1)
    sweeper = bench.make()
    sweeper.look()
    assert sweeper.look() == POLL
    assert len(bench.hands.sent) == 1
    assert 1 < (bench.state.upkeep.next_due() or 0) <= Hands.patience


def test_no_more_is_taken_than_there_are_free_hands(bench: Bench) -> None:
    """The rest is left to other processes."""
    for _ in range(5):
        bench.suspend(-1)

    bench.make().look()
    assert len(bench.hands.sent) == 3
    assert (bench.state.upkeep.next_due() or 0) < 0


def test_without_free_hands_nothing_is_taken(bench: Bench) -> None:
    """Whoever becomes free wakes the sweeper."""
    bench.suspend(-1)
    bench.hands.places = 0
    assert bench.make().look() == POLL
    assert (bench.state.upkeep.next_due() or 0) < 0


def test_what_others_lock_is_looked_at_soon(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at once, which would be a busy loop, nor only in a second."""
    bench.suspend(-1)
    monkeypatch.setattr(bench.state.upkeep, "sweep", lambda *args: [])
    assert 0 < bench.make().look() < POLL / 2


# Owners that died


def test_what_a_dead_process_ran_is_released_at_once(bench: Bench) -> None:
    """Long before its lease runs out, and it counts as a crash."""
    bench.fates["ada:1:1:1"] = "dead"
    ids = [bench.begin("ada:1:1:1") for _ in range(2)]
    bench.make().look()
    found = [bench.execution(each) for each in ids]
    assert [(one.status, one.crashes) for one in found] == [("suspended", 1)] * 2


@pytest.mark.parametrize("fate", ["alive", "unknown", "elsewhere"])
def test_what_others_run_is_left_alone(bench: Bench, fate: str) -> None:
    """As long as their leases last."""
    bench.fates["ada:1:1:1"] = fate
    execution_id = bench.begin("ada:1:1:1")
    bench.make().look()
    assert bench.execution(execution_id).status == "running"


def test_owners_are_looked_at_once_a_second(bench: Bench) -> None:
    """Not at each look, of which there are many under load."""
    sweeper = bench.make()
    sweeper.look()
    bench.fates["ada:1:1:1"] = "dead"
    execution_id = bench.begin("ada:1:1:1")
    bench.now += 0.9
    sweeper.look()
    assert bench.execution(execution_id).status == "running"
    bench.now += 0.1
    sweeper.look()
    assert bench.execution(execution_id).status == "suspended"


# Leases that ran out


def look_again(bench: Bench, sweeper: Sweeper, times: int) -> None:
    """Look at what is due, so many times, each when the next look is due."""
    for _ in range(times):
        bench.pass_time()
        assert sweeper.sweep(9) == 1


def test_a_lapsed_lease_is_taken_at_the_second_look(bench: Bench) -> None:
    """Its owner may have been late the first time."""
    execution_id = bench.begin(ELSEWHERE, lease=-1)
    sweeper = bench.make()
    look_again(bench, sweeper, 1)
    assert bench.execution(execution_id).status == "running"
    look_again(bench, sweeper, 1)
    found = bench.execution(execution_id)
    assert (found.status, found.attempt, found.crashes) == ("suspended", 1, 1)
    assert bench.hands.sent == [], "the next look sends it"


def test_an_error_at_a_lapsed_lease_holds_up_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is due is sent all the same."""
    bench.begin(ELSEWHERE, lease=-1)
    due = bench.suspend(-1)
    sweeper = bench.make()
    monkeypatch.setattr(sweeper, "_look_at_lapsed", lambda due: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        sweeper.sweep(9)

    assert [each.id for each in bench.hands.sent] == [due]


@pytest.mark.parametrize("fate", ["dead", "unknown", "elsewhere"])
def test_whoever_is_not_known_to_live_loses_a_lapsed_lease(
    bench: Bench, fate: str
) -> None:
    """Only a process that is seen to live is spared."""
    bench.fates["ada:1:1:1"] = fate
    execution_id = bench.begin("ada:1:1:1", lease=-1)
    look_again(bench, bench.make(), 2)
    assert bench.execution(execution_id).status == "suspended"


def test_a_process_that_lives_here_is_never_robbed(bench: Bench) -> None:
    """However late its heartbeat is."""
    bench.fates["ada:1:1:1"] = "alive"
    execution_id = bench.begin("ada:1:1:1", lease=-1)
    look_again(bench, bench.make(), 5)
    assert bench.execution(execution_id).status == "running"


def test_this_process_does_not_rob_itself(bench: Bench) -> None:
    """Its own attempt is alive, as its heartbeat knows."""
    execution_id = bench.begin(current_owner(), lease=-1)
    bench.state.heartbeat.hold(bench.state.lease(execution_id, 1))
    look_again(bench, bench.make(), 5)
    assert bench.execution(execution_id).status == "running"


def test_what_this_process_forgot_is_taken(bench: Bench) -> None:
    """Its row says that it runs, but no attempt of it is alive."""
    execution_id = bench.begin(current_owner(), lease=-1)
    sweeper = bench.make()
    look_again(bench, sweeper, 1)
    assert bench.execution(execution_id).status == "running"
    look_again(bench, sweeper, 1)
    assert bench.execution(execution_id).status == "suspended"


def test_after_an_outage_nobody_is_robbed(bench: Bench) -> None:
    """The owner could not renew either: it gets the time of a further look."""
    execution_id = bench.begin(ELSEWHERE, lease=-1)
    sweeper = bench.make()
    look_again(bench, sweeper, 1)
    bench.state.store.database.troubled_at = bench.now + SECOND_LOOK
    look_again(bench, sweeper, 1)
    assert bench.execution(execution_id).status == "running"
    look_again(bench, sweeper, 1)
    assert bench.execution(execution_id).status == "suspended"


def test_a_new_observer_robs_nobody(bench: Bench) -> None:
    """It does not know whether the database was there before it came."""
    execution_id = bench.begin(ELSEWHERE, lease=-1)
    look_again(bench, bench.make(), 1)
    bench.pass_time()
    bench.make().sweep(9)
    assert bench.execution(execution_id).status == "running"


def test_a_lease_that_is_renewed_after_the_sweep_is_not_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner came back in the last moment."""
    execution_id = bench.begin(ELSEWHERE, lease=-1)
    sweeper, upkeep = bench.make(), bench.state.upkeep
    look_again(bench, sweeper, 1)
    sweep = upkeep.sweep

    def renew_after(*args: t.Any) -> list[Due]:
        found = sweep(*args)
        upkeep.renew(ELSEWHERE, [execution_id], LEASE)
        return found

    monkeypatch.setattr(upkeep, "sweep", renew_after)
    look_again(bench, sweeper, 1)
    assert bench.execution(execution_id).status == "running"


# What is too old to keep


def end_long_ago(bench: Bench, count: int) -> None:
    """Store executions that are too old to keep."""
    old = {"status": "completed", "due_at": None, "finished_at": 1.0}
    ids = [bench.begin(ELSEWHERE) for _ in range(count)]
    update = executions.update().where(executions.c.id.in_(ids)).values(old)
    bench.state.store.database.run(lambda c: c.execute(update))


def kept(bench: Bench) -> int:
    """Count the executions that are stored."""
    return len(bench.state.control.find(None, None, None, 99))


def test_a_look_deletes_one_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And sends what is due; the next ones, soon after it, delete the rest."""
    monkeypatch.setattr(purge, "BATCH", 2)
    end_long_ago(bench, 5)
    sweeper = bench.make()
    sweeper.look()
    assert kept(bench) == 5, "it need not be at once"
    bench.now += PURGE_PAUSE
    due = bench.suspend(-1)
    assert sweeper.look() == 0.0
    assert [each.id for each in bench.hands.sent] == [due]
    assert kept(bench) == 3 + 1
    assert sweeper.look() == BATCH_PAUSE
    assert kept(bench) == 1 + 1
    assert sweeper.look() == POLL
    assert kept(bench) == 1


def test_after_all_batches_it_looks_for_old_ones_seldom(bench: Bench) -> None:
    """What ends now is old in days only."""
    sweeper = bench.make()
    bench.now += PURGE_PAUSE
    sweeper.look()
    end_long_ago(bench, 1)
    sweeper.look()
    assert kept(bench) == 1
    bench.now += PURGE_PAUSE
    sweeper.look()
    assert kept(bench) == 0


def test_an_error_of_a_purge_holds_up_nobody_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next look sends what is due."""
    monkeypatch.setattr(bench.state.control, "purge_some", lambda age: 1 / 0)
    due = bench.suspend(-1)
    sweeper = bench.make()
    bench.now += PURGE_PAUSE

    with pytest.raises(ZeroDivisionError):
        sweeper.look()

    sweeper.look()
    assert [each.id for each in bench.hands.sent] == [due]


# The loop


class Loop:
    """A sweeper's loop in a thread, whose looks do what a test wants."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.sweeper = sweeper
        self.looks = threading.Semaphore(0)
        self.errors: list[Exception] = []
        self.thread = threading.Thread(target=sweeper.run, daemon=True)

    def look(self) -> float:
        """Look, and want no other look for a minute."""
        self.looks.release()

        if self.errors:
            raise self.errors.pop(0)

        return 60.0

    def looked(self, timeout: float = 10.0) -> bool:
        """Wait for a look."""
        return self.looks.acquire(timeout=timeout)


@pytest.fixture
def loop(
    app: Flask, durable: FlaskDurable, monkeypatch: pytest.MonkeyPatch
) -> cabc.Iterator[Loop]:
    """Make a loop; it is stopped with the test."""
    loop = Loop(Sweeper(opened_state(app), Hands()))
    monkeypatch.setattr(loop.sweeper, "look", loop.look)
    yield loop
    loop.sweeper.stop()
    loop.thread.join(10)
    assert not loop.thread.is_alive()


def test_the_loop_looks_again_when_it_is_woken(loop: Loop) -> None:
    """For what becomes due before the next look."""
    loop.thread.start()
    assert loop.looked()
    loop.sweeper.wake(0.5)
    assert loop.looked()


def test_the_loop_is_not_woken_for_what_it_will_see(loop: Loop) -> None:
    """An execution that sleeps for long."""
    loop.thread.start()
    assert loop.looked()
    loop.sweeper.wake(POLL)
    loop.sweeper.wake(3600)
    assert not loop.looked(0.1)


def test_a_wake_before_the_wait_is_heard(loop: Loop) -> None:
    """It comes while the sweeper looks."""
    loop.sweeper.wake(0.0)
    loop.thread.start()
    assert loop.looked()
    assert loop.looked()


@pytest.mark.parametrize(
    ("error", "log"),
    [
        (JournalUnavailable("The journal is away."), "The journal is away."),
        (SchemaError("run `flask durable upgrade`"), "run `flask durable upgrade`"),
        (ValueError("bug"), "The sweeper failed and goes on."),
    ],
)
def test_the_loop_goes_on_after_an_error(
    loop: Loop, caplog: pytest.LogCaptureFixture, error: Exception, log: str
) -> None:
    """After a pause, or when it is woken."""
    loop.errors.append(error)
    loop.thread.start()
    assert loop.looked()
    loop.sweeper.wake(0.0)
    assert loop.looked()
    assert log in caplog.text


def test_a_stop_waits_for_the_look_under_way(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes would be lost else."""
    inside, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def look() -> float:
        inside.set()
        assert go_on.wait(10)
        left.set()
        return 60.0

    monkeypatch.setattr(loop.sweeper, "look", look)
    loop.thread.start()
    assert inside.wait(10)
    threading.Timer(0.05, go_on.set).start()
    loop.sweeper.stop()
    assert left.is_set()
