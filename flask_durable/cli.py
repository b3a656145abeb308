"""The ``flask durable`` commands."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from . import schema
from .errors import DurableError
from .state import opened_state
from .state import this_app

durable_cli = AppGroup("durable", help="Operate durable executions.")


@durable_cli.command("upgrade")
@click.option("--sql", is_flag=True, help="Print the statements instead.")
def upgrade(sql: bool) -> None:
    """Make the journal's tables, if they are missing."""
    database = opened_state(this_app()).store.database

    if sql:
        click.echo("\n".join(f"{line};" for line in schema.statements(database)))
        return

    try:
        made = schema.ensure(database, create=True)
    except DurableError as error:
        raise click.ClickException(str(error)) from None

    verb = "was made" if made else "is up to date"
    click.echo(f"The journal at {database.label} {verb}.")
