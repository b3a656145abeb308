"""Executions and their steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    """Create the tables and their indexes."""
    _make_executions(op)
    _make_steps(op)


def _make_executions(op: Operations) -> None:
    op.create_table(
        "durable_executions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("nonce", sa.Text, nullable=False),
        sa.Column("ready_at", sa.Double),
        sa.Column("due_at", sa.Double),
        sa.Column("looks", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("errors", sa.Integer, nullable=False),
        sa.Column("rejections", sa.Integer, nullable=False),
        sa.Column("refusals", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("identity", sa.LargeBinary),
        sa.Column("error", sa.LargeBinary),
        sa.Column("secrets", sa.LargeBinary),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("response_body", sa.LargeBinary),
    )
    _make_index(op, "due", ["app", "due_at"], "due_at IS NOT NULL")
    _make_index(op, "owner", ["owner"], "status = 'running'")


def _make_index(op: Operations, name: str, columns: list[str], where: str) -> None:
    op.create_index(
        f"ix_durable_executions_{name}",
        "durable_executions",
        columns,
        postgresql_where=sa.text(where),
        sqlite_where=sa.text(where),
    )


def _make_steps(op: Operations) -> None:
    op.create_table(
        "durable_steps",
        sa.Column("execution_id", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("nonce", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("wake_at", sa.Double),
        sa.Column("error_type", sa.Text),
        sa.Column("error", sa.LargeBinary),
        sa.Column("output", sa.LargeBinary),
    )
