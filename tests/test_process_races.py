"""Two processes that want the same at the same instant, again and again."""

from __future__ import annotations

import collections
import collections.abc as cabc
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import typing as t

import pytest
import sqlalchemy as sa

from flask_durable import ExecutionInfo
from flask_durable.tables import events
from flask_durable.tables import executions
from flask_durable.tables import steps

from . import servers
from .driving import Drive
from .processes import ROOT
from .racers import Race
from .racers import SPREAD
from .racers import Track

pytestmark = pytest.mark.slow

ROUNDS = 4 * SPREAD
"""Each of both has every head start, twice."""


class Stadium:
    """Two racers on a journal, and a process beside them that prepares and looks."""

    def __init__(self, track: Track, race: Race) -> None:
        self.track = track
        self.run = race.run
        self.durable = track.durable
        self.drive = Drive(track.app)

    def start(self, endpoint: str, count: int = ROUNDS) -> list[str]:
        """Store executions that are due, each with its number for a key."""
        return [
            self.durable.start(endpoint, values={"key": f"{endpoint}-{number}"})
            for number in range(count)
        ]

    def suspended(self, endpoint: str) -> list[str]:
        """Store executions whose second attempt is due."""
        ids = self.start(endpoint)
        self.run_due()
        self.drive.advance(61)
        return ids

    def failed(self, count: int = ROUNDS) -> list[str]:
        """Store executions that failed."""
        ids = self.start("broken", count)
        self.run_due()
        assert set(self.statuses(ids)) == {"failed"}
        self.calls()
        return ids

    def run_due(self) -> None:
        """Have both racers replay what is due, and count its calls."""
        self.run(("run_due", [()]), ("run_due", [()]))

    def finish(self) -> None:
        """Let all come to their end, past every time that they may wait for."""
        for _ in range(3):
            self.run_due()
            self.drive.advance(61)

    def infos(self, ids: cabc.Iterable[str]) -> list[ExecutionInfo]:
        """Read executions."""
        return [self.durable.get(one) for one in ids]

    def statuses(self, ids: cabc.Iterable[str]) -> list[str]:
        """Read how executions are."""
        return [info.status for info in self.infos(ids)]

    def results(self, ids: cabc.Iterable[str]) -> list[t.Any]:
        """Read the first item of each execution's answer."""
        found = [self.drive.state.store.response(one) for one in ids]
        return [one and json.loads(one.body or b"null")[0] for one in found]

    def calls(self) -> collections.Counter[str]:
        """Count what was called since the last look, by execution and name."""
        return collections.Counter(self.track.calls())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stadium(
    request: pytest.FixtureRequest,
    postgres_server: servers.Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> cabc.Iterator[Stadium]:
    """Set up both racers once for all races on a database."""
    folder = tmp_path_factory.mktemp("races")

    if request.param == "sqlite":
        with stadium_at(f"sqlite:///{folder}/journal.db", folder) as made:
            yield made
    else:
        with postgres_server.database() as url, stadium_at(url, folder) as made:
            yield made


@contextlib.contextmanager
def stadium_at(url: str, folder: pathlib.Path) -> cabc.Iterator[Stadium]:
    """Set up both racers at a database."""
    track = Track(url, folder, lambda: None)

    with track.app.app_context(), Race(url, folder) as race:
        track.durable.executions()
        yield Stadium(track, race)

    track.app.extensions["durable"].close()


@pytest.fixture(autouse=True)
def empty(stadium: Stadium) -> None:
    """Begin each race without what others left."""

    def clear(connection: sa.Connection) -> None:
        for table in (executions, steps, events):
            connection.execute(table.delete())

    stadium.drive.state.store.database.run(clear)
    stadium.calls()


# Events


def test_no_wake_up_is_lost(stadium: Stadium) -> None:
    """An event is sent while an execution begins to wait for it."""
    ids = stadium.start("event")
    keys = [f"event-{number}" for number in range(ROUNDS)]
    first = ("replay", [(one, 1) for one in ids])
    stadium.run(first, ("send", [(key,) for key in keys]))
    stadium.run_due()
    assert stadium.results(ids) == keys
    assert {info.attempt for info in stadium.infos(ids)} <= {1, 2}


def test_one_mark_is_one_event(stadium: Stadium) -> None:
    """The same event is sent by two, who hear which of them was first."""
    rounds = [("twice", f"mark-{number}") for number in range(ROUNDS)]
    came = stadium.run(("send", rounds), ("send", rounds))
    assert {sum(pair) for pair in came} == {1}
    count = sa.select(sa.func.count()).where(events.c.topic.contains("twice"))

    with stadium.drive.state.store.database.engine.connect() as connection:
        assert connection.scalar(count) == ROUNDS


# Callbacks


def test_no_callback_is_lost(stadium: Stadium) -> None:
    """It is completed while its execution begins to wait for it."""
    ids = stadium.start("callback")
    data = [(one, number) for number, one in enumerate(ids)]
    came = stadium.run(("replay", [(one, 1) for one in ids]), ("complete", data))
    assert {status for _, status in came} == {204}
    stadium.run_due()
    assert stadium.results(ids) == list(range(ROUNDS))


def test_two_complete_a_callback_with_the_same(stadium: Stadium) -> None:
    """Neither hears of the other."""
    ids = stadium.suspended("callback")
    rounds = [(one, "yes") for one in ids]
    came = stadium.run(("complete", rounds), ("complete", rounds))
    assert set(came) == {(204, 204)}
    stadium.run_due()
    assert set(stadium.results(ids)) == {"yes"}
    assert {info.attempt for info in stadium.infos(ids)} == {2}


def test_two_complete_a_callback_with_different_data(stadium: Stadium) -> None:
    """One is the first, and the other hears so."""
    ids = stadium.suspended("callback")
    sides = [("complete", [(one, word) for one in ids]) for word in ("yes", "no")]
    came = stadium.run(*sides)
    wanted = {(204, 409): "yes", (409, 204): "no"}
    assert set(came) <= set(wanted)
    stadium.run_due()
    assert stadium.results(ids) == [wanted[pair] for pair in came]


def test_a_callback_meets_its_time_out(stadium: Stadium) -> None:
    """Who was told 204 is heard, who was told 410 is not."""
    ids = stadium.suspended("timed")
    rounds = [(one, "in time") for one in ids]
    came = stadium.run(("replay", [(one, 2) for one in ids]), ("complete", rounds))
    wanted = {204: "in time", 410: "late"}
    assert stadium.results(ids) == [wanted[status] for _, status in came]


# Cancel


def test_a_cancel_meets_a_suspension(stadium: Stadium) -> None:
    """No execution sleeps on, and what follows a cancel runs once."""
    ids = stadium.start("sleeper")
    came = stadium.run(
        ("replay", [(one, 1) for one in ids]), ("cancel", [(one,) for one in ids])
    )
    assert {done for _, done in came} == {"done"}
    stadium.run_due()
    assert set(stadium.statuses(ids)) == {"cancelled"}
    calls = stadium.calls()
    assert len(calls) == ROUNDS and set(calls.values()) == {1}


def test_a_cancel_meets_a_completion(stadium: Stadium) -> None:
    """It ends in one way, and only a cancelled one is followed by something."""
    ids = stadium.start("quick")
    came = stadium.run(
        ("replay", [(one, 1) for one in ids]), ("cancel", [(one,) for one in ids])
    )
    stadium.run_due()
    assert set(stadium.statuses(ids)) <= {"completed", "cancelled"}

    # Between its last step and its end an execution can't be stopped any more.
    for info, (_, cancel) in zip(stadium.infos(ids), came, strict=True):
        assert info.status == "completed" or cancel == "done"

    names = collections.Counter(call.partition(" ")[2] for call in stadium.calls())
    assert names["work"] == ROUNDS
    assert names["after cancelled"] == stadium.statuses(ids).count("cancelled")


def test_a_cancel_meets_the_next_attempt(stadium: Stadium) -> None:
    """Either it does not begin, or it ends at its next step."""
    ids = stadium.suspended("steady")
    came = stadium.run(
        ("claim", [(one, 2) for one in ids]), ("cancel", [(one,) for one in ids])
    )
    stadium.finish()
    statuses = stadium.statuses(ids)
    assert set(statuses) <= {"completed", "cancelled"}
    refused = [pair[1] == "refused" for pair in came]
    ended = [status == "completed" for status in statuses]
    # One that was cancelled within its last step completes as well.
    assert all(end or not no for end, no in zip(ended, refused, strict=True))
    assert set(stadium.calls().values()) == {1}


def test_a_cancel_meets_a_childs_end(stadium: Stadium) -> None:
    """Both lock the parent and the child, and neither waits for ever."""
    parents = stadium.start("parent", ROUNDS // 2)
    stadium.run(
        ("cancel", [(one,) for one in parents]), ("run_due", [()] * len(parents))
    )
    stadium.finish()
    found = stadium.durable.executions(limit=1000)
    assert {info.status for info in found} <= {"completed", "cancelled"}
    assert set(stadium.calls().values()) == {1}


def test_a_cancel_meets_a_resume(stadium: Stadium) -> None:
    """Whoever is first: it goes on, or it is cancelled, and never hangs."""
    ids = stadium.failed()
    rounds = [(one,) for one in ids]
    came = stadium.run(("cancel", rounds), ("resume", rounds))
    assert {resumed for _, resumed in came} == {"done"}
    stadium.finish()
    wanted = {"done": "cancelled", "refused": "completed"}
    assert stadium.statuses(ids) == [wanted[cancel] for cancel, _ in came]


# Resume, rerun, start


def test_one_of_two_resumes_is_refused(stadium: Stadium) -> None:
    """The execution goes on once."""
    ids = stadium.failed()
    rounds = [(one,) for one in ids]
    came = stadium.run(("resume", rounds), ("resume", rounds))
    assert {tuple(sorted(pair)) for pair in came} == {("done", "refused")}
    stadium.finish()
    assert set(stadium.statuses(ids)) == {"completed"}
    assert {info.attempt for info in stadium.infos(ids)} == {2}


def test_two_reruns_are_two_executions(stadium: Stadium) -> None:
    """Each of them runs."""
    ids = stadium.start("steady", 1)
    stadium.finish()
    stadium.calls()
    came = stadium.run(("rerun", [(ids[0],)] * 50), ("rerun", [(ids[0],)] * 50))
    made = {one for pair in came for one in pair}
    assert len(made) == 100
    stadium.finish()
    assert set(stadium.statuses(made)) == {"completed"}
    assert len(stadium.calls()) == 200


def test_two_starts_with_one_key_are_one_execution(stadium: Stadium) -> None:
    """Both hear of the same one."""
    rounds = [("steady", f"night-{number}") for number in range(ROUNDS)]
    came = stadium.run(("start", rounds), ("start", rounds))
    assert all(one == other for one, other in came)
    ids = {one for pair in came for one in pair}
    assert len(ids) == ROUNDS
    found = stadium.durable.executions(limit=1000)
    assert {info.id for info in found} == ids


def test_cron_on_two_machines_begins_one_execution(stadium: Stadium) -> None:
    """Two programs start it with one key."""
    command = [sys.executable, "-m", "flask", "--app", "tests.racers", "durable"]
    track = stadium.track
    env = {"RACE_URL": track.url, "RACE_FOLDER": str(track.folder)}
    start = ["start", "steady", "--value", "key=x", "--key", "every night"]
    programs = [
        subprocess.Popen(
            [*command, *start],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = {program.communicate(timeout=30)[0].strip() for program in programs}
    assert [program.returncode for program in programs] == [0, 0]
    assert said == {info.id for info in stadium.durable.executions()}
    assert len(said) == 1


# Purge, sweep


def test_two_purge_beside_what_sleeps(stadium: Stadium) -> None:
    """What has ended is deleted and counted once; what goes on stays."""
    ended = stadium.start("child", 200)
    stadium.run_due()
    live = stadium.start("steady", 20)
    stadium.run_due()
    ((one, other),) = stadium.run(("purge", [()]), ("purge", [()]))
    assert one + other == len(ended)
    assert {info.id for info in stadium.durable.executions(limit=1000)} == set(live)
    stadium.finish()
    assert set(stadium.statuses(live)) == {"completed"}


def test_a_purge_beside_what_runs(stadium: Stadium) -> None:
    """Parents get their children's answers, which are deleted after them only."""
    stadium.start("parent", 40)
    ((_, first),) = stadium.run(("run_due", [()]), ("purge", [(60,)]))
    stadium.finish()
    assert first + stadium.durable.purge(0) == 3 * 40
    calls = stadium.calls()
    assert len(calls) == 3 * 40 and set(calls.values()) == {1}


def test_a_purge_meets_a_resume(stadium: Stadium) -> None:
    """It is deleted, or it goes on; not something in between."""
    for _ in range(20):
        ids = stadium.failed(5)
        purge = ("purge", [()])
        ((resume, _),) = stadium.run(("resume", [(ids[-1],)]), purge)
        left = stadium.durable.executions(status="suspended")
        assert [info.id for info in left] == (ids[-1:] if resume == "done" else [])
        stadium.finish()


def test_a_purge_meets_a_rerun(stadium: Stadium) -> None:
    """There is nothing left to run again, or all of it."""
    for _ in range(20):
        ids = stadium.start("child", 5)
        stadium.run_due()
        purge = ("purge", [()])
        ((made, _),) = stadium.run(("rerun", [(ids[-1],)]), purge)
        left = [info.id for info in stadium.durable.executions(status="pending")]
        assert left == ([] if made == "refused" else [made])
        stadium.finish()


def test_two_sweep_and_each_attempt_runs_once(stadium: Stadium) -> None:
    """With no pause between their looks they meet at almost every execution."""
    ids = stadium.start("steady") + stadium.start("parent", 30)

    for _ in range(4):
        stadium.run(("run_due", [()]), ("run_due", [()]))
        stadium.drive.advance(61)

    assert set(stadium.statuses(ids)) == {"completed"}
    calls = stadium.calls()
    assert len(calls) == 2 * ROUNDS + 3 * 30
    assert set(calls.values()) == {1}
