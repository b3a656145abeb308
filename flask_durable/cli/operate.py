"""The commands that show executions and act on them."""

from __future__ import annotations

import json
import math
import time
import typing as t

import click
from flask.cli import with_appcontext

from ..clock import now
from ..infos import ExecutionInfo
from ..infos import StepInfo
from ..operations import Operations
from ..replay import MAX_REFUSALS
from .output import as_json
from .output import local
from .output import print_json
from .output import print_table
from .output import printable
from .output import reports_errors

PAUSE = 0.2
"""Seconds between two looks at an execution that is waited for."""

HINT_AFTER = 5.0
"""Seconds after which a hint says that nobody has begun the execution."""

NOT_BEGUN = "Nobody has begun it yet: does a server or `flask durable worker` run?"

MAX_ERROR = 200
"""Most characters of a step's error in a table."""

STATUSES = ("pending", "running", "suspended", "completed", "failed", "cancelled")
ENDED = ("completed", "failed", "cancelled")

durable = Operations()


@click.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only those of a status.")
@click.option("--endpoint", help="Only those of an endpoint.")
@click.option("--before", metavar="ID", help="Only those older than this one.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@as_json
@with_appcontext
@reports_errors
def list_executions(
    status: t.Any, endpoint: str | None, before: str | None, limit: int, as_json: bool
) -> None:
    """List executions, the newest first."""
    found = durable.executions(
        status=status, endpoint=endpoint, before=before, limit=limit
    )

    if as_json:
        print_json([_without_steps(info) for info in found])
    elif found:
        names = ("ID", "ENDPOINT", "STATUS", "ATTEMPT", "CREATED", "ERROR")
        print_table(names, map(_row, found))
    else:
        click.echo("There are none.")


def _without_steps(info: ExecutionInfo) -> dict[str, t.Any]:
    """Return an execution's fields without its steps, which a list does not read."""
    return {name: value for name, value in vars(info).items() if name != "steps"}


def _row(info: ExecutionInfo) -> tuple[t.Any, ...]:
    endpoint = info.endpoint if info.role == "view" else f"{info.endpoint} (after)"
    head = (info.id, endpoint, info.status, info.attempt)
    return (*head, info.created_at, info.error_type)


@click.command("show")
@click.argument("id")
@as_json
@with_appcontext
@reports_errors
def show(id: str, as_json: bool) -> None:
    """Show an execution and its steps."""
    info = durable.get(id)

    if as_json:
        print_json(info)
        return

    endpoint = printable(info.endpoint)
    click.echo(f"{endpoint}: {info.status} in attempt {info.attempt}")

    if info.parent_id is not None:
        begun = "begun by" if info.role == "view" else "after the failure of"
        click.echo(f"{begun} {info.parent_id}")

    click.echo(f"created {local(info.created_at)}")

    if info.finished_at is not None:
        seconds = (info.finished_at - info.created_at).total_seconds()
        click.echo(f"finished after {seconds:.2f} s")
    elif info.status == "suspended":
        click.echo(_until(info))
    elif info.cancel_requested:
        click.echo("is asked to end at its next step")

    if info.rejections and info.finished_at is None:
        click.echo(
            f"replays that did not reach the view: {info.rejections}; rejected by the"
            f" app: {info.refusals} (it fails at {MAX_REFUSALS}); the log has the"
            " answers"
        )

    if info.error_type is not None:
        click.echo(_error(info))

    if info.steps:
        click.echo()
        names = ("STEP", "KIND", "STATUS", "TRIES", "STARTED", "ERROR")
        print_table(names, (_step_row(info, step) for step in info.steps))


def _step_row(info: ExecutionInfo, step: StepInfo) -> tuple[t.Any, ...]:
    head = (step.id, step.kind, _status(info, step), step.tries, step.started_at)
    error = step.error_type

    if step.error_message:
        error = " ".join(f"{error}: {step.error_message}".split())

        if len(error) > MAX_ERROR:
            error = f"{error[:MAX_ERROR]} …"

    return (*head, error)


def _status(info: ExecutionInfo, step: StepInfo) -> str:
    """Return a step's status: one that the execution's end cut off waits no more."""
    ended = info.finished_at is not None and step.finished_at is None
    return "cut off" if ended else step.status


def _error(info: ExecutionInfo) -> str:
    return printable(f"{info.error_type}: {info.error_message}", lines=True)


def _until(info: ExecutionInfo) -> str:
    if info.ready_at is None:
        return "waits until it is woken"

    return f"goes on in {max(0.0, info.ready_at.timestamp() - now()):.0f} s"


@click.command("start")
@click.argument("endpoint")
@click.option("--json", "body", help="What is sent, as JSON.")
@click.option(
    "--value",
    "values",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable of the endpoint's rule.",
)
@click.option("--key", help="Of several starts with one key the first begins one.")
@click.option("--wait", is_flag=True, help="Wait for its end; exit 1 if it failed.")
@with_appcontext
@reports_errors
def start(
    endpoint: str,
    body: str | None,
    values: tuple[str, ...],
    key: str | None,
    wait: bool,
) -> None:
    """Begin an execution of an endpoint, and print its id."""
    given = dict(_pair(value) for value in values)
    data = None if body is None else _parse(body)
    execution_id = durable.start(endpoint, values=given, json=data, idempotency_key=key)
    click.echo(execution_id)

    if wait:
        _wait_for(execution_id)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")

    if not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="--value")

    return name, value


def _parse(text: str) -> t.Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--json") from None


def _wait_for(execution_id: str) -> None:
    hint_at = time.monotonic() + HINT_AFTER

    while (info := durable.get(execution_id)).status not in ENDED:
        if info.status == "pending" and time.monotonic() >= hint_at:
            click.echo(NOT_BEGUN, err=True)
            hint_at = math.inf

        time.sleep(PAUSE)

    click.echo(info.status)

    if info.status != "completed":
        raise click.ClickException(_error(info))


@click.command("cancel")
@click.argument("id")
@with_appcontext
@reports_errors
def cancel(id: str) -> None:
    """Cancel an execution: at its next step, or at once if it is suspended."""
    durable.cancel(id)
    status = durable.get(id).status
    asked = (
        "is asked to end at its next step" if status == "running" else "is cancelled"
    )
    click.echo(f"Execution {id} {asked}.")


@click.command("resume")
@click.argument("id")
@click.option(
    "--force",
    is_flag=True,
    help="Forget steps recorded after the failure; don't wait for an on_failure.",
)
@with_appcontext
@reports_errors
def resume(id: str, force: bool) -> None:
    """Let a failed execution go on where it failed."""
    durable.resume(id, force=force)
    click.echo(f"Execution {id} goes on.")


@click.command("rerun")
@click.argument("id")
@click.option("--from-step", metavar="S", help="Keep the steps called before this.")
@with_appcontext
@reports_errors
def rerun(id: str, from_step: str | None) -> None:
    """Begin a new execution with the same request, and print its id."""
    click.echo(durable.rerun(id, from_step=from_step))


@click.command("purge")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Days since they ended, instead of DURABLE_RETENTION.",
)
@with_appcontext
@reports_errors
def purge(older_than: float | None) -> None:
    """Delete executions that ended long ago."""
    count = durable.purge(None if older_than is None else older_than * 86_400)
    click.echo(f"Deleted {count} executions.")
