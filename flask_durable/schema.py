"""Make the journal's tables, and refuse those of another version."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex
from sqlalchemy.schema import CreateTable

from .database import Database
from .errors import SchemaError
from .tables import metadata
from .tables import SCHEMA_VERSION
from .tables import version

ADVISORY_LOCK = 7_310_503_311
"""The PostgreSQL lock under which the tables are made."""


def ensure(database: Database, create: bool) -> bool:
    """Check the tables' version, and make them if there are none.

    :param create: whether missing tables are made
    :return: whether they were missing
    :raises SchemaError: if they are missing or of another version
    """
    found = database.run(_read_version)
    missing = found is None

    if missing and create:
        found = database.run(lambda connection: _create(database, connection))

    if found != SCHEMA_VERSION:
        raise SchemaError(_advice(database, found))

    return missing


def statements(database: Database) -> list[str]:
    """Give the statements that make the tables in an empty database."""
    made: list[sa.ClauseElement] = []

    for table in metadata.sorted_tables:
        made.append(CreateTable(table))
        made.extend(map(CreateIndex, sorted(table.indexes, key=_name)))

    row = version.insert().inline().values(version_num=sa.text(f"'{SCHEMA_VERSION}'"))
    made.append(row)
    dialect = database.engine.dialect
    return [str(statement.compile(dialect=dialect)).strip() for statement in made]


def _name(index: sa.Index) -> str:
    return str(index.name)


def _read_version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(version.name):
        return None

    found: str | None = connection.scalar(sa.select(version.c.version_num))
    return found


def _create(database: Database, connection: sa.Connection) -> str | None:
    with database.transaction(connection):
        if not database.sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))

        if (found := _read_version(connection)) is not None:
            return found

        metadata.create_all(connection)
        connection.execute(version.insert().values(version_num=SCHEMA_VERSION))

    return SCHEMA_VERSION


def _advice(database: Database, found: str | None) -> str:
    if found is None:
        return (
            f"There is no journal at {database.label} yet, and DURABLE_CREATE_TABLES"
            " is off: run `flask durable upgrade`."
        )

    if found > SCHEMA_VERSION:
        return (
            f"The journal at {database.label} has schema {found}, which is newer than"
            f" this flask_durable's {SCHEMA_VERSION}: upgrade the package here."
        )

    return (
        f"The journal at {database.label} has schema {found}, and this flask_durable"
        f" needs {SCHEMA_VERSION}: run `flask durable upgrade`."
    )
