"""How the journal gets executions and attempts."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .blobs import Rows
from .errors import JournalUnavailable
from .errors import LeaseLostError
from .ids import new_nonce
from .reader import Reader
from .records import Execution
from .records import RequestRecord


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
    ) -> float:
        """Store a new execution whose first attempt is running.

        :param on_failure: whether something follows its failure
        :param deadline: seconds that it has from now on
        :return: the database's time
        :raises JournalUnavailable: with ``unknown`` set if the connection was
            lost so late that the execution may have been stored
        """
        self.check()
        nonce = new_nonce()
        sent = False

        def insert(connection: sa.Connection) -> float:
            nonlocal sent
            sent = True
            rows = self.sql.begin(
                connection,
                id=execution_id,
                endpoint=endpoint,
                owner=owner,
                lease=lease,
                nonce=nonce,
                identity=identity,
                on_failure=int(on_failure),
                deadline=deadline,
                parent_id=None,
                parent_step=None,
                **self._request_values(request),
            )

            return rows[0][0] if rows else self._begun(connection, execution_id, nonce)

        try:
            return self.database.run(insert)
        except JournalUnavailable as error:
            error.unknown = sent
            raise

    def _request_values(self, request: RequestRecord) -> dict[str, t.Any]:
        return {
            "app": self.app,
            "digest": request.digest,
            "request": request.head,
            "secrets": request.secrets,
            "body": request.body,
        }

    def start(
        self,
        execution_id: str,
        endpoint: str,
        request: RequestRecord,
        identity: bytes | None,
        on_failure: bool = False,
        deadline: float | None = None,
        parent: tuple[str, str] | None = None,
    ) -> None:
        """Store a new execution that a dispatcher is to begin.

        :param parent: the execution and the step that begin it; of a second one of
            the same step nothing is stored
        """
        parent_id, parent_step = parent or (None, None)
        self.ask(
            self.sql.start,
            id=execution_id,
            endpoint=endpoint,
            nonce=new_nonce(),
            identity=identity,
            on_failure=int(on_failure),
            deadline=deadline,
            parent_id=parent_id,
            parent_step=parent_step,
            **self._request_values(request),
        )

    def _begun(self, connection: sa.Connection, execution_id: str, nonce: str) -> float:
        """Give the database's time if this very write was there before."""
        if not self._wrote_execution(connection, execution_id, nonce):
            raise LeaseLostError(f"Execution {execution_id} is somebody else's.")

        found = self.sql.execution(connection, execution_id=execution_id)
        return t.cast(float, found[0].now)

    def claim(
        self, execution_id: str, attempt: int, owner: str, lease: float
    ) -> Execution | None:
        """Begin an attempt, if it is due and nobody else began it.

        :param attempt: the new attempt's number
        """
        self.check()
        nonce = new_nonce()
        key = {"execution_id": execution_id}

        def update(connection: sa.Connection) -> Rows:
            rows = self.sql.claim(
                connection,
                attempt=attempt,
                owner=owner,
                lease=lease,
                nonce=nonce,
                **key,
            )

            if not rows and self._wrote(self.sql.nonce(connection, **key), nonce):
                return self.sql.execution(connection, **key)

            return rows

        rows = self.database.run(update)
        return Execution(*rows[0]) if rows else None
