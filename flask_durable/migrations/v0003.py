"""Events, and executions that wait for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0003"
down_revision = "0002"


def upgrade(op: Operations) -> None:
    """Create the table of events, and let steps wait for topics."""
    wakes = sa.Column("wakes", sa.Integer, nullable=False, server_default="0")
    op.add_column("durable_executions", wakes)
    op.add_column("durable_steps", sa.Column("topic", sa.Text))
    op.add_column("durable_steps", sa.Column("event", sa.BigInteger))
    op.create_index(
        "ix_durable_steps_waiting",
        "durable_steps",
        ["topic"],
        postgresql_where=sa.text("status = 'waiting'"),
        sqlite_where=sa.text("status = 'waiting'"),
    )
    _make_events(op)


def _make_events(op: Operations) -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "durable_events",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("dedup", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    _make_index(op, "topic", ["topic", "number"])
    _make_index(op, "dedup", ["topic", "dedup"], unique=True)


def _make_index(
    op: Operations, name: str, columns: list[str], unique: bool = False
) -> None:
    name = f"ix_durable_events_{name}"
    op.create_index(name, "durable_events", columns, unique=unique)
