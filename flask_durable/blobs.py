"""Encrypt bytes on their way into the database, and decrypt them on their way out.

Which values these are follows from the types of columns and parameters, so that no
statement can forget one.
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
"""In a column's ``info``: if its value can't be decrypted, a stand-in takes its place,
so that the rest of the row can be read."""

UNREADABLE = Failure(class_name(DecryptionError), "It can't be decrypted.").encode()
"""The stand-in: to be displayed, never recorded (code that would do so must raise)."""


class Blobs:
    """Which parameters and columns of one statement are bytes.

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
        """Return the values of all parameters as they are to be stored."""
        vault = self._vault

        for place in self._parameters:
            value = values[place]

            # Without keys, nearly all are stored as they are.
            if value is not None and (vault.locked or value.startswith(MARK)):
                sealed = vault.seal(value)
                values = (*values[:place], sealed, *values[place + 1 :])

        return values

    def open(self, rows: Rows, values: tuple[t.Any, ...]) -> Rows:
        """Return rows with their bytes decrypted.

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
    """List the columns of the rows that a statement returns."""
    return getattr(clause, "exported_columns", ())


def _is_blob(type_: sa.types.TypeEngine[t.Any]) -> bool:
    return isinstance(type_, sa.LargeBinary)


def _replace(row: t.Any, values: cabc.Mapping[int, bytes]) -> t.Any:
    """Return a row with the values in some places replaced."""
    return row._make(values.get(place, value) for place, value in enumerate(row))


@functools.cache
def row_class(names: tuple[str, ...]) -> t.Any:
    """Return the class of rows with these columns."""
    return collections.namedtuple("Row", names, rename=True)


def _owner(row: t.Any, values: cabc.Mapping[str, t.Any]) -> str:
    """Say to what a row belongs, as far as that is known."""
    found = getattr(row, "id", None)
    execution_id = values.get("execution_id", found)

    if execution_id is None:
        return f"an event of {values.get('topic', 'some topic')}"

    if found in (None, execution_id):
        return f"execution {execution_id}"

    return f'step "{found}" of execution {execution_id}'
