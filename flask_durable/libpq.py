"""Send statements through libpq directly: psycopg's cursors cost more.

Parameters and rows travel in PostgreSQL's binary formats: see "Extended Query" in its
manual, and psycopg's documentation of its module ``pq``.
"""

from __future__ import annotations

import collections.abc as cabc
import hashlib
import re
import struct
import typing as t

import sqlalchemy as sa

LIBPQ = "flask_durable.libpq"
"""The key in a connection's ``info`` of its :class:`Libpq`, or of ``None``."""

BINARY = 1
"""libpq's number for the binary formats."""

_PLACES = re.compile(r"%\((\w+)\)s|%%")
_DOUBLE = struct.Struct("!d")

Encode = cabc.Callable[[t.Any], bytes]


_TYPES: list[tuple[type[sa.types.TypeEngine[t.Any]], int, Encode]] = [
    (sa.String, 25, str.encode),
    (sa.BigInteger, 20, struct.Struct("!q").pack),
    (sa.Integer, 23, struct.Struct("!i").pack),
    (sa.Float, 701, _DOUBLE.pack),
    (sa.LargeBinary, 17, bytes),
]
"""How values are sent, by their column's type: the type's OID on the server, and what
encodes them. The server itself refuses a text with a zero byte."""


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _double(data: bytes) -> float:
    return t.cast(float, _DOUBLE.unpack(data)[0])


_DECODERS: dict[int, cabc.Callable[[bytes], t.Any]] = {
    16: lambda data: data != b"\0",
    17: bytes,
    20: _integer,
    21: _integer,
    23: _integer,
    25: bytes.decode,
    701: _double,
    1043: bytes.decode,
}
"""What decodes a column, by the OID of its type."""


class Message:
    """A statement in the form that libpq takes.

    :param text: the SQL, with its parameters as ``%(name)s``
    :param types: the types of all parameters, in the order in which they are sent
    """

    def __init__(
        self, text: str, types: cabc.Mapping[str, sa.types.TypeEngine[t.Any]]
    ) -> None:
        places = {name: f"${number}" for number, name in enumerate(types, 1)}
        plain = _PLACES.sub(lambda m: places[m[1]] if m[1] else "%", text)
        ways = [_way(type_) for type_ in types.values()]
        self.text = plain.encode()
        self.oids = [oid for oid, _ in ways]
        # The same name in each process, since a pooler may have them share connections.
        whole = f"{plain} {self.oids}".encode()
        self.key = b"durable_%s" % hashlib.sha256(whole).hexdigest()[:16].encode()
        self.formats = [BINARY] * len(ways)
        self._encoders = [encode for _, encode in ways]
        self._decoders: list[cabc.Callable[[bytes], t.Any]] | None = None

    def encode(self, values: cabc.Iterable[t.Any]) -> list[bytes | None]:
        """Return the bytes of parameters in their order.

        :raises psycopg.DataError: if one of them is no value of its type
        """
        try:
            return [
                None if value is None else encode(value)
                for encode, value in zip(self._encoders, values, strict=True)
            ]
        except struct.error as error:
            from psycopg import DataError

            raise DataError(f"A parameter can't be sent: {error}.") from None

    def columns(self, result: t.Any) -> cabc.Iterator[str]:
        """Name the columns of a result."""
        return (result.fname(place).decode() for place in range(result.nfields))

    def rows(self, result: t.Any) -> list[tuple[t.Any, ...]]:
        """Read the rows of a result."""
        places = range(result.nfields)

        if self._decoders is None:
            self._decoders = [_DECODERS[result.ftype(place)] for place in places]

        decoders = self._decoders
        get = result.get_value
        return [
            tuple(
                None if (data := get(row, place)) is None else decoders[place](data)
                for place in places
            )
            for row in range(result.ntuples)
        ]


def _way(type_: sa.types.TypeEngine[t.Any]) -> tuple[int, Encode]:
    for cls, oid, encode in _TYPES:
        if isinstance(type_, cls):
            return oid, encode

    raise TypeError(f"There is no way to send {type_!r}.")


class Libpq:
    """Sends messages over a connection, one thread at a time, beside its cursors.

    It waits as psycopg's cursors do, so that signals are handled meanwhile.

    :param driver: psycopg's connection, in autocommit mode
    """

    def __init__(self, driver: t.Any) -> None:
        from psycopg import errors
        from psycopg import generators

        self._forgotten = errors.InvalidSqlStatementName
        self._send_on, self._receive = generators.execute, generators.fetch_many
        self._driver = driver
        self._connection = driver.pgconn
        self._prepared: set[bytes] = set()
        """The keys of statements that this connection has prepared."""

    def run(self, message: Message, values: cabc.Iterable[t.Any]) -> t.Any:
        """Run a statement, commit it, and return the result.

        :raises psycopg.Error: as a cursor does
        """
        parameters = message.encode(values)

        if message.key in self._prepared:
            try:
                return self._run(message, parameters)
            except self._forgotten:
                # A cursor of the same connection had the server forget all statements,
                # as psycopg does after a ROLLBACK. Nothing was run.
                self._prepared.clear()

        self._connection.send_prepare(message.key, message.text, message.oids)
        self._result()
        self._prepared.add(message.key)
        return self._run(message, parameters)

    def _run(self, message: Message, parameters: list[bytes | None]) -> t.Any:
        self._connection.send_query_prepared(
            message.key, parameters, message.formats, BINARY
        )
        return self._result()

    def _result(self) -> t.Any:
        connection = self._connection
        # If all was sent at once, only the answer has to be waited for.
        receive = self._send_on if connection.flush() else self._receive
        (result,) = self._driver.wait(receive(connection))

        # libpq's PGRES_COMMAND_OK and PGRES_TUPLES_OK.
        if result.status not in (1, 2):
            raise _error(result)

        return result


def libpq_of(connection: sa.Connection) -> Libpq | None:
    """Return the way to send messages over a connection, if there is one.

    There is none without prepared statements (``prepare_threshold=none``, for poolers),
    nor for other classes of connections or cursors, which may want to see statements.
    """
    info = connection.info

    # The pool clears ``info`` when it replaces the driver's connection.
    if LIBPQ not in info:
        info[LIBPQ] = _libpq(connection.connection.dbapi_connection)

    return t.cast("Libpq | None", info[LIBPQ])


def _libpq(driver: t.Any) -> Libpq | None:
    if getattr(driver, "pgconn", None) is None:
        return None

    import psycopg

    if (
        type(driver) is not psycopg.Connection
        or driver.cursor_factory is not psycopg.Cursor
        or driver.prepare_threshold is None
        or driver.info.encoding != "utf-8"
    ):
        return None

    return Libpq(driver)


def _error(result: t.Any) -> Exception:
    from psycopg import errors
    from psycopg import OperationalError
    from psycopg.pq import DiagnosticField

    if result.error_field(DiagnosticField.SQLSTATE):
        return errors.error_from_result(result)

    # The error is libpq's own, not the server's: the connection broke.
    return OperationalError(result.get_error_message())
