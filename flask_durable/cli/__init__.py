"""The ``flask durable`` commands."""

from __future__ import annotations

from flask.cli import AppGroup

from .health import check
from .health import stats
from .operate import cancel
from .operate import list_executions
from .operate import purge
from .operate import rerun
from .operate import resume
from .operate import show
from .operate import start
from .serve import upgrade
from .serve import worker

durable_cli = AppGroup("durable", help="Operate durable executions.")

for command in (
    *(upgrade, worker),
    *(list_executions, show, start, cancel, resume, rerun, purge),
    *(check, stats),
):
    durable_cli.add_command(command)
