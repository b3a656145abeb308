"""Which process sweeps for all that share a queue."""

from __future__ import annotations

import collections.abc as cabc
import types
import typing as t

import pytest
from flask import Flask

from flask_durable import clock
from flask_durable import election as module
from flask_durable import FlaskDurable
from flask_durable import owner
from flask_durable.election import Election
from flask_durable.election import LOOK
from flask_durable.election import TERM
from flask_durable.errors import JournalUnavailable
from flask_durable.ids import new_id
from flask_durable.leaders import Leaders
from flask_durable.records import Due
from flask_durable.records import RequestRecord
from flask_durable.state import opened_state
from flask_durable.state import State
from flask_durable.sweeper import POLL
from flask_durable.sweeper import Sweeper
from flask_durable.sweeper import TOLD
from flask_durable.tables import leaders

ADA, BOB = "ada:1:1:1", "bob:1:1:1"


class Bench:
    """Candidates of one app, and clocks to turn."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.now = 1000.0
        self.fates: dict[str, str] = {}
        self.leaders = Leaders(state.store)

    def candidate(self, name: str) -> Election:
        """Make a process's part in the choice."""
        state = types.SimpleNamespace(
            config=self.state.config, owner=name, store=self.state.store
        )
        return Election(t.cast(State, state))

    def pass_time(self, seconds: float) -> None:
        """Turn both clocks."""
        self.now += seconds
        update = leaders.update().values(until=leaders.c.until - seconds)
        self.state.store.database.run(lambda c: c.execute(update))

    @property
    def leader(self) -> str | None:
        """Who was chosen."""
        found = self.leaders.find()
        return None if found is None else found.owner


@pytest.fixture
def bench(app: Flask, durable: FlaskDurable, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Set up an election; strangers' fates are known."""
    bench = Bench(opened_state(app))
    monkeypatch.setattr(module, "fate", lambda name: bench.fates.get(name, "alive"))
    monkeypatch.setattr(clock, "boottime", lambda: bench.now)
    return bench


def test_at_first_nobody_leads(bench: Bench) -> None:
    """An app may have no queue."""
    assert bench.leaders.find() is None


def test_whoever_comes_first_leads(bench: Bench) -> None:
    """And nobody else, however often they ask."""
    ada, bob = bench.candidate(ADA), bench.candidate(BOB)
    assert ada.won()

    for _ in range(5):
        assert not bob.won()
        assert ada.won()
        bench.pass_time(LOOK)

    assert bench.leader == ADA


def test_a_leader_renews_its_term(bench: Bench) -> None:
    """At each look, of which there are several in a term."""
    ada = bench.candidate(ADA)
    ada.won()
    bench.pass_time(TERM - 0.5)
    assert ada.won()
    found = bench.leaders.find()
    assert found is not None and TERM - 0.5 < found.left <= TERM


def test_the_database_is_asked_once_a_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each look of the sweeper."""
    asked: list[None] = []
    real = Leaders.find

    def find(self: Leaders) -> t.Any:
        asked.append(None)
        return real(self)

    monkeypatch.setattr(Leaders, "find", find)
    ada = bench.candidate(ADA)

    for _ in range(21):
        assert ada.won()
        bench.now += LOOK / 10

    assert len(asked) == 3


@pytest.mark.parametrize("fate", ["alive", "unknown", "elsewhere"])
def test_a_leader_that_is_not_known_to_be_dead_keeps_its_term(
    bench: Bench, fate: str
) -> None:
    """One of another machine is succeeded only after it."""
    bench.fates[ADA] = fate
    bench.candidate(ADA).won()
    bob = bench.candidate(BOB)
    bench.pass_time(TERM - 0.5)
    assert not bob.won()
    bench.pass_time(LOOK)
    assert bob.won()
    assert bench.leader == BOB


def test_a_leader_of_this_machine_that_died_is_succeeded_at_once(bench: Bench) -> None:
    """At the next look, long before its term ends."""
    bench.candidate(ADA).won()
    bob = bench.candidate(BOB)
    assert not bob.won()
    bench.fates[ADA] = "dead"
    bench.pass_time(LOOK)
    assert bob.won()


def test_only_one_succeeds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that see the same dead leader."""
    bench.candidate(ADA).won()
    bench.fates[ADA] = "dead"
    seen = bench.leaders.find()
    bob, cyd = bench.candidate(BOB), bench.candidate("cyd:1:1:1")
    monkeypatch.setattr(Leaders, "find", lambda self: seen)
    assert [bob.won(), cyd.won()] == [True, False]


def test_a_leader_that_was_late_hears_that_it_lost(bench: Bench) -> None:
    """It was stopped for a while, say."""
    ada, bob = bench.candidate(ADA), bench.candidate(BOB)
    ada.won()
    bench.pass_time(TERM + LOOK)
    assert bob.won()
    assert not ada.won()


def test_a_leader_without_its_database_does_not_lead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may lead by now."""
    ada = bench.candidate(ADA)
    ada.won()
    bench.pass_time(LOOK)

    def away(*args: t.Any, **values: t.Any) -> t.NoReturn:
        raise JournalUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(bench.state.store, "ask", away)

        with pytest.raises(JournalUnavailable):
            ada.won()

        assert not ada.won(), "nor until the next look"


def test_whoever_resigns_is_succeeded_at_once(bench: Bench) -> None:
    """In an orderly stop nobody waits for the term's end."""
    ada, bob = bench.candidate(ADA), bench.candidate(BOB)
    ada.won()
    assert not bob.won()
    ada.resign()
    bench.now += LOOK
    assert bob.won()


def test_who_does_not_lead_has_nothing_to_resign(bench: Bench) -> None:
    """The leader stays."""
    ada, bob = bench.candidate(ADA), bench.candidate(BOB)
    ada.won()
    bob.won()
    bob.resign()
    found = bench.leaders.find()
    assert found is not None and (found.owner, found.left > 0) == (ADA, True)


def test_each_app_has_its_leader(bench: Bench) -> None:
    """They may share a database."""
    bench.candidate(ADA).won()
    other = Leaders(type(bench.state.store)(bench.state.store.database, "other"))
    assert other.find() is None
    assert other.set(BOB, BOB, TERM)
    assert bench.leader == ADA


# Those that don't lead


class Hands:
    """Hands that all processes share, which only note what they are given."""

    patience = 2.0
    pause = 1.0
    shared = True
    usable = True

    def __init__(self) -> None:
        self.sent: list[Due] = []
        self.away = False
        self.tries = 0

    def free(self) -> int:
        """Take anything, unless it can't get anywhere."""
        self.tries += 1
        self.usable = not self.away
        return 0 if self.away else 9

    def send(self, found: cabc.Sequence[Due]) -> None:
        """Take some."""
        self.sent += found


@pytest.fixture
def follower(bench: Bench) -> Sweeper:
    """Make a sweeper while another process leads."""
    bench.leaders.set(ADA, ADA, TERM)
    return Sweeper(bench.state, Hands())


def begin(bench: Bench, name: str = ADA, suspended: bool = True) -> str:
    """Begin an execution that is due at once, and give its id."""
    id, store = new_id(), bench.state.store
    now = store.begin(id, "view", name, 15.0, RequestRecord(b"{}", None, b"", ""), None)

    if suspended:
        store.suspend(id, 1, now - 1)

    return id


def sent(sweeper: Sweeper) -> list[str]:
    """List what a sweeper sent."""
    return [due.id for due in t.cast(Hands, sweeper._hands).sent]


def test_a_follower_sends_nothing(bench: Bench, follower: Sweeper) -> None:
    """The leader does."""
    begin(bench)
    assert follower.look() == POLL
    assert sent(follower) == []


def test_a_leader_sends(bench: Bench) -> None:
    """And its work is to look again at once."""
    id = begin(bench)
    sweeper = Sweeper(bench.state, Hands())
    assert sweeper.look() == 0.0
    assert sent(sweeper) == [id]
    assert bench.leader == bench.state.owner


def test_a_follower_sends_what_it_was_told_of(bench: Bench, follower: Sweeper) -> None:
    """A quick retry could not wait until the leader looks again."""
    id = begin(bench)
    follower.wake(0.3)
    bench.now += 0.3
    assert follower.look() == 0.0
    assert sent(follower) == [id]


def test_a_follower_forgets_what_it_was_told(bench: Bench, follower: Sweeper) -> None:
    """The leader has seen it by then."""
    follower.wake(0.3)
    begin(bench)
    bench.now += 0.3 + TOLD
    assert follower.look() == POLL
    assert sent(follower) == []


def test_a_follower_is_not_told_of_what_is_due_later(
    bench: Bench, follower: Sweeper
) -> None:
    """That is no haste."""
    follower.wake(POLL)
    begin(bench)
    bench.now += 0.1
    follower.look()
    assert sent(follower) == []


def test_a_follower_watches_its_own_machine(
    bench: Bench, follower: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It releases what died here, and sends it."""
    monkeypatch.setattr(
        "flask_durable.sweeper.fate", lambda name: "dead" if name == BOB else "alive"
    )
    id = begin(bench, BOB, suspended=False)
    follower.look()
    assert bench.state.store.execution(id).crashes == 1
    follower.look()
    assert sent(follower) == [id]


def test_a_sweeper_that_stops_resigns(bench: Bench) -> None:
    """Another one leads at once."""
    sweeper = Sweeper(bench.state, Hands())
    sweeper.look()
    sweeper._stopped = True
    sweeper.run()
    assert bench.candidate(BOB).won()


def test_a_sweeper_that_cant_resign_stops(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its term ends by itself."""
    sweeper = Sweeper(bench.state, Hands())
    sweeper.look()
    sweeper._stopped = True

    def away(*args: t.Any) -> t.NoReturn:
        raise JournalUnavailable("away")

    monkeypatch.setattr(Leaders, "end", away)
    sweeper.run()
    assert sweeper._ended.is_set()


def test_a_leader_that_cant_send_resigns(bench: Bench) -> None:
    """Redis is away for it alone: another one sends what is due."""
    begin(bench)
    hands = Hands()
    hands.away = True
    sweeper = Sweeper(bench.state, hands)
    assert sweeper.look() == hands.pause
    assert bench.leader == bench.state.owner
    bench.now += hands.pause
    assert sweeper.look() == POLL
    assert bench.candidate(BOB).won()


def test_who_cant_send_does_not_stand(bench: Bench) -> None:
    """It tries once a second whether it can again, however often it is woken."""
    begin(bench)
    hands = Hands()
    hands.away = True
    sweeper = Sweeper(bench.state, hands)
    sweeper.look()

    for _ in range(20):
        bench.now += POLL / 10
        sweeper.wake(0.0)
        sweeper.look()

    assert hands.tries == 1 + 2
    assert sent(sweeper) == []
    hands.away = False
    bench.now += POLL
    assert sweeper.look() == 0.0
    assert bench.leader == bench.state.owner
    assert len(sent(sweeper)) == 1


def test_owners_have_names_that_tell_their_fate() -> None:
    """The election goes by them."""
    assert owner.fate(owner.current_owner()) == "alive"
