"""What the journal says when all is over."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import json

import sqlalchemy as sa

from flask_durable.codec import Codec
from flask_durable.records import ENDED
from flask_durable.records import Failure
from flask_durable.tables import executions
from flask_durable.tables import steps


@dataclasses.dataclass(frozen=True)
class Step:
    """A line of the journal."""

    id: str
    kind: str
    status: str
    tries: int
    nonce: str | None
    """What the step returned, or the message of its error."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """An execution, its response and its steps."""

    id: str
    shape: str
    order: str
    status: str
    attempt: int
    created_at: float
    finished_at: float | None
    error: str
    """Type and message of the error that ended it."""
    code: int
    """Status code of the stored response."""
    body: bytes | None
    steps: dict[str, Step]

    @property
    def ended(self) -> bool:
        """Tell whether nothing follows."""
        return self.status in ENDED


class Journal:
    """The journal of a run, seen from outside."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

    def unfinished(self) -> int:
        """Count the executions that have not ended."""
        query = sa.select(sa.func.count()).where(executions.c.status.not_in(ENDED))

        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def executions(self) -> list[Execution]:
        """Read all executions, the oldest first."""
        with self._engine.connect() as connection:
            found: dict[str, dict[str, Step]] = {}

            for row in connection.execute(sa.select(steps)):
                found.setdefault(row.execution_id, {})[row.id] = _step(row)

            rows = connection.execute(sa.select(executions).order_by(executions.c.id))
            return [_execution(row, found.get(row.id, {})) for row in rows]


def _step(row: sa.Row[tuple[object, ...]]) -> Step:
    nonce = None

    # One that succeeded in the end keeps how it failed before.
    if row.error_type is not None:
        nonce = Failure.decode(row.error).message
    elif row.output is not None:
        nonce = Codec().decode(row.output)

    return Step(row.id, row.kind, row.status, row.tries, nonce)


def _execution(
    row: sa.Row[tuple[object, ...]], found: cabc.Mapping[str, Step]
) -> Execution:
    failure = None if row.error is None else Failure.decode(row.error)
    head = json.loads(row.response) if row.response else {"status": "0"}
    return Execution(
        id=row.id,
        shape=row.endpoint,
        order=json.loads(row.body)["order"],
        status=row.status,
        attempt=row.attempt,
        created_at=row.created_at,
        finished_at=row.finished_at,
        error=f"{failure.type}: {failure.message}" if failure else "",
        code=int(head["status"].split()[0]),
        body=row.response_body,
        steps=dict(found),
    )
