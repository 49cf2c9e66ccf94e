"""The migrations lead to the very tables that the code knows, and that an empty store is given at once."""

from collections.abc import Callable
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from relay.clock import SystemClock
from relay.store.inline import InlineEngine
from relay.store.migrate import HEAD, create, migrate, revision, step_by_step
from relay.store.schema import metadata


@pytest.mark.parametrize("make", [create, step_by_step])
def test_a_store_has_the_tables_of_the_schema(make: Callable[[Connection], None]) -> None:
    engine = InlineEngine(SystemClock())
    make(engine.conn)

    differences = compare_metadata(MigrationContext.configure(engine.conn, opts={"compare_type": True}), metadata)

    assert differences == []
    engine.conn.close()


def shape(conn: Connection) -> dict[str, Any]:
    """All that SQLite was told of each table and index, down to STRICT and what an index leaves out."""
    rows = conn.exec_driver_sql("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").all()
    return {name: "".join(sql.split()).replace('"', "").lower() for name, sql in rows}


def test_both_ways_to_a_store_lead_to_the_same() -> None:
    at_once, stepwise = InlineEngine(SystemClock()), InlineEngine(SystemClock())
    assert migrate(at_once.conn, 0) is None
    step_by_step(stepwise.conn)
    assert shape(at_once.conn) == shape(stepwise.conn)
    assert revision(at_once.conn) == revision(stepwise.conn) == HEAD
    assert migrate(at_once.conn, 0) == HEAD, "there is nothing left to do"
