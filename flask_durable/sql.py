"""Statements that are compiled once, and the database's clock in them."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from .blobs import Blobs
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
    """A Core statement that is compiled once for a dialect."""

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect, vault: Vault):
        compiled = t.cast(
            SQLCompiler,
            clause.compile(
                dialect=dialect, compile_kwargs={"render_postcompile": True}
            ),
        )
        self._text = compiled.string
        self._defaults = dict(compiled.params)
        self._order = compiled.positiontup if compiled.positional else None
        self._names = {name for name in self._defaults if name.startswith("p_")}
        types = {name: compiled.binds[name].type for name in self._names}
        self._blobs = Blobs(vault, clause, types)

    def __call__(self, connection: sa.Connection, **values: t.Any) -> Rows:
        """Run the statement and give all rows that it returns.

        :param values: the values of the parameters made by :func:`param`
        """
        given = {f"p_{key}": value for key, value in values.items()}

        if given.keys() != self._names:
            raise TypeError(f"needs {self._names}, got {given.keys()}: {self._text}")

        parameters: t.Any = self._defaults | self._blobs.seal(given)

        if self._order is not None:
            parameters = tuple(parameters[name] for name in self._order)

        rows = connection.exec_driver_sql(self._text, parameters).all()
        return self._blobs.open(rows, given)


def param(name: str, type_: sa.types.TypeEngine[t.Any]) -> sa.ColumnElement[t.Any]:
    """Make a typed parameter of a :class:`Statement`."""
    return sa.cast(sa.bindparam(f"p_{name}", type_=type_), type_)
