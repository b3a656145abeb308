"""What the console shows: when attempts began and ended, and executions by status."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations) -> None:
    """Add the history of attempts, and an index of the statuses that are rare."""
    op.add_column("durable_executions", sa.Column("history", sa.Text))
    rare = sa.text("status IN ('failed', 'cancelled', 'suspended')")
    op.create_index(
        "ix_durable_executions_status",
        "durable_executions",
        ["app", "status", "id"],
        postgresql_where=rare,
        sqlite_where=rare,
    )
