"""Repeated requests: idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations) -> None:
    """Let executions be found by their clients' keys."""
    op.add_column("durable_executions", sa.Column("idempotency", sa.Text))
    op.add_column("durable_executions", sa.Column("fingerprint", sa.Text))
    op.create_index(
        "ix_durable_executions_idempotency",
        "durable_executions",
        ["idempotency"],
        unique=True,
        postgresql_where=sa.text("idempotency IS NOT NULL"),
        sqlite_where=sa.text("idempotency IS NOT NULL"),
    )
