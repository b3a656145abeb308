"""Owners that claim, record, suspend, lose leases and finish in any order."""

from __future__ import annotations

import pathlib
import tempfile
import typing as t

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_durable.database import Database
from flask_durable.errors import LeaseLostError
from flask_durable.ids import new_id
from flask_durable.records import Execution
from flask_durable.records import RequestRecord
from flask_durable.records import StepRecord
from flask_durable.records import StepStatus
from flask_durable.store import Store
from flask_durable.upkeep import Upkeep

OWNERS = ("ada:1:1", "bob:2:2", "cyd:3:3")
LEASE = 60.0

owners = st.sampled_from(OWNERS)
steps = st.sampled_from(["a", "b"])


class Right(t.NamedTuple):
    """What an owner believes: that this attempt is its own."""

    owner: str
    attempt: int


class StoreMachine(RuleBasedStateMachine):
    """A model of one execution, beside the journal's own."""

    rights = Bundle[Right]("rights")

    @initialize(target=rights, owner=owners)
    def begin(self, owner: str) -> Right:
        """Store the execution, with its first attempt running."""
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        path = pathlib.Path(self.folder.name) / "journal.db"
        self.store = Store(Database.open(f"sqlite:///{path}"))
        self.upkeep = Upkeep(self.store)
        self.id = new_id()
        request = RequestRecord(b"{}", b"[]", b"", "digest")
        self.store.begin(self.id, "view", owner, LEASE, request, None)
        self.running: Right | None = Right(owner, 1)
        self.attempt = 1
        self.ended: str | None = None
        self.outcomes: dict[str, StepRecord] = {}
        return self.running

    @rule(target=rights, owner=owners, back=st.integers(0, 2))
    def claim(self, owner: str, back: int) -> Right:
        """Claim the next attempt, or one that an old ticket was for."""
        wanted = self.attempt + 1 - back
        claimed = self.store.claim(self.id, wanted, owner, LEASE)
        allowed = back == 0 and self.running is None and self.ended is None
        assert (claimed is not None) == allowed

        if allowed:
            self.attempt = wanted
            self.running = Right(owner, wanted)

        return Right(owner, wanted)

    @rule(right=rights, step=steps, status=st.sampled_from(["completed", "failed"]))
    def record(self, right: Right, step: str, status: StepStatus) -> None:
        """Commit a step's outcome, perhaps as one who lost the lease."""
        line = self._line(right, step, status)
        # An attempt records a step twice only if it is a zombie's twin.
        allowed = self._is_running(right) and step not in self.outcomes
        self._write(allowed, lambda: self.store.record(self.id, right.attempt, line))

        if allowed:
            self.outcomes[step] = line

    @rule(right=rights, step=steps)
    def mark_running(self, right: Right, step: str) -> None:
        """Show a slow step; that never changes an outcome nor raises."""
        Upkeep(self.store).mark_running(
            self.id, right.attempt, self._line(right, step, "running")
        )

    @rule(right=rights, step=steps)
    def suspend(self, right: Right, step: str) -> None:
        """End an attempt with a step's mark."""
        mark = self._line(right, step, "retrying")
        allowed = self._is_running(right)
        self._write(
            allowed, lambda: self.store.suspend(self.id, right.attempt, 1.0, mark)
        )

        if allowed:
            self.running = None

    @rule(right=rights, status=st.sampled_from(["completed", "failed"]))
    def finish(self, right: Right, status: t.Literal["completed", "failed"]) -> None:
        """End the execution, perhaps as one who lost the lease."""
        allowed = self._is_running(right)
        self._write(
            allowed, lambda: self.store.finish(self.id, right.attempt, status, None)
        )

        if allowed:
            self.running, self.ended = None, status

    @rule(owner=owners)
    def lose_leases(self, owner: str) -> None:
        """Find an owner dead, and release what it held."""
        held = self.upkeep.held(owner)
        assert len(held) == (self.running is not None and self.running.owner == owner)

        for one in held:
            assert self.upkeep.release(one, owner, one.crashes + 1, 0.0)
            self.running = None

    @rule(owner=owners)
    def renew(self, owner: str) -> None:
        """Renew as the heartbeat does; only the running attempt's owner can."""
        alive = self.upkeep.renew(owner, [self.id], LEASE)
        mine = self.running is not None and self.running.owner == owner
        assert alive == ({self.id: self.attempt} if mine else {})

    @rule()
    def sweep(self) -> None:
        """Find what is due: a suspended execution, never a live or ended one."""
        found = self.upkeep.sweep(10, 0.0, 1.0)
        due = self.running is None and self.ended is None
        assert [one.id for one in found] == ([self.id] if due else [])

    @invariant()
    def at_most_one_attempt_runs(self) -> None:
        """The row says what the model says."""
        execution = self._execution()
        wanted = "running" if self.running else self.ended or "suspended"
        assert (execution.status, execution.attempt) == (wanted, self.attempt)

    @invariant()
    def outcomes_stay(self) -> None:
        """A step has one outcome, and it never changes."""
        lines = {line.id: line for line in self.store.journal(self.id)}
        found = {name: line for name, line in lines.items() if line.is_outcome}
        assert found.keys() == self.outcomes.keys()

        for name, line in found.items():
            first = self.outcomes[name]
            assert (line.status, line.output) == (first.status, first.output)
            assert line.attempt == first.attempt

    @invariant()
    def secrets_end_with_the_execution(self) -> None:
        """Credentials are kept just as long as a replay needs them."""
        assert (self.store.outgoing(self.id).request.secrets is None) == bool(
            self.ended
        )

    def teardown(self) -> None:
        """Remove the journal."""
        if hasattr(self, "store"):
            self.store.database.close()
            self.folder.cleanup()

    def _execution(self) -> Execution:
        return self.store.execution(self.id)

    def _is_running(self, right: Right) -> bool:
        return self.running is not None and self.running.attempt == right.attempt

    def _line(self, right: Right, step: str, status: StepStatus) -> StepRecord:
        return StepRecord(
            id=step,
            kind="run",
            status=status,
            tries=1,
            position=0,
            attempt=right.attempt,
            started_at=1.0,
            output=f"{right}".encode(),
        )

    def _write(self, allowed: bool, write: t.Callable[[], object]) -> None:
        try:
            write()
        except LeaseLostError:
            assert not allowed
        else:
            assert allowed


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
