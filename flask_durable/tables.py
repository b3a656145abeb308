"""The journal's tables and indexes, on SQLite and PostgreSQL alike.

Times are seconds since the epoch, by the database's clock. A change here needs
a migration in ``migrations``; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

from .blobs import OPTIONAL

SCHEMA_VERSION = "0006"

metadata = sa.MetaData()

executions = sa.Table(
    "durable_executions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    # The name of the app that runs it: several may share a journal.
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    # The fencing token: each claim adds one, each write carries it.
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text),
    # Marks the last write, so that one whose answer was lost is recognised.
    sa.Column("nonce", sa.Text, nullable=False),
    # When an attempt may be claimed; while one runs, the end of its lease.
    sa.Column("ready_at", sa.Double),
    # When somebody must look at it again; empty once it ended.
    sa.Column("due_at", sa.Double),
    # How often sweepers saw that this lease had run out; a renewal resets it.
    sa.Column("looks", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    # How often an attempt lost its process, or raised an error outside of steps; how
    # often a replay did not reach the endpoint, and how often as the app refused it.
    sa.Column("crashes", sa.Integer, nullable=False),
    sa.Column("errors", sa.Integer, nullable=False),
    sa.Column("rejections", sa.Integer, nullable=False),
    sa.Column("refusals", sa.Integer, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("identity", sa.LargeBinary),
    sa.Column("error", sa.LargeBinary, info={OPTIONAL: True}),
    sa.Column("secrets", sa.LargeBinary),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("response_body", sa.LargeBinary),
    # How often it was woken: if that has grown since the claim, a suspension is short.
    sa.Column("wakes", sa.Integer, nullable=False, server_default="0"),
    # What of its endpoint it runs: the view, or the function after a failure.
    sa.Column("role", sa.Text, nullable=False, server_default="view"),
    # The execution that began it, and by which step: "" after a failure, and null
    # if another execution took its place.
    sa.Column("parent_id", sa.Text),
    sa.Column("parent_step", sa.Text),
    sa.Column("cancel_requested", sa.Integer, nullable=False, server_default="0"),
    # Whether a function runs after its failure.
    sa.Column("on_failure", sa.Integer, nullable=False, server_default="0"),
    sa.Column("deadline_at", sa.Double),
    # By what a repeated request is recognised: a digest of the client's key, its scope
    # and its endpoint; and a digest of all that must be the same in both requests.
    sa.Column("idempotency", sa.Text),
    sa.Column("fingerprint", sa.Text),
    # When its attempts began and ended, as ``history`` writes it.
    sa.Column("history", sa.Text),
)

RARE = executions.c.status.in_(
    [
        sa.literal_column(f"'{status}'")
        for status in ("failed", "cancelled", "suspended")
    ]
)
"""Statuses that operators look for and few executions have: an execution that completes
at once is never in this index."""

sa.Index(
    "ix_durable_executions_status",
    executions.c.app,
    executions.c.status,
    executions.c.id,
    postgresql_where=RARE,
    sqlite_where=RARE,
)

sa.Index(
    "ix_durable_executions_idempotency",
    executions.c.idempotency,
    unique=True,
    postgresql_where=executions.c.idempotency.is_not(None),
    sqlite_where=executions.c.idempotency.is_not(None),
)

sa.Index(
    "ix_durable_executions_due",
    executions.c.app,
    executions.c.due_at,
    postgresql_where=executions.c.due_at.is_not(None),
    sqlite_where=executions.c.due_at.is_not(None),
)

_running = executions.c.status == sa.literal_column("'running'")
sa.Index(
    "ix_durable_executions_owner",
    executions.c.owner,
    postgresql_where=_running,
    sqlite_where=_running,
)

sa.Index(
    "ix_durable_executions_parent",
    executions.c.parent_id,
    executions.c.parent_step,
    unique=True,
    postgresql_where=executions.c.parent_id.is_not(None),
    sqlite_where=executions.c.parent_id.is_not(None),
)

sa.Index(
    "ix_durable_executions_finished",
    executions.c.app,
    executions.c.finished_at,
    postgresql_where=executions.c.finished_at.is_not(None),
    sqlite_where=executions.c.finished_at.is_not(None),
)

steps = sa.Table(
    "durable_steps",
    metadata,
    sa.Column("execution_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    # The order of calls in the attempt that first recorded the step.
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Column("wake_at", sa.Double),
    sa.Column("error_type", sa.Text),
    sa.Column("error", sa.LargeBinary),
    sa.Column("output", sa.LargeBinary),
    # The topic of the events that it waits for, and the number of the one that it got.
    sa.Column("topic", sa.Text),
    sa.Column("event", sa.BigInteger),
)

_waiting = steps.c.status == sa.literal_column("'waiting'")
sa.Index(
    "ix_durable_steps_waiting",
    steps.c.topic,
    postgresql_where=_waiting,
    sqlite_where=_waiting,
)

# Events that were sent, in the order of their commits topic by topic.
events = sa.Table(
    "durable_events",
    metadata,
    sa.Column(
        "number",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    sa.Column("topic", sa.Text, nullable=False),
    # The sender's mark: a second event with the same one is dropped.
    sa.Column("dedup", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    # Else SQLite would give a deleted event's number to a new one, which whoever got
    # the old one would not take.
    sqlite_autoincrement=True,
)

sa.Index("ix_durable_events_topic", events.c.topic, events.c.number)
sa.Index("ix_durable_events_dedup", events.c.topic, events.c.dedup, unique=True)

# For each app, which process sends due executions to the queue that all share.
leaders = sa.Table(
    "durable_leaders",
    metadata,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    # When somebody else may take over.
    sa.Column("until", sa.Double, nullable=False),
)
