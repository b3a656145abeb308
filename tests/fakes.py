"""Stand-ins for parts of the package that tests have fail."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import typing as t

import sqlalchemy as sa


@dataclasses.dataclass
class FakeStatement:
    """Stands in for a statement, and for one that has its values.

    :param make: gives, for values, what is called with a connection
    """

    make: cabc.Callable[[cabc.Mapping[str, t.Any]], cabc.Callable[[t.Any], t.Any]]

    def bind(self, values: cabc.Mapping[str, t.Any]) -> FakeStatement:
        """Give the statement its values."""
        fake = FakeStatement(self.make)
        fake.run = fake.execute = self.make(values)  # type: ignore[attr-defined]
        return fake

    def __call__(self, connection: sa.Connection, **values: t.Any) -> t.Any:
        """Run it at once."""
        return self.make(values)(connection)
