"""Steps that commit together with what their function writes."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import sqlalchemy as sa

from .outcomes import replay_outcome
from .outcomes import stored_value
from .records import StepRecord
from .retry import Retry
from .scope import Scope
from .tries import StepTries

Bind = cabc.Callable[[sa.Connection], cabc.Callable[[], t.Any]]
"""Binds a user's function to the connection that it gets."""


def run_transaction(scope: Scope, step_id: str, bind: Bind, retry: Retry) -> t.Any:
    """Return a step's stored outcome, or run it in the transaction that stores it."""
    name, found = scope.enter(step_id, TransactionTries.kind)

    if found is not None and found.is_outcome:
        return replay_outcome(scope, found)

    return TransactionTries(scope, name, found, bind, retry).run()


class TransactionTries(StepTries):
    """Runs a function in the transaction that records its outcome."""

    kind = "transaction"

    def __init__(
        self,
        scope: Scope,
        name: str,
        found: StepRecord | None,
        bind: Bind,
        retry: Retry,
    ) -> None:
        super().__init__(scope, name, found, bind, retry)
        self._bind = bind

    def _work(self) -> t.Any:
        return self.attempt.transact(self._write).output

    def _write(self, connection: sa.Connection) -> StepRecord:
        # Bound anew in each try, to the connection of its transaction.
        self.call = self._bind(connection)
        value = super()._work()
        output, _ = self._encode(value)
        now = self.attempt.now()
        return self._as("completed", finished_at=now, output=output)

    def _completed(self, value: bytes) -> t.Any:
        return stored_value(self.attempt, self.step.id, value)
