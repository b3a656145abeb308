"""Attempts taken from owners that can't go on."""

from __future__ import annotations

import collections.abc as cabc

import pytest

from flask_durable.database import Database
from flask_durable.ids import new_id
from flask_durable.records import Failure
from flask_durable.records import RequestRecord
from flask_durable.records import StepRecord
from flask_durable.recovery import backoff
from flask_durable.recovery import MAX_BACKOFF
from flask_durable.recovery import MAX_CRASHES
from flask_durable.recovery import release
from flask_durable.recovery import release_all
from flask_durable.store import Store
from flask_durable.tables import executions
from flask_durable.upkeep import Upkeep

ADA = "ada:1:1"
BOB = "bob:2:2"


class Journal:
    """A journal whose executions lose their process again and again."""

    def __init__(self, url: str) -> None:
        self.store = Store(Database.open(url))
        self.upkeep = Upkeep(self.store)

    def begin(self, owner: str = ADA) -> str:
        """Begin an execution and give its id."""
        execution_id = new_id()
        request = RequestRecord(b"{}", None, b"", "digest")
        self.store.begin(execution_id, "view", owner, 60.0, request, None)
        return execution_id

    def crash(self, execution_id: str) -> int:
        """Have the running attempt lose its process, and give the count."""
        release_all(self.upkeep, ADA)
        return self.store.execution(execution_id).crashes

    def go_on(self, execution_id: str) -> int:
        """Begin the next attempt, however long it should wait."""
        now = {"ready_at": 0.0}
        self.store.database.run(lambda c: c.execute(executions.update().values(now)))
        attempt = self.store.execution(execution_id).attempt + 1
        assert self.store.claim(execution_id, attempt, ADA, 60.0) is not None
        return attempt

    def waits(self, execution_id: str) -> float:
        """Tell for how long an execution waits."""
        found = self.store.execution(execution_id)
        assert found.ready_at is not None
        return found.ready_at - found.now


@pytest.fixture
def journal(sqlite_url: str) -> cabc.Iterator[Journal]:
    """Open a journal."""
    journal = Journal(sqlite_url)
    yield journal
    journal.store.database.close()


@pytest.mark.parametrize(
    ("times", "seconds"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (7, 32), (8, 60), (9, 60), (900, 60)],
)
def test_the_back_off(times: int, seconds: float) -> None:
    """None after the first, then doubled up to a minute."""
    assert backoff(times) == seconds
    assert MAX_BACKOFF == 60


def test_all_that_an_owner_ran_is_released(journal: Journal) -> None:
    """And nothing of others."""
    ids = [journal.begin() for _ in range(3)]
    other = journal.begin(BOB)
    assert release_all(journal.upkeep, ADA) == 3
    found = {journal.store.execution(each).status for each in ids}
    assert found == {"suspended"}
    assert journal.store.execution(other).status == "running"
    assert release_all(journal.upkeep, ADA) == 0


def test_only_some_may_be_released(journal: Journal) -> None:
    """A heartbeat hands back what it abandoned, and runs the rest."""
    one, two = journal.begin(), journal.begin()
    (held,) = [each for each in journal.upkeep.held(ADA) if each.id == one]
    assert release(journal.upkeep, held, ADA)
    assert journal.store.execution(one).status == "suspended"
    assert journal.store.execution(two).status == "running"


def test_an_end_is_no_crash(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """A process that stops hands back its attempts, to be run at once."""
    execution_id = journal.begin()
    (held,) = journal.upkeep.held(ADA)
    release(journal.upkeep, held, ADA, crashed=False)
    assert journal.store.execution(execution_id).crashes == 0
    assert journal.waits(execution_id) <= 0
    assert caplog.text == ""


def test_a_crash_is_counted_and_logged(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """With execution and attempt; the first one is gone on from at once."""
    execution_id = journal.begin()
    assert journal.crash(execution_id) == 1
    assert journal.waits(execution_id) <= 0
    assert f"Attempt 1 of execution {execution_id} lost its process" in caplog.text


def test_crashes_in_a_row_back_off(journal: Journal) -> None:
    """Each wait is longer."""
    execution_id = journal.begin()

    for times in range(1, 5):
        assert journal.crash(execution_id) == times
        assert journal.waits(execution_id) == pytest.approx(backoff(times), abs=0.5)
        journal.go_on(execution_id)


def test_an_outcome_begins_the_count_anew(journal: Journal) -> None:
    """The attempt came further than the one before."""
    execution_id = journal.begin()
    assert journal.crash(execution_id) == 1
    attempt = journal.go_on(execution_id)
    line = StepRecord("a", "run", "completed", 1, 0, attempt, 1.0)
    journal.store.record(execution_id, attempt, line)
    assert journal.crash(execution_id) == 0
    journal.go_on(execution_id)
    assert journal.crash(execution_id) == 1


def test_a_suspension_begins_the_count_anew(journal: Journal) -> None:
    """The attempt ended well."""
    execution_id = journal.begin()
    journal.crash(execution_id)
    attempt = journal.go_on(execution_id)
    journal.store.suspend(execution_id, attempt, 0.0)
    journal.go_on(execution_id)
    assert journal.crash(execution_id) == 1


def test_an_orderly_end_keeps_the_count(journal: Journal) -> None:
    """A restart between crashes does not help an execution that kills."""
    execution_id = journal.begin()
    journal.crash(execution_id)
    journal.go_on(execution_id)
    (held,) = journal.upkeep.held(ADA)
    release(journal.upkeep, held, ADA, crashed=False)
    assert journal.store.execution(execution_id).crashes == 1


def test_the_tenth_crash_in_a_row_fails_the_execution(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """With a reason that says what happened."""
    execution_id = journal.begin()

    for _ in range(MAX_CRASHES - 1):
        journal.crash(execution_id)
        journal.go_on(execution_id)

    assert journal.crash(execution_id) == MAX_CRASHES == 10
    found = journal.store.execution(execution_id)
    failure = Failure.decode(found.error or b"")
    assert (found.status, failure.type) == (
        "failed",
        "flask_durable.errors.AttemptCrashed",
    )
    assert "died 10 times in a row" in failure.message
    assert "last in attempt 10" in failure.message
    assert f"Execution {execution_id} failed" in caplog.text


def test_progress_in_the_tenth_attempt_saves_the_execution(journal: Journal) -> None:
    """It would have been given up."""
    execution_id = journal.begin()
    attempt = 1

    for _ in range(MAX_CRASHES - 1):
        journal.crash(execution_id)
        attempt = journal.go_on(execution_id)

    line = StepRecord("a", "run", "failed", 1, 0, attempt, 1.0)
    journal.store.record(execution_id, attempt, line)
    assert journal.crash(execution_id) == 0
    assert journal.store.execution(execution_id).status == "suspended"
