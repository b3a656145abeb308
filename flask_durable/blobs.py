"""The bytes that statements take and give, sealed and opened on their way.

Which these are follows from the types of columns and parameters, so that no
statement can forget it.
"""

from __future__ import annotations

import collections
import collections.abc as cabc
import functools
import typing as t

import sqlalchemy as sa

from .errors import DecryptionError
from .records import class_name
from .records import Failure
from .vault import MARK
from .vault import Vault

Rows = cabc.Sequence[t.Any]

OPTIONAL = "flask_durable.optional"
"""Marks a column in its ``info``: a failure that stands in for one that can't be
decrypted, so that the rest of its row can be read."""

UNREADABLE = Failure(class_name(DecryptionError), "It can't be decrypted.").encode()
"""The stand-in, for showing: who would record it must raise instead."""


class Blobs:
    """The parameters and columns of one statement that are bytes.

    :param parameters: names and types of the statement's parameters, in their order
    """

    def __init__(
        self,
        vault: Vault,
        clause: sa.ClauseElement,
        parameters: cabc.Mapping[str, sa.types.TypeEngine[t.Any]],
    ) -> None:
        self._vault = vault
        self._parameters = [
            place for place, type_ in enumerate(parameters.values()) if _is_blob(type_)
        ]
        self._names = tuple(parameters)
        self._columns = {
            place: column
            for place, column in enumerate(_columns(clause))
            if _is_blob(column.type)
        }

    def seal(self, values: tuple[t.Any, ...]) -> tuple[t.Any, ...]:
        """Give the values of all parameters as they are stored."""
        vault = self._vault

        for place in self._parameters:
            value = values[place]

            # Most are stored as they are.
            if value is not None and (vault.locked or value.startswith(MARK)):
                sealed = vault.seal(value)
                values = (*values[:place], sealed, *values[place + 1 :])

        return values

    def open(self, rows: Rows, values: tuple[t.Any, ...]) -> Rows:
        """Give rows as they were before they were stored.

        :param values: the values of the statement's parameters
        :raises DecryptionError: if none of the keys fits
        """
        return [self._open(row, values) for row in rows] if self._columns else rows

    def _open(self, row: t.Any, values: tuple[t.Any, ...]) -> t.Any:
        opened = {}

        for place, column in self._columns.items():
            stored = row[place]

            if stored is None or not stored.startswith(MARK):
                continue

            value = self._vault.open(stored)

            if value is None and OPTIONAL in getattr(column, "info", ()):
                value = UNREADABLE
            elif value is None:
                given = dict(zip(self._names, values, strict=True))
                raise self._error(column.name, row, given)

            opened[place] = value

        return _replace(row, opened) if opened else row

    def _error(
        self, column: str, row: t.Any, values: cabc.Mapping[str, t.Any]
    ) -> DecryptionError:
        why = (
            "none of DURABLE_ENCRYPTION_KEYS fits. Put the key with which it was"
            " encrypted back there, after the newest."
            if self._vault.locked
            else "DURABLE_ENCRYPTION_KEYS is not set. Put the keys back there with"
            " which it was encrypted."
        )
        what = f"The {column.replace('_', ' ')} of {_owner(row, values)}"
        return DecryptionError(f"{what} can't be decrypted: {why}")


def _columns(clause: sa.ClauseElement) -> cabc.Iterable[t.Any]:
    """List the columns of the rows that a statement gives."""
    return getattr(clause, "exported_columns", ())


def _is_blob(type_: sa.types.TypeEngine[t.Any]) -> bool:
    return isinstance(type_, sa.LargeBinary)


def _replace(row: t.Any, values: cabc.Mapping[int, bytes]) -> t.Any:
    """Give a row with other values in some places."""
    return row._make(values.get(place, value) for place, value in enumerate(row))


@functools.cache
def row_class(names: tuple[str, ...]) -> t.Any:
    """Give the class of rows with these columns."""
    return collections.namedtuple("Row", names, rename=True)


def _owner(row: t.Any, values: cabc.Mapping[str, t.Any]) -> str:
    """Name what a row is of, as far as that is known."""
    found = getattr(row, "id", None)
    execution_id = values.get("execution_id", found)

    if execution_id is None:
        return f"an event of {values.get('topic', 'some topic')}"

    if found in (None, execution_id):
        return f"execution {execution_id}"

    return f'step "{found}" of execution {execution_id}'
