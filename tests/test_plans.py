"""How the databases look for what each step asks for."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import pytest
import sqlalchemy as sa

from flask_durable import step_sql
from flask_durable.ids import new_id
from flask_durable.purge import Purge
from flask_durable.records import RequestRecord
from flask_durable.sql import Statement
from flask_durable.statements import Statements
from flask_durable.store import Store
from flask_durable.tables import executions
from flask_durable.upkeep_sql import UpkeepStatements

KEYS = ("durable_executions_pkey", "autoindex_durable_executions")
"""What a primary key is called in a plan, on PostgreSQL and on SQLite."""


def fenced(store: Store) -> cabc.Iterator[tuple[str, Statement]]:
    """Walk over the statements that hold only while an attempt runs."""
    database = store.database
    sql = Statements(database)
    by_owner = UpkeepStatements(database)
    yield "record", sql.record
    yield "record_and_ask", sql.record_and_ask
    yield "mark_running", sql.mark_running
    yield "suspend", sql.suspend
    yield "finish", sql.finish
    yield "release", by_owner.release
    yield "give_up", by_owner.give_up

    if sql.record.many is not None:
        yield "record_all", sql.record.many


def plan(store: Store, statement: Statement) -> str:
    """Have a statement explained, whatever its values will be."""
    form = statement.form

    def explain(connection: sa.Connection) -> str:
        if store.database.sqlite:
            empty = form.parameters((None,) * len(form.names))
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {form.text}", empty)
        else:
            text = form.message.text.decode()
            options = {"no_parameters": True}
            rows = connection.exec_driver_sql(
                f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {text}", execution_options=options
            )

        return "\n".join(str(row[-1]) for row in rows)

    return store.database.run(explain)


def test_what_is_written_is_found_by_its_id(store: Store) -> None:
    """Not by an index of all that runs: PostgreSQL would walk through all that ran
    since its last vacuum. The tables are empty, as when a server's plans are made."""
    for name, statement in fenced(store):
        found = plan(store, statement)
        assert "ix_durable_executions" not in found, f"{name}:\n{found}"
        assert "Seq Scan on durable_executions" not in found, f"{name}:\n{found}"
        assert "SCAN durable_executions" not in found, f"{name}:\n{found}"
        assert any(key in found for key in KEYS), f"{name}:\n{found}"


def test_the_plans_would_tell(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the status as it is, PostgreSQL takes the index of what runs."""
    status = executions.c.status
    monkeypatch.setattr(step_sql, "is_running", lambda: status == step_sql.RUNNING)

    def make(insert: t.Any) -> t.Any:
        return step_sql.record(insert, step_sql.mine())

    database = store.database
    found = plan(store, database.prepare(make, database.insert))
    assert any(key in found for key in KEYS) == database.sqlite
    assert ("ix_durable_executions_owner" in found) != database.sqlite


def test_a_purge_asks_once_what_is_under_way(store: Store) -> None:
    """Not for each old event, which would take as long as there are executions."""
    found = plan(store, Purge(store).old_events)
    each = "CORRELATED" if store.database.sqlite else "SubPlan"
    once = "SCALAR SUBQUERY" if store.database.sqlite else "InitPlan"
    assert each not in found and once in found, found
    assert "ix_durable_executions_due" in found or not store.database.sqlite, found


def test_a_purge_finds_what_belongs_to_an_execution(store: Store) -> None:
    """By its id, not by walking through all that the tables have."""
    purge = Purge(store)

    for statement in (purge.delete, purge.delete_steps, purge.delete_topics):
        found = plan(store, statement)
        assert "SCAN durable" not in found and "SCAN other" not in found, found
        assert "CORRELATED" not in found and "SubPlan" not in found, found


def test_a_purge_finds_parents_and_children(store: Store) -> None:
    """By their ids, also if SQLite was told that nearly all are children of one."""
    request = RequestRecord(b"{}", None, b"", "")

    for number in range(100):
        store.start(new_id(), "child", request, None, parent=("one", str(number)))

    if store.database.sqlite:
        store.database.run(lambda c: c.exec_driver_sql("ANALYZE"))

    found = plan(store, Purge(store).old)
    scans = {line for line in found.splitlines() if line.startswith("SCAN")}
    assert scans <= {"SCAN above"}, found
    # PostgreSQL reads so few children as a whole, but follows parents one by one.
    assert "Recursive Union" in found or store.database.sqlite, found
