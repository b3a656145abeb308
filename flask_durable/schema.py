"""Creates and migrates the journal's tables, and refuses those of another version."""

from __future__ import annotations

import io
import pathlib
import typing as t

import sqlalchemy as sa

from .database import Database
from .errors import SchemaError
from .tables import SCHEMA_VERSION

if t.TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

ADVISORY_LOCK = 7_310_503_311
"""The PostgreSQL lock under which the tables are created."""

IDLE_LIMIT = 60
"""Seconds that the transaction that creates them may be idle."""

VERSION_TABLE = "durable_version"
"""Alembic's version table for the journal; the app may have one of its own."""

MIGRATIONS = pathlib.Path(__file__).parent / "migrations"


def ensure(database: Database, create: bool) -> str | None:
    """Check the tables' version, and bring them to ours if that is allowed.

    :param create: whether missing tables are created, and older ones migrated
    :return: the version that was found, or ``None`` if there were no tables
    :raises SchemaError: if they are missing or of another version
    """
    found = reached = database.run(_read_version)

    if create and (found is None or found < SCHEMA_VERSION):
        found, reached = database.run(lambda connection: _upgrade(database, connection))

    if reached != SCHEMA_VERSION:
        raise SchemaError(_advice(database, reached))

    return found


def version(database: Database) -> str | None:
    """Return the tables' version, or ``None`` if there are none."""
    return database.run(_read_version)


def script(database: Database) -> str:
    """Return the SQL that brings the tables to our version; empty if they have it.

    :raises SchemaError: if they are of a newer version
    """
    found = version(database)

    if found is not None and found > SCHEMA_VERSION:
        raise SchemaError(_advice(database, found))

    text = io.StringIO()
    options = {"as_sql": True, "output_buffer": text, "starting_rev": found}
    _migrate(_context(None, database.engine.dialect, options), found)
    statements = text.getvalue().strip()
    return statements and f"BEGIN;\n\n{statements}\n\nCOMMIT;"


def _read_version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None

    version = sa.table(VERSION_TABLE, sa.column("version_num"))
    found: str | None = connection.scalar(sa.select(version.c.version_num))
    return found


def _upgrade(
    database: Database, connection: sa.Connection
) -> tuple[str | None, str | None]:
    """Migrate in one transaction; a second process finds it done."""
    with database.transaction(connection, IDLE_LIMIT):
        if not database.sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))

        found = _read_version(connection)

        if found is not None and found >= SCHEMA_VERSION:
            return found, found

        _migrate(_context(connection, None, {}), found)

    return found, SCHEMA_VERSION


def _context(
    connection: sa.Connection | None,
    dialect: sa.Dialect | None,
    options: dict[str, t.Any],
) -> MigrationContext:
    # Alembic takes 0.14 s to import, and most starts don't need it.
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(
        connection,
        dialect=dialect,
        # We begin and end the transaction: the connection is in autocommit mode.
        opts={
            "version_table": VERSION_TABLE,
            "transactional_ddl": False,
            "fn": _steps,
            **options,
        },
    )


def _migrate(context: MigrationContext, found: str | None) -> None:
    from alembic.operations import Operations

    if found != SCHEMA_VERSION:
        # With an object of our own: ``alembic.op`` is shared by all threads.
        context.run_migrations(op=Operations(context))


def _steps(found: t.Any, context: MigrationContext) -> t.Any:
    from alembic.script import ScriptDirectory

    folder = ScriptDirectory(str(MIGRATIONS), version_locations=[str(MIGRATIONS)])
    return folder._upgrade_revs(SCHEMA_VERSION, found)


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
