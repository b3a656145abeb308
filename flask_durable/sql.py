"""Statements that are compiled once, and the database's clock in them."""

from __future__ import annotations

import collections.abc as cabc
import logging
import typing as t

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from .blobs import Blobs
from .blobs import row_class
from .blobs import Rows
from .vault import Vault


class db_now(FunctionElement[float]):
    """The database's clock in seconds since the epoch, fixed for a statement."""

    type = sa.Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: t.Any, **options: t.Any) -> str:
    # 2440587.5 is the Julian day of the epoch.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: t.Any, **options: t.Any) -> str:
    # clock_timestamp() is volatile: an index could not be used to compare.
    return "extract(epoch from statement_timestamp())::double precision"


class Statement:
    """A Core statement that is compiled once for a dialect.

    It goes to the driver directly: SQLAlchemy's own way costs a multiple of that.
    Where somebody listens to the engine, as tools do that trace queries, it goes
    that way.
    """

    def __init__(
        self,
        clause: sa.ClauseElement,
        engine: sa.Engine,
        vault: Vault,
        many: Statement | None = None,
    ) -> None:
        compiled = t.cast(
            SQLCompiler,
            clause.compile(
                dialect=engine.dialect, compile_kwargs={"render_postcompile": True}
            ),
        )
        self.text = compiled.string
        params = dict(compiled.params)
        self._binds = {bind: bind[2:] for bind in params if bind.startswith("p_")}
        self._names = set(self._binds.values())
        self._constants = {b: params[b] for b in params if b not in self._binds}
        self._order = compiled.positiontup if compiled.positional else None
        self._only_names = None

        if self._order is not None and not self._constants:
            self._only_names = [self._binds[bind] for bind in self._order]

        types = {self._binds[bind]: compiled.binds[bind].type for bind in self._binds}
        self._blobs = Blobs(vault, clause, types)
        self._row: t.Any = None
        self.many = many
        """Does it for several sets of values at once."""

    def __call__(self, connection: sa.Connection, **values: t.Any) -> Rows:
        """Run the statement and give all rows that it returns.

        :param values: the values of the parameters made by :func:`param`
        """
        return self.bind(values).run(connection)

    def bind(self, values: cabc.Mapping[str, t.Any]) -> Bound:
        """Give the statement its values.

        :raises TypeError: if they are for others than its parameters
        """
        if values.keys() != self._names:
            raise TypeError(f"needs {self._names}, got {values.keys()}: {self.text}")

        return Bound(self, self._blobs.seal(values))

    def parameters(self, values: cabc.Mapping[str, t.Any]) -> t.Any:
        """Give what the driver takes for values as they are stored."""
        if self._only_names is not None:
            return tuple([values[name] for name in self._only_names])

        named = {bind: values[name] for bind, name in self._binds.items()}

        if self._constants:
            named |= self._constants

        return named if self._order is None else tuple(map(named.get, self._order))

    def open(self, rows: Rows, given: cabc.Mapping[str, t.Any]) -> Rows:
        """Give rows as they were before they were stored."""
        return self._blobs.open(rows, given)

    def row(self, cursor: t.Any) -> t.Any:
        """Give what makes a row of a driver's tuple."""
        if self._row is None:
            names = tuple(column[0] for column in cursor.description)
            self._row = row_class(names)._make

        return self._row


class Bound:
    """A statement with values, as they are stored."""

    __slots__ = ("statement", "values")

    def __init__(self, statement: Statement, values: cabc.Mapping[str, t.Any]) -> None:
        self.statement = statement
        self.values = values

    def run(self, connection: sa.Connection, cursor: t.Any = None) -> Rows:
        """Run it and give its rows.

        :param cursor: a driver's of that connection, if there is one already
        """
        if is_observed(connection.engine):
            text, parameters = self.statement.text, self._parameters()
            rows = connection.exec_driver_sql(text, parameters).all()
            return self.statement.open(rows, self.values)

        return self.rows(self.execute(cursor or connection.connection.cursor()))

    def execute(self, cursor: t.Any) -> t.Any:
        """Send it by a driver's cursor, and give that back."""
        cursor.execute(self.statement.text, self._parameters())
        return cursor

    def rows(self, cursor: t.Any) -> Rows:
        """Give the rows that a driver's cursor has."""
        make = self.statement.row(cursor)
        rows = [make(row) for row in cursor.fetchall()]
        return self.statement.open(rows, self.values)

    def _parameters(self) -> t.Any:
        return self.statement.parameters(self.values)


def is_observed(engine: sa.Engine) -> bool:
    """Tell whether somebody listens to an engine's statements, or logs them."""
    return bool(
        engine.dispatch.before_cursor_execute
        or engine.dispatch.after_cursor_execute
        or engine.logger.isEnabledFor(logging.INFO)
    )


def param(name: str, type_: sa.types.TypeEngine[t.Any]) -> sa.ColumnElement[t.Any]:
    """Make a typed parameter of a :class:`Statement`."""
    return sa.cast(sa.bindparam(f"p_{name}", type_=type_), type_)
