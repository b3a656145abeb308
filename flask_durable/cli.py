"""The ``flask durable`` commands."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import AppGroup

from . import schema
from .errors import DurableError
from .state import get_state

durable_cli = AppGroup("durable", help="Operate durable executions.")


@durable_cli.command("upgrade")
def upgrade() -> None:
    """Make the journal's tables, if they are missing."""
    database = get_state(current_app).store.database

    try:
        schema.ensure(database, create=True)
    except DurableError as error:
        raise click.ClickException(str(error)) from None

    click.echo(f"The journal at {database.label} is up to date.")
