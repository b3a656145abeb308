"""Writes of threads that wait at the same time share a commit.

The first thread that comes writes, with all that waits by then; the others sleep
until their own write is durable. One that comes alone pays for its statements only,
since the connection is kept.
"""

from __future__ import annotations

import collections
import operator
import threading
import typing as t

import sqlalchemy as sa

from .blobs import Rows
from .database import Database
from .database import LOCK_TIMEOUT
from .sql import Bound
from .sql import is_observed

MOST = 64
"""Writes that share a commit at most."""


PATIENCE = LOCK_TIMEOUT
"""Seconds that a thread lets another one write for it."""


class Write:
    """What one thread writes at once, and the rows that it gets."""

    __slots__ = ("bounds", "key", "leads", "rows", "turn")

    def __init__(self, key: str, bounds: tuple[Bound, ...]) -> None:
        self.key = key
        self.bounds = bounds
        self.rows: list[Rows] | None = [[] for _ in bounds]
        self.leads = False
        """Whether its thread is to write now, for itself and others."""
        self.turn: threading.Lock | None = None
        """Held until it is, or another thread has written."""


class Commits:
    """Commits what is whole by itself, and may be asked for once more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: collections.deque[Write] = collections.deque()
        self._busy = False
        """Whether a thread leads."""
        self._closed = False
        self._connection: sa.Connection | None = None
        database.keepers.append(self)

    def write(self, key: str, *bounds: Bound) -> list[Rows] | None:
        """Commit statements at once, and give the rows of each.

        Where that can't be done, as when the database is away, there are no rows: the
        caller does it once more by :meth:`.Database.run`, which waits.

        :param key: the execution that is written to
        :return: nothing if it is unknown whether it was committed
        """
        write = Write(key, bounds)

        try:
            self._take_part(write)
        except BaseException:
            self._leave(write)
            raise

        return write.rows

    def _take_part(self, write: Write) -> None:
        with self._lock:
            if self._closed:
                return

            if self._busy:
                write.turn = threading.Lock()
                write.turn.acquire()
                self._waiting.append(write)
            else:
                self._busy = write.leads = True

        if write.turn is not None and not write.turn.acquire(timeout=PATIENCE):
            self._give_up(write)

        if write.leads:
            self._lead(write)

    def _give_up(self, write: Write) -> None:
        """Leave a thread alone that writes for too long, as to a stopped process."""
        with self._lock:
            if write in self._waiting:
                self._waiting.remove(write)
            elif not write.leads:
                write.rows = None

    def _leave(self, write: Write) -> None:
        """Do without a thread that was thrown out while it waited."""
        with self._lock:
            if write in self._waiting:
                self._waiting.remove(write)

        self._pass_on(write)

    def _lead(self, mine: Write) -> None:
        """Write what waits by now, and have another thread go on."""
        batch = [mine]

        try:
            with self._lock:
                while self._waiting and len(batch) < MOST:
                    batch.append(self._waiting.popleft())

            self._commit(batch)
        finally:
            for write in batch:
                if write is not mine and write.turn is not None:
                    write.turn.release()

            self._pass_on(mine)

    def _pass_on(self, write: Write) -> None:
        """Make the next one lead, if this one does."""
        with self._lock:
            if not write.leads:
                return

            write.leads = False
            self._busy = bool(self._waiting)

            if self._busy:
                following = self._waiting.popleft()
                following.leads = True
                assert following.turn is not None
                following.turn.release()
            elif self._closed:
                self._disconnect()

    def _commit(self, batch: list[Write]) -> None:
        """Commit a batch and give each write its rows."""
        if len(batch) > 1:
            # As in all transactions: two of them never wait for each other.
            batch.sort(key=operator.attrgetter("key"))

        connection = self._connect()

        if connection is None:
            return

        found: list[list[Rows]] | None = None

        try:
            found = self._run(connection, [write.bounds for write in batch])
        except BaseException as error:
            self._database.invalidate(connection, error)

            if not isinstance(error, self._database.errors):
                raise
        finally:
            for number, write in enumerate(batch):
                write.rows = None if found is None else found[number]

            if found is None:
                self._disconnect()

    def _connect(self) -> sa.Connection | None:
        if self._connection is None:
            try:
                self._connection = self._database.engine.connect()
            except self._database.errors:
                return None

        return self._connection

    def _run(
        self, connection: sa.Connection, batch: list[tuple[Bound, ...]]
    ) -> list[list[Rows]]:
        if len(batch) == 1 and len(batch[0]) == 1:
            with self._database.alone():
                return [[batch[0][0].run(connection)]]

        driver: t.Any = connection.connection.dbapi_connection

        if is_observed(connection.engine) or not hasattr(driver, "pipeline"):
            with self._database.transaction(connection):
                return [[bound.run(connection) for bound in each] for each in batch]

        # All go out at once; PostgreSQL commits at the end of a pipeline.
        with driver.pipeline():
            sent = [[(bound, bound.execute(driver)) for bound in x] for x in batch]

        return [[bound.rows(cursor) for bound, cursor in each] for each in sent]

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None

        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection, now or after the write under way."""
        with self._lock:
            self._closed = True

            if not self._busy:
                self._disconnect()

    def forget(self) -> None:
        """Leave the connection to the parent, after a fork."""
        _of_parents.append(self._connection)
        self._connection = None


_of_parents: list[sa.Connection | None] = []
"""Kept, since a connection that is collected says good-bye to its server."""
