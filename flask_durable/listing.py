"""What the console reads: pages of executions, one of them, counts over time.

Nothing here gets slower as executions accumulate. A page follows the primary key, which
sorts by time; what no index finds is looked for among the next ``SCAN`` only.
"""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import typing as t

from . import listing_sql
from .errors import ExecutionNotFound
from .ids import first_id
from .listing_sql import SCAN
from .records import Execution
from .records import StepRecord
from .statements import EXECUTION_COLUMNS
from .statements import Select
from .statements import STEP_COLUMNS
from .store import Store
from .tables import executions as e

LAST = "g"
"""Sorts after every id, in each collation: they are hexadecimal."""


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which executions to list; times in seconds since the epoch."""

    status: str | None = None
    endpoint: str | None = None
    since: float | None = None
    until: float | None = None
    id: str = ""
    """What the id begins with."""
    before: str | None = None
    """Only those before this one, for the next page."""

    def bounds(self) -> tuple[str, str]:
        """Return where the range of ids begins, and before which id it ends."""
        low = [self.id, "" if self.since is None else first_id(self.since)]
        high = [self.id + LAST if self.id else LAST, self.before or LAST]

        if self.until is not None:
            high.append(first_id(self.until))

        return max(low), min(high)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the list."""

    execution: Execution
    response: bytes | None
    """The head of its final response."""


@dataclasses.dataclass(frozen=True)
class Page:
    """Some executions, the newest first."""

    rows: list[Row]
    next: str | None
    """The execution before which the next page begins, if there may be one."""
    scanned: bool = False
    """Whether there are older ones that were not looked through."""


@dataclasses.dataclass(frozen=True)
class Head:
    """An execution as its own page shows it."""

    execution: Execution
    history: str | None


@dataclasses.dataclass(frozen=True)
class Child:
    """An execution that a step began."""

    id: str
    step: str
    status: str


@dataclasses.dataclass(frozen=True)
class Count:
    """Executions of one endpoint and status that began in the same stretch of time."""

    endpoint: str
    status: str
    bucket: int
    count: int
    seconds: float
    """How long those that ended took together."""
    longest: float


class Listing:
    """Reads for the console; it never changes anything."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prepare = store.database.prepare

    def page(self, filters: Filters, limit: int) -> Page:
        """Read the newest executions that fit, and where the next page begins."""
        low, high = filters.bounds()
        shape = (filters.status, filters.endpoint is not None)
        scope = {"app": self._store.app, "low": low, "high": high}
        given = {"endpoint": filters.endpoint} if shape[1] else {}
        statement = self._prepare(listing_sql.page, *shape)
        found = self._store.ask(statement, **scope, **given, limit=limit + 1)
        size = len(EXECUTION_COLUMNS)
        rows = [Row(Execution(*row[:size]), row[size]) for row in found]

        if len(rows) > limit:
            return Page(rows[:limit], rows[limit - 1].execution.id)

        last = self._last_scanned(shape, scope)
        return Page(rows, last, scanned=last is not None)

    def _last_scanned(
        self, shape: tuple[str | None, bool], scope: dict[str, t.Any]
    ) -> str | None:
        """Return the last execution that was looked at, if older ones were not."""
        if listing_sql.is_indexed(*shape):
            return None

        statement = self._prepare(listing_sql.scan, shape[0])
        ((last, count),) = self._store.ask(statement, **scope)
        return last if count >= SCAN else None

    def head(self, execution_id: str) -> Head:
        """Read an execution of this app.

        :raises ExecutionNotFound: if there is none with this id
        """
        *row, history = self._one(execution_id, listing_sql.head)
        return Head(Execution(*row), history)

    def request(self, execution_id: str) -> tuple[bytes, bytes | None, bytes]:
        """Read the captured request: its head, its secrets and its body."""
        columns = (e.c.request, e.c.secrets, e.c.body)
        head, secrets, body = self._one(execution_id, listing_sql.one, *columns)
        return head, secrets, body

    def _one(
        self, execution_id: str, make: cabc.Callable[..., Select], *args: t.Any
    ) -> t.Any:
        statement = self._prepare(make, *args)
        values = {"app": self._store.app, "execution_id": execution_id}
        rows = self._store.ask(statement, **values)

        if not rows:
            raise ExecutionNotFound(f"There is no execution {execution_id}.")

        return rows[0]

    def steps(self, execution_id: str) -> list[StepRecord]:
        """Read the newest steps without errors and outputs, oldest first."""
        statement = self._prepare(listing_sql.steps)
        rows = self._store.ask(statement, execution_id=execution_id)
        return [StepRecord(*row) for row in reversed(rows)]

    def failures(self, execution_id: str) -> dict[str, bytes]:
        """Read the errors of the newest steps that failed at least once."""
        statement = self._prepare(listing_sql.failures)
        rows = self._store.ask(statement, execution_id=execution_id)
        return {row.id: row.error for row in rows}

    def step(
        self, execution_id: str, name: str
    ) -> tuple[StepRecord, bytes | None, bytes | None]:
        """Read a step, its error and its output.

        :raises ExecutionNotFound: if the journal does not have it
        """
        statement = self._prepare(listing_sql.step)
        rows = self._store.ask(statement, execution_id=execution_id, id=name)

        for row in rows:
            size = len(STEP_COLUMNS)
            return StepRecord(*row[:size]), row[size], row[size + 1]

        raise ExecutionNotFound(f'Execution {execution_id} has no step "{name}".')

    def children(self, execution_id: str) -> list[Child]:
        """Read which executions this one began."""
        statement = self._prepare(listing_sql.children)
        rows = self._store.ask(statement, execution_id=execution_id)
        return [Child(*row) for row in rows]

    def counts(self, since: float, width: float) -> tuple[list[Count], bool]:
        """Count executions by endpoint, status and stretch of time.

        :param width: how many seconds each stretch has
        :return: the counts, and whether these are only the newest executions
        """
        statement = self._prepare(listing_sql.counts)
        rows = self._store.ask(
            statement,
            app=self._store.app,
            low=first_id(since),
            begin=int(since * 1000),
            width=int(width * 1000),
        )
        counts = [Count(*row) for row in rows]
        return counts, sum(count.count for count in counts) >= SCAN
