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
    # Marks the last write, so that one whose answer was lost is known again.
    sa.Column("nonce", sa.Text, nullable=False),
    # When an attempt may be claimed, or, of a running one, the lease's end.
    sa.Column("ready_at", sa.Double),
    # When somebody must look at it again; empty once it ended.
    sa.Column("due_at", sa.Double),
    # How often sweepers saw this lease run out; each renewal begins anew.
    sa.Column("looks", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    # How often running it lost its process, raised an error outside of steps,
    # or was turned away by the app; and how often for good reasons.
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
    # How often something woke it: a suspension that was overtaken by one is short.
    sa.Column("wakes", sa.Integer, nullable=False, server_default="0"),
    # What of its endpoint it runs: the view, or what follows a failure.
    sa.Column("role", sa.Text, nullable=False, server_default="view"),
    # The execution that began it, and by which step; "!" after a failure, and nothing
    # if another one took its place.
    sa.Column("parent_id", sa.Text),
    sa.Column("parent_step", sa.Text),
    sa.Column("cancel_requested", sa.Integer, nullable=False, server_default="0"),
    # Whether something follows its failure.
    sa.Column("on_failure", sa.Integer, nullable=False, server_default="0"),
    sa.Column("deadline_at", sa.Double),
    # Which requests are one: a digest of the client's key, its scope and its
    # endpoint; and a digest of what such a request must agree with.
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
"""What an operator looks for and few have: none that completes at once is indexed."""

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
    # What it waits for, and the number of the event that it got.
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
    # A mark of the sender's by which a second one of the same is left out.
    sa.Column("dedup", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

sa.Index("ix_durable_events_topic", events.c.topic, events.c.number)
sa.Index("ix_durable_events_dedup", events.c.topic, events.c.dedup, unique=True)

# Which process sends what is due to a queue that all share, app by app.
leaders = sa.Table(
    "durable_leaders",
    metadata,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    # When somebody else may take over.
    sa.Column("until", sa.Double, nullable=False),
)
