"""What a statement costs must not grow with the table: every one finds its rows by an index (safety OVL-5).

SQLite's planner is asked, on an empty store without statistics: what it chooses there is what a new relay runs with.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import Connection, Delete, Select, Update

import relay.store.schema
from relay.clock import SystemClock
from relay.store import devices, entries, queue
from relay.store.inline import InlineEngine
from relay.store.migrate import migrate

WALKED = {  # tables that are walked on purpose, and by whom
    "inbox",  # the floor's chore, a page at a time
    "device",  # who was online, once at a start
    "conversation",  # the floor of shared timelines, a page at a time
    "app",  # a handful of rows
    "store_meta",  # one row
    "account_state",  # at most one for each account
    "account_day",  # ... and for each of its last days
    "account_hold",  # ... and what of its is used up today, at a start and by a chore
    "data_key",
    "endpoint",  # at most 50 an app
}
PARTIAL = {"event_unnumbered", "push_job_suspect"}  # hold only what waits: walking it is finding it


@pytest.fixture(scope="module")
def conn() -> Iterator[Connection]:
    engine = InlineEngine(SystemClock())
    migrate(engine.conn, 0)
    yield engine.conn
    engine.conn.close()


def statements(conn: Connection) -> Iterator[tuple[str, Select | Update | Delete]]:
    for module in pkgutil.iter_modules(relay.store.__path__):
        if module.name == "migrations":
            continue
        for name, value in sorted(vars(importlib.import_module(f"relay.store.{module.name}")).items()):
            if isinstance(value, Select | Update | Delete):
                yield f"{module.name}.{name}", value
            elif callable(value) and getattr(value, "__qualname__", "").startswith("per_dialect."):
                built = value(conn)
                if isinstance(built, Select | Update | Delete):
                    yield f"{module.name}.{name}", built


def plan(conn: Connection, statement: sqlalchemy.ClauseElement) -> list[str]:
    text = re.sub(r"__\[POSTCOMPILE_\w+\]", "?", str(statement.compile(dialect=conn.dialect)))
    params = (1,) * text.count("?")
    return [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", params).all()]


def test_no_statement_walks_a_table(conn: Connection) -> None:
    tables = set(relay.store.schema.metadata.tables)
    walks = [
        (name, line)
        for name, statement in statements(conn)
        for line in plan(conn, statement)
        if line.startswith("SCAN") and line.split()[1] in tables - WALKED and line.split()[-1] not in PARTIAL
    ]
    assert not walks


def test_the_look_at_all_statements_sees_them(conn: Connection) -> None:
    """Else the test above would pass by seeing none."""
    names = {name for name, _ in statements(conn)}
    assert {"entries._page", "entries._expiring", "queue._due_users", "devices._of_users", "devices._owners"} <= names


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (lambda c: entries._expiring, "inbox_entry_expiring (expires_ms<?)"),
        (lambda c: entries._by_message(c), "inbox_entry_by_message (app_id=? AND message_id=? AND user_id=?)"),
        (lambda c: entries._by_collapse, "inbox_entry_by_collapse (app_id=? AND user_id=? AND collapse_key=?)"),
        (lambda c: devices._owners, "address_by_token (app_id=? AND account=? AND token_hash=?)"),
        (lambda c: queue._apps, "push_job_due (app_id>?)"),
        (lambda c: queue._due_users, "push_job_due (app_id=? AND due_ms>? AND due_ms<?)"),
        (lambda c: queue._suspect_users, "push_job_suspect"),
        (lambda c: queue._orphans, "push_job_due"),
    ],
)
def test_the_index_made_for_it_is_used(conn: Connection, statement, index: str) -> None:  # type: ignore[no-untyped-def]
    assert any(index in line for line in plan(conn, statement(conn))), plan(conn, statement(conn))
