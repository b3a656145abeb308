"""Stand-ins for parts of the package that tests have fail."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import typing as t

import pytest
import sqlalchemy as sa


@dataclasses.dataclass
class FakeStatement:
    """Stands in for a statement.

    :param make: gives, for values, what is called with a connection
    """

    make: cabc.Callable[[cabc.Mapping[str, t.Any]], cabc.Callable[[t.Any], t.Any]]

    many = None

    def bind(self, values: cabc.Mapping[str, t.Any]) -> FakeBound:
        """Give the statement its values."""
        return FakeBound(self, self.make(values))

    def binder(
        self, names: cabc.Sequence[str]
    ) -> cabc.Callable[[tuple[t.Any, ...]], FakeBound]:
        """Give what binds values that come in this order."""
        return lambda values: self.bind(dict(zip(names, values, strict=True)))

    def __call__(self, connection: sa.Connection, **values: t.Any) -> t.Any:
        """Run it at once."""
        return self.make(values)(connection)


@dataclasses.dataclass(frozen=True)
class FakeBound:
    """Stands in for a statement that has its values."""

    statement: FakeStatement
    call: cabc.Callable[[t.Any], t.Any]

    def run(self, connection: sa.Connection, link: object = None) -> t.Any:
        """Run it."""
        return self.call(connection)

    def execute(self, cursor: object) -> t.Any:
        """Send it in a pipeline."""
        return self.call(None)


class FakeTime:
    """Stands in for the module ``time``: its clock turns while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Give the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Turn the clock."""
        self.now += seconds


def replace(
    monkeypatch: pytest.MonkeyPatch, sql: object, name: str, fake: FakeStatement
) -> None:
    """Put a stand-in in a statement's place, and of what is tried after it."""
    for each in (name, "record_and_ask") if name == "record" else (name,):
        put(monkeypatch, sql, each, fake)


def put(
    monkeypatch: pytest.MonkeyPatch, sql: object, name: str, fake: FakeStatement
) -> None:
    """Put a stand-in in the place of one statement."""
    monkeypatch.setattr(sql, name, fake)
    # What was made of the statement is made again, of this one.
    monkeypatch.delitem(vars(sql), "bind_record", raising=False)
