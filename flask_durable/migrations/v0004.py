"""Children, cancelling, deadlines, and what runs after a failure."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0004"
down_revision = "0003"


def upgrade(op: Operations) -> None:
    """Let executions have parents, deadlines and requests to cancel them."""
    for column in (
        sa.Column("role", sa.Text, nullable=False, server_default="view"),
        sa.Column("parent_id", sa.Text),
        sa.Column("parent_step", sa.Text),
        sa.Column("cancel_requested", sa.Integer, nullable=False, server_default="0"),
        sa.Column("on_failure", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deadline_at", sa.Double),
    ):
        op.add_column("durable_executions", column)

    _make_index(op, "parent", ["parent_id", "parent_step"], "parent_id", unique=True)
    _make_index(op, "finished", ["app", "finished_at"], "finished_at")


def _make_index(
    op: Operations, name: str, columns: list[str], where: str, unique: bool = False
) -> None:
    condition = sa.text(f"{where} IS NOT NULL")
    op.create_index(
        f"ix_durable_executions_{name}",
        "durable_executions",
        columns,
        unique=unique,
        postgresql_where=condition,
        sqlite_where=condition,
    )
