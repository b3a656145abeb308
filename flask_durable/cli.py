"""The ``flask durable`` commands."""

from __future__ import annotations

import logging
import sys
import urllib.parse

import click
from flask.cli import AppGroup

from . import schema
from .config import Config
from .errors import DurableError
from .state import opened_state
from .state import this_app
from .tables import SCHEMA_VERSION

LOG_FORMAT = "%(asctime)s [%(process)d] %(levelname)s %(message)s"

durable_cli = AppGroup("durable", help="Operate durable executions.")


@durable_cli.command("upgrade")
@click.option("--sql", is_flag=True, help="Print the statements instead.")
def upgrade(sql: bool) -> None:
    """Make the journal's tables, or bring them to this version."""
    database = opened_state(this_app()).store.database

    try:
        if sql:
            click.echo(schema.script(database) or "-- The journal is up to date.")
            return

        found = schema.ensure(database, create=True)
    except DurableError as error:
        raise click.ClickException(str(error)) from None

    if found is None:
        verb = "was made"
    elif found == SCHEMA_VERSION:
        verb = "is up to date"
    else:
        verb = f"was upgraded from schema {found} to {SCHEMA_VERSION}"

    click.echo(f"The journal at {database.label} {verb}.")


@durable_cli.command("worker")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many processes replay; each replays one execution at a time.",
)
@click.option("--burst", is_flag=True, help="End when nothing is due.")
@click.option("--queue", help="Listen to this queue.  [default: DURABLE_QUEUE]")
def worker(processes: int, burst: bool, queue: str | None) -> None:
    """Replay executions that are due, until stopped.

    With DURABLE_REDIS_URL the processes are RQ workers, and one of all workers'
    processes looks for what is due. Without it, each process looks for itself and
    replays in threads.
    """
    # RQ takes its time to import, and only workers need it.
    from .worker import run_worker

    app = this_app()
    logging.basicConfig(format=LOG_FORMAT)
    logging.getLogger("flask_durable").setLevel(logging.INFO)
    state = opened_state(app)
    where = _describe(state.config, queue)
    click.echo(f"Replaying {app.name} from {state.store.database.label}{where}.")
    sys.exit(run_worker(app, processes, burst, queue))


def _describe(config: Config, queue: str | None) -> str:
    parts = []

    if config.redis_url is not None:
        place = _place(config.redis_url)
        parts.append(f' by the queue "{queue or config.queue}" of {place}')

    if config.replay_url is not None:
        parts.append(f" through {config.replay_url}")

    return ",".join(parts)


def _place(url: str) -> str:
    """Give a URL without its user and parameters, where passwords stand."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
