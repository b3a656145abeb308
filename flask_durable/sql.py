"""Statements that are compiled once, and the database's clock in them."""

from __future__ import annotations

import collections.abc as cabc
import functools
import logging
import operator
import typing as t

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from .blobs import Blobs
from .blobs import row_class
from .blobs import Rows
from .libpq import Libpq
from .libpq import Message
from .once import once
from .vault import Vault

Values = tuple[t.Any, ...]
"""The values of a statement's parameters."""


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
    """A Core statement that is compiled once for a dialect, when it is first used.

    It goes to the driver directly, because SQLAlchemy's own way costs several times as
    much. It takes that way only if the engine has listeners, such as tools that trace
    queries.
    """

    def __init__(
        self,
        make: functools.partial[sa.ClauseElement],
        dialect: sa.Dialect,
        vault: Vault,
        many: Statement | None = None,
        row: type[t.Any] | None = None,
    ) -> None:
        self._source = make, dialect
        self._vault = vault
        self._make_row: t.Any = row and row._make
        self.many = many
        """The statement that does the same for several sets of values at once."""

    @once
    def form(self) -> Form:
        """The compiled statement.

        Compiling all statements takes 0.1 s, and most processes use only a few.
        """
        return _form(*self._source)

    @once
    def _blobs(self) -> Blobs:
        return Blobs(self._vault, self.form.clause, self.form.types)

    def __call__(self, connection: sa.Connection, **values: t.Any) -> Rows:
        """Run the statement and give all rows that it returns.

        :param values: the values of the parameters made by :func:`param`
        :return: its rows; if it returns none, an empty row for each that it wrote
        """
        return self.bind(values).run(connection)

    def bind(self, values: cabc.Mapping[str, t.Any]) -> Bound:
        """Bind values to the statement's parameters.

        :raises TypeError: if their names are not those of the parameters
        """
        self._check(values)
        return Bound(self, self._blobs.seal(self.form.pick(values)))

    def binder(self, names: cabc.Iterable[str]) -> cabc.Callable[[Values], Bound]:
        """Return a function that binds values given in this order; it costs less.

        :param names: the values' names; if one comes twice, the second value counts
        :raises TypeError: if they are not the names of the parameters
        """
        places = {name: place for place, name in enumerate(names)}
        self._check(places)
        pick = _picker([places[name] for name in self.form.names])
        return lambda values: Bound(self, self._blobs.seal(pick(values)))

    def _check(self, values: cabc.Mapping[str, t.Any]) -> None:
        form = self.form

        if values.keys() != form.keys:
            raise TypeError(f"needs {form.keys}, got {values.keys()}: {form.text}")

    def rows(
        self, found: cabc.Iterable[t.Any], names: cabc.Iterable[str], given: Values
    ) -> Rows:
        """Return a driver's rows, decrypted.

        :param found: the driver's rows
        :param names: the names of their columns
        :param given: the values that the statement was run with
        """
        if self._make_row is None:
            self._make_row = row_class(tuple(names))._make

        return self._blobs.open(list(map(self._make_row, found)), given)


class Form:
    """A compiled statement; all databases of a dialect share it."""

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        options = {"render_postcompile": True}
        compiled = t.cast(
            SQLCompiler, clause.compile(dialect=dialect, compile_kwargs=options)
        )
        given = dict(compiled.params)
        order = compiled.positiontup or list(given)
        binds = [b for b in dict.fromkeys(order) if b.startswith("p_")]
        constants = [bind for bind in given if bind not in binds]
        places = [*binds, *constants]
        types = {bind: compiled.binds[bind].type for bind in given}
        self.clause = clause
        self.text = compiled.string
        self.types = {bind[2:]: types[bind] for bind in binds}
        """The types of the parameters, by name."""
        self.names = tuple(self.types)
        """The parameters' names, in the order of a :class:`Bound`'s values."""
        self.keys = set(self.names)
        self.pick = _picker(self.names)
        self._constants = tuple(given[bind] for bind in constants)
        self._order = order
        pick = _picker([places.index(bind) for bind in order])
        self._arrange = None if order == binds else pick
        self.parameters = self.arrange if compiled.positional else self._named
        """Turns a :class:`Bound`'s values into the parameters that the driver takes."""
        self._all_types = {bind: types[bind] for bind in order}

    @once
    def message(self) -> Message:
        """The statement in the form that libpq takes."""
        return Message(self.text, self._all_types)

    def arrange(self, values: Values) -> Values:
        """Return values and constants in the order of the driver's parameters."""
        if self._arrange is None:
            return values

        return self._arrange((*values, *self._constants))

    def _named(self, values: Values) -> t.Any:
        return dict(zip(self._order, self.arrange(values), strict=True))


def _form(make: functools.partial[sa.ClauseElement], dialect: sa.Dialect) -> Form:
    key = make.func, make.args, type(dialect), dialect.paramstyle

    if (found := _forms.get(key)) is None:
        found = _forms[key] = Form(make(), dialect)

    return found


_forms: dict[t.Any, Form] = {}
"""What this process has compiled, by the function that makes it and the dialect."""


class Bound:
    """A statement with its values as they are stored: encrypted, if there are keys."""

    __slots__ = ("statement", "values")

    def __init__(self, statement: Statement, values: Values) -> None:
        self.statement = statement
        self.values = values

    def run(self, connection: sa.Connection, link: t.Any = None) -> Rows:
        """Run the statement and return its rows.

        :param link: a cursor of that connection, or its :class:`Libpq`, if there is one
        """
        if is_observed(connection.engine):
            return self._run_observed(connection)

        if isinstance(link, Libpq):
            return self._run_by(link)

        cursor = link or connection.connection.cursor()
        form = self.statement.form
        cursor.execute(form.text, form.parameters(self.values))
        return self.rows(cursor) if cursor.description else [()] * cursor.rowcount

    def _run_by(self, libpq: Libpq) -> Rows:
        statement = self.statement
        message = statement.form.message
        result = libpq.run(message, statement.form.arrange(self.values))

        if not result.nfields:
            return [()] * result.command_tuples

        names = message.columns(result)
        return statement.rows(message.rows(result), names, self.values)

    def _run_observed(self, connection: sa.Connection) -> Rows:
        statement = self.statement
        parameters = statement.form.parameters(self.values)
        result = connection.exec_driver_sql(statement.form.text, parameters)

        if not result.returns_rows:
            return [()] * result.rowcount

        return statement.rows(result.all(), result.keys(), self.values)

    def execute(self, cursor: t.Any) -> t.Any:
        """Execute the statement with a driver's cursor, and return the cursor."""
        form = self.statement.form
        cursor.execute(form.text, form.parameters(self.values))
        return cursor

    def rows(self, cursor: t.Any) -> Rows:
        """Return the rows that a driver's cursor has."""
        columns = cursor.description

        if columns is None:
            return [()] * cursor.rowcount

        names = (column[0] for column in columns)
        return self.statement.rows(cursor.fetchall(), names, self.values)


def _picker(places: cabc.Sequence[t.Any]) -> cabc.Callable[[t.Any], Values]:
    """Return a function that picks these out of a sequence or mapping, as a tuple."""
    if len(places) > 1:
        return operator.itemgetter(*places)

    return lambda values: tuple([values[place] for place in places])


def is_observed(engine: sa.Engine) -> bool:
    """Tell whether an engine's statements are logged, or have listeners."""
    return engine.logger.isEnabledFor(logging.INFO) or (
        # SQLAlchemy's own flag: to look for listeners costs more.
        getattr(engine, "_has_events", True)
        and bool(
            engine.dispatch.before_cursor_execute
            or engine.dispatch.after_cursor_execute
        )
    )


def say(connection: sa.Connection, text: str) -> None:
    """Run a statement without parameters and without rows, such as ``COMMIT``."""
    if is_observed(connection.engine):
        options = {"no_parameters": True}
        connection.exec_driver_sql(text, execution_options=options)
    else:
        connection.connection.cursor().execute(text)


def param(name: str, type_: sa.types.TypeEngine[t.Any]) -> sa.ColumnElement[t.Any]:
    """Make a typed parameter of a :class:`Statement`."""
    return sa.cast(sa.bindparam(f"p_{name}", type_=type_), type_)
