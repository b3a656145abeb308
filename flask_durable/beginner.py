"""Begin executions and attempts in the journal."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .blobs import Rows
from .errors import JournalUnavailable
from .errors import KeyTaken
from .errors import LeaseLostError
from .ids import new_nonce
from .reader import Reader
from .records import Execution
from .records import RequestKey
from .records import RequestRecord
from .sql import Statement


class Beginner(Reader):
    """Stores new executions, and begins their attempts."""

    def begin(
        self,
        execution_id: str,
        endpoint: str,
        owner: str,
        lease: float,
        request: RequestRecord,
        identity: bytes | None,
        on_failure: bool = False,
        deadline: float | None = None,
        key: RequestKey | None = None,
    ) -> float:
        """Store a new execution whose first attempt is running.

        :param on_failure: whether a failure handler is to run if it fails
        :param deadline: in how many seconds its time is over
        :param key: its idempotency key, which no other execution may have
        :return: the database's time
        :raises KeyTaken: if another execution has the key
        :raises JournalUnavailable: with ``unknown`` set if the connection was
            lost so late that the execution may have been stored
        """
        values = self._values(
            execution_id, endpoint, request, identity, on_failure, deadline, key
        )
        values |= {"parent_id": None, "parent_step": None}
        now = self._insert(self.sql.begin, key, **values, owner=owner, lease=lease)

        if now is None:
            raise LeaseLostError(f"Execution {execution_id} is begun by somebody else.")

        return now

    def start(
        self,
        execution_id: str,
        endpoint: str,
        request: RequestRecord,
        identity: bytes | None,
        on_failure: bool = False,
        deadline: float | None = None,
        parent: tuple[str, str] | None = None,
        key: RequestKey | None = None,
    ) -> float | None:
        """Store a new execution for a dispatcher to run.

        :param parent: the execution and the step that begin it; a second child of
            the same step is not stored
        :param key: its idempotency key, which no other execution may have
        :return: the database's time, if it was stored
        :raises KeyTaken: if another execution has the key
        """
        values = self._values(
            execution_id, endpoint, request, identity, on_failure, deadline, key
        )
        parent_id, parent_step = parent or (None, None)
        values |= {"parent_id": parent_id, "parent_step": parent_step}
        return self._insert(self.sql.start, key, **values)

    def _values(
        self,
        execution_id: str,
        endpoint: str,
        request: RequestRecord,
        identity: bytes | None,
        on_failure: bool,
        deadline: float | None,
        key: RequestKey | None,
    ) -> dict[str, t.Any]:
        return {
            "id": execution_id,
            "app": self.app,
            "endpoint": endpoint,
            "nonce": new_nonce(),
            "identity": identity,
            "on_failure": int(on_failure),
            "deadline": deadline,
            "digest": request.digest,
            "request": request.head,
            "secrets": request.secrets,
            "body": request.body,
            "idempotency": key and key.digest,
            "fingerprint": key and key.fingerprint,
        }

    def _insert(
        self, statement: Statement, key: RequestKey | None, **values: t.Any
    ) -> float | None:
        """Insert an execution unless it exists; return the database's time."""
        self.check()
        # Nobody else knows the new row yet, but others may compete for its key.
        locked = key.digest if key else values["id"]
        written = self.commits.write(locked, statement.bind(values))
        found = written[0] if written else None

        if found:
            return t.cast(float, found[0][0])

        # It may have been committed: look for it, and write it now if it was not.
        sent = written is None

        def insert(connection: sa.Connection) -> float | None:
            nonlocal sent
            sent = True
            # An empty ``found`` says that the insert above met an existing row.
            rows = found if found is not None else statement(connection, **values)

            while not rows:
                if self._is_there(connection, key, values):
                    mine = self.sql.execution(connection, execution_id=values["id"])
                    return t.cast(float, mine[0].now)

                if key is None:
                    return None

                rows = statement(connection, **values)

            return t.cast(float, rows[0][0])

        try:
            return self.database.run(insert)
        except JournalUnavailable as error:
            error.unknown = sent
            raise

    def _is_there(
        self,
        connection: sa.Connection,
        key: RequestKey | None,
        values: dict[str, t.Any],
    ) -> bool:
        """Tell whether this very write was committed before, and its answer lost.

        :raises KeyTaken: if another execution has the key
        """
        if key is None:
            return self._wrote_execution(connection, values["id"], values["nonce"])

        found = self.sql.same(connection, idempotency=key.digest)

        if found and found[0].id != values["id"]:
            raise KeyTaken(*found[0])

        # If nothing was found, the other one was just deleted, and the key is free.
        return bool(found)

    def claim(
        self, execution_id: str, attempt: int, owner: str, lease: float
    ) -> Execution | None:
        """Begin an attempt, if it is due and nobody else began it.

        :param attempt: the new attempt's number
        """
        self.check()
        key = {"execution_id": execution_id}
        nonce = new_nonce()
        values = key | {
            "attempt": attempt,
            "owner": owner,
            "lease": lease,
            "nonce": nonce,
        }
        written = self.commits.write(execution_id, self.sql.claim.bind(values))

        def update(connection: sa.Connection) -> Rows:
            rows = self.sql.claim(connection, **values)

            if not rows and self._wrote(self.sql.nonce(connection, **key), nonce):
                return self.sql.execution(connection, **key)

            return rows

        rows = (written and written[0]) or self.database.run(update)
        return Execution(*rows[0]) if rows else None
