"""Leases, sweeps, and executions that nobody claims."""

from __future__ import annotations

import dataclasses
import threading

import psycopg
import pytest

from flask_durable import sql
from flask_durable.database import Database
from flask_durable.ids import new_id
from flask_durable.records import Held
from flask_durable.records import RequestRecord
from flask_durable.records import ResponseRecord
from flask_durable.records import StepRecord
from flask_durable.store import Store
from flask_durable.tables import executions
from flask_durable.upkeep import Upkeep
from flask_durable.upkeep_sql import renew

from .processes import wait_until
from .servers import psycopg_url

ADA = "ada:1:1"
BOB = "bob:2:2"
LEASE = 60.0
REQUEST = RequestRecord(b"{}", b"secrets", b"", "digest")
ANSWER = ResponseRecord(b"head", b"body")


@pytest.fixture
def upkeep(store: Store) -> Upkeep:
    """Give the journal's upkeep."""
    return Upkeep(store)


def begin(store: Store, owner: str = ADA, lease: float = LEASE) -> str:
    """Begin an execution and give its id."""
    execution_id = new_id()
    store.begin(execution_id, "view", owner, lease, REQUEST, None)
    return execution_id


def suspend(store: Store, ready_in: float = 0.0) -> str:
    """Begin an execution, suspend it, and give its id."""
    execution_id = begin(store)
    now = store.execution(execution_id).now
    store.suspend(execution_id, 1, now + ready_in)
    return execution_id


def looks(store: Store, execution_id: str) -> int:
    """Tell how often sweepers saw a lease run out."""
    query = executions.select().where(executions.c.id == execution_id)
    return int(store.database.run(lambda c: c.execute(query).one()).looks)


# Renewing


@pytest.mark.parametrize("count", range(1, 10))
def test_leases_are_renewed_together(store: Store, upkeep: Upkeep, count: int) -> None:
    """However many, in one statement."""
    ids = [begin(store, lease=1.0) for _ in range(count)]
    assert upkeep.renew(ADA, ids, LEASE) == dict.fromkeys(ids, 1)

    for execution_id in ids:
        found = store.execution(execution_id)
        assert found.ready_at == pytest.approx(found.now + LEASE, abs=5)


def test_few_statements_are_compiled(store: Store, upkeep: Upkeep) -> None:
    """Counts are rounded up to powers of two."""
    ids = [begin(store) for _ in range(9)]

    for count in range(1, 10):
        upkeep.renew(ADA, ids[:count], LEASE)

    counts = {args[0] for make, args, *_ in sql._forms if make is renew}
    assert counts >= {1, 2, 4, 8, 16} and counts.isdisjoint(range(9, 16))
    assert counts.isdisjoint({3, 5, 6, 7})


def test_renewals_lock_rows_in_the_order_of_batches(postgres_url: str) -> None:
    """Steps of several executions are committed together, in the order of their ids:
    two that waited for each other would be a second late, and one of them fail."""
    store = Store(Database.open(postgres_url))
    ids = [f"b-{new_id()}", f"a-{new_id()}"]

    for execution_id in ids:
        store.begin(execution_id, "view", ADA, LEASE, REQUEST, None)

    other = psycopg.connect(psycopg_url(postgres_url))
    lock = "SELECT id FROM durable_executions WHERE id = %s FOR UPDATE NOWAIT"
    other.execute(lock, [ids[1]])
    renewed: list[dict[str, int]] = []

    def renew_both() -> None:
        renewed.append(Upkeep(store).renew(ADA, ids, LEASE))

    thread = threading.Thread(target=renew_both)
    thread.start()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    with psycopg.connect(psycopg_url(postgres_url), autocommit=True) as watcher:
        wait_until(lambda: watcher.execute(waits).fetchone() == (1,))

    other.execute(lock, [ids[0]])
    other.commit()
    thread.join(30)
    assert renewed == [dict.fromkeys(ids, 1)]
    other.close()
    store.database.close()


def test_only_the_given_leases_are_renewed(store: Store, upkeep: Upkeep) -> None:
    """An owner may have abandoned others."""
    ids = [begin(store, lease=1.0) for _ in range(4)]
    before = store.execution(ids[3]).ready_at
    assert upkeep.renew(ADA, ids[:3], LEASE) == dict.fromkeys(ids[:3], 1)
    assert store.execution(ids[3]).ready_at == before


def test_what_is_no_longer_held_is_not_renewed(store: Store, upkeep: Upkeep) -> None:
    """Another's, an ended, a suspended and an unknown one are left out."""
    mine, other, ended, asleep = begin(store), begin(store, BOB), begin(store), ""
    store.finish(ended, 1, "completed", None)
    asleep = suspend(store)
    wanted = [mine, other, ended, asleep, new_id()]
    assert upkeep.renew(ADA, wanted, LEASE) == {mine: 1}
    assert store.execution(ended).ready_at is None


def test_a_renewal_tells_the_attempt_that_is_held(store: Store, upkeep: Upkeep) -> None:
    """It may be another one of the same owner."""
    execution_id = suspend(store)
    store.claim(execution_id, 2, ADA, LEASE)
    assert upkeep.renew(ADA, [execution_id], LEASE) == {execution_id: 2}


def test_a_renewal_begins_the_looks_anew(store: Store, upkeep: Upkeep) -> None:
    """A sweeper that saw the lease run out once has seen nothing."""
    execution_id = begin(store, lease=-1.0)
    upkeep.sweep(1, 0.0, 0.0)
    assert looks(store, execution_id) == 1
    upkeep.renew(ADA, [execution_id], LEASE)
    assert looks(store, execution_id) == 0
    assert upkeep.sweep(1, 0.0, 0.0) == []


# Owners and what they hold


def test_owners_of_running_attempts_are_named_once(
    store: Store, upkeep: Upkeep
) -> None:
    """Those of suspended and ended ones are not looked at."""
    begin(store, ADA)
    begin(store, ADA)
    begin(store, BOB)
    store.finish(begin(store, "cyd:3:3"), 1, "completed", None)
    store.suspend(begin(store, "dan:4:4"), 1, 0.0)
    assert sorted(upkeep.owners()) == [ADA, BOB]


def test_an_owner_holds_its_running_attempts(store: Store, upkeep: Upkeep) -> None:
    """In the order of their ids."""
    ids = [begin(store) for _ in range(3)]
    begin(store, BOB)
    suspend(store)
    held = upkeep.held(ADA)
    assert [one.id for one in held] == sorted(ids)
    assert [(one.attempt, one.crashes) for one in held] == [(1, 0)] * 3


@pytest.mark.parametrize(
    ("status", "progressed"),
    [("completed", True), ("failed", True), ("retrying", False)],
)
def test_an_outcome_is_progress(
    store: Store, upkeep: Upkeep, status: str, progressed: bool
) -> None:
    """A mark is not."""
    execution_id = begin(store)
    line = StepRecord("a", "run", status, 1, 0, 1, 1.0)  # type: ignore[arg-type]
    store.record(execution_id, 1, line)
    assert bool(upkeep.held(ADA)[0].progressed) is progressed


def test_an_outcome_of_an_earlier_attempt_is_no_progress(
    store: Store, upkeep: Upkeep
) -> None:
    """It was counted then."""
    execution_id = begin(store)
    store.record(execution_id, 1, StepRecord("a", "run", "completed", 1, 0, 1, 1.0))
    store.suspend(execution_id, 1, 0.0)
    store.claim(execution_id, 2, ADA, LEASE)
    assert not upkeep.held(ADA)[0].progressed


# Taking away


@pytest.fixture
def held(store: Store, upkeep: Upkeep) -> Held:
    """Give a running attempt as a sweeper sees it."""
    begin(store)
    return upkeep.held(ADA)[0]


def test_a_released_attempt_may_be_followed(
    store: Store, upkeep: Upkeep, held: Held
) -> None:
    """After the given delay, with the given count."""
    assert upkeep.release(held, ADA, 3, 30.0)
    found = store.execution(held.id)
    assert (found.status, found.attempt, found.crashes) == ("suspended", 1, 3)
    assert found.ready_at == pytest.approx(found.now + 30, abs=5)
    assert upkeep.next_due() == pytest.approx(30, abs=5)


def test_an_attempt_that_is_given_up_has_failed(
    store: Store, upkeep: Upkeep, held: Held
) -> None:
    """With a reason, without a response; credentials are erased."""
    assert upkeep.give_up(held, ADA, 10, b"why")
    found = store.execution(held.id)
    assert (found.status, found.crashes, found.error) == ("failed", 10, b"why")
    assert (found.ready_at, store.response(held.id)) == (None, None)
    assert found.finished_at is not None
    assert store.outgoing(held.id).request.secrets is None
    assert upkeep.next_due() is None


@pytest.mark.parametrize("verb", ["release", "give_up"])
@pytest.mark.parametrize(
    "seen", [{"ready_at": 5.0}, {"attempt": 2}, {"id": "other"}, {"owner": BOB}]
)
def test_only_what_was_seen_is_taken(
    store: Store, upkeep: Upkeep, held: Held, verb: str, seen: dict[str, object]
) -> None:
    """Another lease, attempt, execution or owner is left alone."""
    owner = str(seen.get("owner", ADA))
    fields = {name: value for name, value in seen.items() if name != "owner"}
    other = dataclasses.replace(held, **fields)  # type: ignore[arg-type]
    last = {"release": 0.0, "give_up": b"why"}[verb]
    assert not getattr(upkeep, verb)(other, owner, 1, last)
    assert store.execution(held.id).status == "running"


def test_a_lease_that_was_renewed_meanwhile_is_not_taken(
    upkeep: Upkeep, held: Held
) -> None:
    """Its owner came back between the look and the release."""
    upkeep.renew(ADA, [held.id], LEASE + 1)
    assert not upkeep.release(held, ADA, 1, 0.0)
    assert not upkeep.give_up(held, ADA, 1, b"why")


def test_what_has_ended_is_not_taken(store: Store, upkeep: Upkeep, held: Held) -> None:
    """It ended between the look and the release."""
    store.finish(held.id, 1, "completed", ANSWER)
    assert not upkeep.release(held, ADA, 1, 0.0)
    assert not upkeep.give_up(held, ADA, 1, b"why")
    assert store.response(held.id) == ANSWER


def test_two_release_and_one_does(upkeep: Upkeep, held: Held) -> None:
    """Each process of a machine sees the dead one."""
    assert upkeep.release(held, ADA, 1, 0.0)
    assert not upkeep.release(held, ADA, 1, 0.0)


# Replays that did not reach their endpoint


@pytest.mark.parametrize("refused", [False, True])
def test_a_rejected_replay_is_put_off(
    store: Store, upkeep: Upkeep, refused: bool
) -> None:
    """And counted, refusals beside."""
    execution_id = suspend(store)
    assert upkeep.reject(execution_id, 1, 30.0, refused)
    found = store.execution(execution_id)
    assert (found.status, found.attempt) == ("suspended", 1)
    assert (found.rejections, found.refusals) == (1, int(refused))
    assert found.ready_at == pytest.approx(found.now + 30, abs=5)
    assert not upkeep.reject(execution_id, 1, 30.0, refused), "it is not due now"


def test_a_refused_execution_has_failed(store: Store, upkeep: Upkeep) -> None:
    """With what the app answered."""
    execution_id = suspend(store)
    assert upkeep.refuse(execution_id, 1, ANSWER, b"why")
    found = store.execution(execution_id)
    assert (found.status, found.error) == ("failed", b"why")
    assert store.response(execution_id) == ANSWER
    assert store.outgoing(execution_id).request.secrets is None
    assert not upkeep.refuse(execution_id, 1, ANSWER, b"why"), "it has ended"


def tries_to_turn_away(upkeep: Upkeep, execution_id: str, attempt: int) -> list[bool]:
    """Reject and refuse an execution."""
    return [
        upkeep.reject(execution_id, attempt, 0.0, True),
        upkeep.refuse(execution_id, attempt, ANSWER, b"why"),
    ]


def test_a_claimed_execution_is_not_turned_away(store: Store, upkeep: Upkeep) -> None:
    """Its attempt runs, whatever was answered."""
    execution_id = suspend(store)
    store.claim(execution_id, 2, BOB, LEASE)
    assert tries_to_turn_away(upkeep, execution_id, 1) == [False, False]
    assert tries_to_turn_away(upkeep, execution_id, 2) == [False, False]
    assert store.execution(execution_id).status == "running"


def test_an_execution_that_suspended_again_is_not_turned_away(
    store: Store, upkeep: Upkeep
) -> None:
    """The replay's attempt has been, although it was answered an error."""
    execution_id = suspend(store)
    store.claim(execution_id, 2, BOB, LEASE)
    store.suspend(execution_id, 2, 0.0)
    assert tries_to_turn_away(upkeep, execution_id, 1) == [False, False]


def test_an_execution_that_is_not_due_is_not_turned_away(
    store: Store, upkeep: Upkeep
) -> None:
    """The replay came too early: that is no fault of the app."""
    execution_id = suspend(store, ready_in=60)
    assert tries_to_turn_away(upkeep, execution_id, 1) == [False, False]


# Sweeping


def test_a_sweep_takes_the_longest_due_first(store: Store, upkeep: Upkeep) -> None:
    """At most so many."""
    ids = [suspend(store, ready_in=-number) for number in (1, 4, 2, 3, 5)]
    taken = {due.id for due in upkeep.sweep(2, LEASE, LEASE)}
    assert taken == {ids[4], ids[1]}
    taken = {due.id for due in upkeep.sweep(2, LEASE, LEASE)}
    assert taken == {ids[3], ids[2]}
    assert [due.id for due in upkeep.sweep(2, LEASE, LEASE)] == [ids[0]]
    assert upkeep.sweep(2, LEASE, LEASE) == []


def test_a_sweep_tells_what_it_found(store: Store, upkeep: Upkeep) -> None:
    """Suspended executions, and running ones whose lease ran out."""
    asleep, lapsed = suspend(store), begin(store, BOB, lease=-1.0)
    ready_at = store.execution(lapsed).ready_at
    found = {due.id: due for due in upkeep.sweep(9, LEASE, LEASE)}
    assert found.keys() == {asleep, lapsed}
    assert (found[asleep].status, found[asleep].attempt) == ("suspended", 1)
    assert (found[lapsed].status, found[lapsed].owner) == ("running", BOB)
    assert found[lapsed].seen == (lapsed, 1, ready_at)


def test_a_sweep_leaves_what_is_not_due(store: Store, upkeep: Upkeep) -> None:
    """A lease that lasts, a sleep, an end."""
    begin(store)
    suspend(store, ready_in=60)
    store.finish(begin(store, lease=-1.0), 1, "completed", None)
    assert upkeep.sweep(9, LEASE, LEASE) == []


def test_what_nobody_claims_is_due_again(store: Store, upkeep: Upkeep) -> None:
    """After the patience of those who took it."""
    suspend(store)
    assert len(upkeep.sweep(9, 30.0, 90.0)) == 1
    assert upkeep.next_due() == pytest.approx(30, abs=5)


def test_a_lapsed_lease_gets_a_second_look(store: Store, upkeep: Upkeep) -> None:
    """Later than an unclaimed execution, and its lease's end stays as it is."""
    execution_id = begin(store, lease=-1.0)
    before = store.execution(execution_id).ready_at
    assert len(upkeep.sweep(9, 30.0, 90.0)) == 1
    assert upkeep.next_due() == pytest.approx(90, abs=5)
    assert store.execution(execution_id).ready_at == before


def test_looks_are_counted(store: Store, upkeep: Upkeep) -> None:
    """One more at each sweep, until somebody claims it."""
    execution_id = suspend(store)
    found = [upkeep.sweep(9, 0.0, 0.0)[0].looks for _ in range(3)]
    assert found == [1, 2, 3]
    store.claim(execution_id, 2, BOB, -1.0)
    assert upkeep.sweep(9, 0.0, 0.0)[0].looks == 1


def test_apps_that_share_a_journal_sweep_their_own(
    store: Store, upkeep: Upkeep
) -> None:
    """An app can't replay the views of another."""
    other = Upkeep(Store(store.database, "other"))
    execution_id = suspend(store, ready_in=-5)
    assert (other.next_due(), other.sweep(9, LEASE, LEASE)) == (None, [])
    assert [due.id for due in upkeep.sweep(9, LEASE, LEASE)] == [execution_id]


# What comes next


def test_nothing_is_due_in_an_empty_journal(store: Store, upkeep: Upkeep) -> None:
    """Nor where everything has ended."""
    assert upkeep.next_due() is None
    store.finish(begin(store), 1, "completed", None)
    assert upkeep.next_due() is None


def test_the_next_is_due_in_so_many_seconds(store: Store, upkeep: Upkeep) -> None:
    """The first of all, a lease's end too; what is late is negative."""
    begin(store, lease=50.0)
    assert upkeep.next_due() == pytest.approx(50, abs=5)
    suspend(store, ready_in=20)
    assert upkeep.next_due() == pytest.approx(20, abs=5)
    suspend(store, ready_in=-20)
    assert upkeep.next_due() == pytest.approx(-20, abs=5)
