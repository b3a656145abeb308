"""The commands that set up the journal and replay due executions."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys

import click
from flask.cli import with_appcontext

from .. import schema
from ..config import Config
from ..errors import DurableError
from ..state import opened_state
from ..state import this_app
from ..tables import SCHEMA_VERSION
from .output import reports

LOG_FORMAT = "%(asctime)s [%(process)d] %(levelname)s %(message)s"

RQ_PROCESSES = 4
"""Processes of a worker with Redis: as many as an embedded dispatcher has threads."""


@click.command("upgrade")
@with_appcontext
@click.option("--sql", is_flag=True, help="Print the statements instead.")
@reports(DurableError)
def upgrade(sql: bool) -> None:
    """Make the journal's tables, or bring them to this version."""
    database = opened_state(this_app()).store.database

    if sql:
        click.echo(schema.script(database) or "-- The journal is up to date.")
        return

    found = schema.ensure(database, create=True)

    if found is None:
        verb = "was made"
    elif found == SCHEMA_VERSION:
        verb = "is up to date"
    else:
        verb = f"was upgraded from schema {found} to {SCHEMA_VERSION}"

    click.echo(f"The journal at {database.label} {verb}.")


@click.command("worker")
@with_appcontext
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="How many processes replay.  [default: 4 with Redis, 1 without]",
)
@click.option("--burst", is_flag=True, help="End when nothing is due.")
@click.option("--queue", help="Use this queue instead of DURABLE_QUEUE.")
@reports(DurableError)
def worker(processes: int | None, burst: bool, queue: str | None) -> None:
    """Replay executions that are due, until stopped.

    With DURABLE_REDIS_URL each process is an RQ worker that replays one execution
    at a time. Without it, each process looks for itself and replays in
    DURABLE_REPLAY_THREADS threads.
    """
    # RQ is slow to import, and only workers need it.
    from redis import RedisError

    from ..rq_queue import reason
    from ..supervisor import end_with_parent
    from ..supervisor import PARENT
    from ..supervisor import Supervisor
    from ..worker import run_child

    app = this_app()
    logging.basicConfig(format=LOG_FORMAT)
    log = logging.getLogger("flask_durable")
    log.setLevel(log.level or logging.INFO)
    state = opened_state(app)

    if queue is not None:
        state.config = dataclasses.replace(state.config, queue=queue)

    if PARENT in os.environ:
        end_with_parent()

        try:
            return run_child(app, burst)
        except RedisError as error:
            why = f"Redis can't be used: {reason(error)}."
            raise click.ClickException(why) from None

    where = _describe(state.config)
    click.echo(f"Replaying {app.name} from {state.store.database.label}{where}.")
    count = processes or (1 if state.config.redis_url is None else RQ_PROCESSES)
    sys.exit(Supervisor(sys.orig_argv, count, burst).run())


def _describe(config: Config) -> str:
    parts = []

    if config.redis_url is not None:
        place = _place(config.redis_url)
        parts.append(f' by the queue "{config.queue}" of {place}')

    if config.replay_url is not None:
        parts.append(f" through {config.replay_url}")

    return ",".join(parts)


def _place(url: str) -> str:
    """Return a URL without its user and parameters, which may contain passwords."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
