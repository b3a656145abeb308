"""Group commit: threads that write at the same time share a commit.

The first thread writes for all that wait by then; the others sleep until their own
write is committed. A thread that comes alone pays only for its own statements, since
the connection is kept.
"""

from __future__ import annotations

import collections
import operator
import threading
import typing as t

import sqlalchemy as sa

from .batches import can_join
from .batches import run_joined
from .batches import run_pipelined
from .blobs import Rows
from .database import Database
from .engines import LOCK_TIMEOUT
from .libpq import libpq_of
from .sql import Bound
from .sql import is_observed

MOST = 64
"""Most writes that share a commit."""

LANES = 8
"""Most commits under way at a time; a SQLite file allows one."""

TROUBLED = 1.0
"""Seconds after an outage during which no new connection is opened here."""

PATIENCE = LOCK_TIMEOUT
"""Seconds that a thread waits for another one to write for it."""


class Write:
    """What one thread writes at once, and the rows that it gets."""

    __slots__ = ("bounds", "has_file", "key", "lane", "rows", "turn")

    def __init__(self, key: str, bounds: tuple[Bound, ...]) -> None:
        self.key = key
        self.bounds = bounds
        self.rows: list[Rows] | None = []
        self.lane: Lane | None = None
        """The lane by which its thread is to write now, for itself and others."""
        self.has_file: list[bool] = []
        """Whether its thread holds the file's lock, as :class:`.FileLock` notes it."""
        self.turn: threading.Lock | None = None
        """Held until the write gets a lane, or another thread has written it."""


class Lane:
    """A connection that is kept, and that one thread at a time uses to write."""

    __slots__ = ("connection", "link")

    def __init__(self) -> None:
        self.connection: sa.Connection | None = None
        self.link: t.Any = None
        """A cursor of the driver, or libpq: a new one each time would cost too much."""

    def connect(self, connection: sa.Connection) -> None:
        """Take a connection to keep."""
        self.connection = connection
        self.link = libpq_of(connection) or connection.connection.cursor()

    def disconnect(self) -> None:
        """Return the connection to the pool."""
        connection, self.connection = self.connection, None
        self.link = None

        if connection is not None:
            connection.close()


class Commits:
    """Commits writes, each of which is complete in itself and safe to repeat."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: collections.deque[Write] = collections.deque()
        self._lanes = [Lane() for _ in range(_most_lanes(database))]
        self._free = list(self._lanes)
        self._pipelines = _has_pipelines(database)
        self._closed = False
        database.keepers.append(self)

    def write(self, key: str, *bounds: Bound) -> list[Rows] | None:
        """Commit statements at once, and return the rows of each.

        If that fails, say because the database is away, the caller does it once more
        by :meth:`.Database.run`, which waits.

        :param key: the execution that is written to, or what else is locked
        :return: an empty list if nothing was sent, ``None`` if it is unknown whether it
            was committed
        """
        write = Write(key, bounds)

        try:
            self._queue_up(write)

            if write.turn is not None and not write.turn.acquire(timeout=PATIENCE):
                self._give_up(write)

            if write.lane is not None:
                self._lead(write, write.lane)
        except BaseException:
            self._leave(write)
            raise

        return write.rows

    def _queue_up(self, write: Write) -> None:
        with self._lock:
            # A small pool has no connection to keep.
            if self._closed or not self._lanes:
                return

            # In this order, since a signal handler may raise after any call.
            if self._free:
                write.lane = self._free[-1]
                self._free.pop()
            else:
                write.turn = threading.Lock()
                write.turn.acquire()
                self._waiting.append(write)

    def _give_up(self, write: Write) -> None:
        """Stop waiting for the thread that writes for this one: it may hang."""
        with self._lock:
            if write in self._waiting:
                self._waiting.remove(write)
            elif write.lane is None:
                write.rows = None

    def _leave(self, write: Write) -> None:
        """Clean up after an exception that came while the thread waited or wrote."""
        with self._lock:
            if write in self._waiting:
                self._waiting.remove(write)

        if self._database.lock is not None:
            self._database.lock.release(write.has_file)

        self._pass_on(write)

    def _lead(self, mine: Write, lane: Lane) -> None:
        """Write all that waits by now, then have another thread go on."""
        batch = [mine]
        lock = self._database.lock

        try:
            # Like Database.alone, whose ``with`` would make every step cost more.
            if lock is not None:
                lock.acquire(LOCK_TIMEOUT, mine.has_file)

            # Others may have joined while this one waited for the file.
            if self._waiting:
                self._gather(batch)

            self._commit(lane, batch)
        finally:
            if lock is not None:
                lock.release(mine.has_file)

            for write in batch:
                if write is not mine and write.turn is not None:
                    write.turn.release()

            self._pass_on(mine)

    def _gather(self, batch: list[Write]) -> None:
        with self._lock:
            while self._waiting and len(batch) < MOST:
                batch.append(self._waiting.popleft())

    def _pass_on(self, write: Write) -> None:
        """Pass the lane, if this write has one, to the next write that waits."""
        with self._lock:
            lane, write.lane = write.lane, None

            if lane is None:
                return

            if not self._waiting:
                self._free.append(lane)

                if self._closed:
                    lane.disconnect()

                return

            # In this order, as above.
            following = self._waiting[0]
            following.lane = lane
            assert following.turn is not None
            del self._waiting[0]
            following.turn.release()

    def _commit(self, lane: Lane, batch: list[Write]) -> None:
        """Commit a batch and give each write its rows."""
        if len(batch) > 1:
            # The order of all transactions, so that no two of them deadlock.
            batch.sort(key=operator.attrgetter("key"))

        connection = lane.connection

        if connection is None or self._database.broken_at is not None:
            connection = self._connect(lane)

            if connection is None:
                return

        found: list[list[Rows]] | None = None

        try:
            found = self._run(lane, connection, batch)
        except BaseException as error:
            self._database.invalidate(connection, error)
            self._database.note_outage(error)

            if not self._is_settled_alone(error, batch):
                raise
        finally:
            for number, write in enumerate(batch):
                write.rows = None if found is None else found[number]

            if found is None:
                lane.disconnect()

    def _is_settled_alone(self, error: BaseException, batch: list[Write]) -> bool:
        """Tell whether each thread is to try by itself, and so meets its own error.

        A value that the driver can't take, say, must not fail the others' writes.
        """
        shared = len(batch) > 1 and isinstance(error, Exception)
        return shared or isinstance(error, self._database.errors)

    def _connect(self, lane: Lane) -> sa.Connection | None:
        if lane.connection is not None and self._database.is_stale(lane.connection):
            lane.disconnect()

        if lane.connection is None and self._database.steady_for(TROUBLED, 0.0):
            try:
                lane.connect(self._database.connect())
            except self._database.errors as error:
                self._database.note_outage(error)

        return lane.connection

    def _run(
        self, lane: Lane, connection: sa.Connection, batch: list[Write]
    ) -> list[list[Rows]]:
        link = lane.link

        if len(batch) == 1 and len(batch[0].bounds) == 1:
            return [[batch[0].bounds[0].run(connection, link)]]

        bounds = [write.bounds for write in batch]

        if is_observed(connection.engine) or not self._pipelines:
            with self._database.together(connection):
                return [
                    [bound.run(connection, link) for bound in one] for one in bounds
                ]

        if all(map(can_join, bounds)):
            return run_joined(connection, link, bounds)

        return run_pipelined(connection, bounds)

    def close(self) -> None:
        """Close the connections, now or after the writes under way."""
        with self._lock:
            self._closed = True

            for lane in self._free:
                lane.disconnect()

    def rest(self) -> None:
        """Close the connections until the next write; called while nobody writes."""
        with self._lock:
            for lane in self._lanes:
                lane.disconnect()

    def forget(self) -> None:
        """Leave the connections to the parent, after a fork."""
        _of_parents.extend(lane.connection for lane in self._lanes)


def _most_lanes(database: Database) -> int:
    """Return how many connections may be kept: at most half of those in the pool."""
    if database.sqlite:
        return 1

    pool: t.Any = database.engine.pool

    if isinstance(pool, sa.pool.NullPool):
        return LANES

    if not isinstance(pool, sa.pool.QueuePool):
        return 0

    overflow = getattr(pool, "_max_overflow", 0)
    return LANES if overflow < 0 else min(LANES, (pool.size() + overflow) // 2)


def _has_pipelines(database: Database) -> bool:
    """Tell whether the driver has pipelines; psycopg needs libpq 14 for them."""
    driver: t.Any = database.engine.dialect.loaded_dbapi
    return not database.sqlite and driver.Pipeline.is_supported()


_of_parents: list[sa.Connection | None] = []
"""The parent's connections after a fork. If they were garbage-collected, that would
end them on the server, under the parent."""
