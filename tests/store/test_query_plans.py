"""What a statement costs must not grow with the table: every one finds its rows by an index (safety OVL-5).

SQLite's planner is asked, on an empty store without statistics: what it chooses there is what a new relay runs with. Of
PostgreSQL's, only whether row-level security has it choose otherwise, and what many rows without statistics do to a walk.
"""

import importlib
import pkgutil
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, Delete, Select, Update

import relay.store.schema
from relay.clock import SystemClock
from relay.store import addresses as address_rows
from relay.store import entries, entry_ends, history, inbox, parked, queue, sql, timelines, users
from relay.store.inline import InlineEngine
from relay.store.migrate import migrate
from relay.store.postgres import PostgresEngine
from relay.store.row_security import OWNED
from relay.store.scope import of_app

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
FEW = {"addresses._some"}  # stop after so many rows, whichever come first
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
        if name not in FEW
        for line in plan(conn, statement)
        if line.startswith("SCAN") and line.split()[1] in tables - WALKED and line.split()[-1] not in PARTIAL
    ]
    assert not walks


def test_the_look_at_all_statements_sees_them(conn: Connection) -> None:
    """Else the test above would pass by seeing none."""
    names = {name for name, _ in statements(conn)}
    assert {
        "entry_pages._page",
        "entry_ends._expiring",
        "queue._due_users",
        "devices._there",
        "addresses._owners",
    } <= names


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (lambda c: entry_ends._expiring, "inbox_entry_expiring (expires_ms<?)"),
        (lambda c: entries._by_message(c), "inbox_entry_by_message (app_id=? AND message_id=? AND user_id=?)"),
        (lambda c: entries._alive(c), "inbox_entry_by_message (app_id=? AND message_id=? AND user_id=?)"),
        (lambda c: entries._by_collapse, "inbox_entry_by_collapse (app_id=? AND user_id=? AND collapse_key=?)"),
        (lambda c: address_rows._owners, "address_by_token (app_id=? AND account=? AND token_hash=?)"),
        (lambda c: queue._apps, "push_job_due (app_id>?)"),
        (lambda c: queue._due_users, "push_job_due (app_id=? AND due_ms>? AND due_ms<?)"),
        (lambda c: queue._suspect_users, "push_job_suspect"),
        (lambda c: queue._orphans, "push_job_due"),
        *(
            (
                lambda _, one=one: one,
                "push_job USING INDEX sqlite_autoindex_push_job_1 (app_id=? AND user_id>? AND user_id<?)",
            )
            for one in (parked._release, parked._hurry, parked._retry)
        ),
        (lambda _: parked._hold, "push_job USING INDEX sqlite_autoindex_push_job_1 (app_id=? AND user_id=?)"),
        (
            lambda _: parked._portion,
            "push_job USING COVERING INDEX sqlite_autoindex_push_job_1 (app_id=? AND user_id>?)",
        ),
        # A walk goes on where it was: to begin anew at each page would cost the more the further it has come.
        (lambda c: inbox._with_entries, "((app_id,user_id)>(?,?))"),
        (lambda c: timelines._with_entries, "((app_id,conversation_id)>(?,?))"),
        (lambda c: history._back, "message_by_age (app_id=? AND accepted_ms>? AND (accepted_ms,message_id)<(?,?))"),
        (lambda c: history._hour, "message_by_age (app_id=? AND (accepted_ms,message_id)>(?,?) AND accepted_ms<?)"),
        (lambda c: history._events, "event_by_age (app_id=? AND (created_ms,event_id)>(?,?) AND created_ms<?)"),
        (lambda c: users._naming, "message_by_age (app_id=? AND (accepted_ms,message_id)>(?,?))"),
    ],
)
def test_the_index_made_for_it_is_used(conn: Connection, statement, index: str) -> None:  # type: ignore[no-untyped-def]
    assert any(index in line for line in plan(conn, statement(conn))), plan(conn, statement(conn))


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("table", ["push_job", "push_attempt", "device", "inbox", "inbox_entry"])
def test_rows_that_are_updated_together_are_found_by_their_key(conn: Connection, table: str, rows: int) -> None:
    kept = relay.store.schema.metadata.tables[table]
    key = tuple(column.name for column in kept.primary_key)
    text = sql._sqlite_update(kept, key, key, tuple((column, f"v.{column}") for column in key), rows)
    lines = [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (1,) * text.count("?")).all()]
    found = " AND ".join(f"{column}=?" for column in key)
    assert any(line.startswith("SEARCH t USING") and f"({found})" in line for line in lines), lines


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _one_tuple(found: re.Match[str]) -> str:
    values = re.sub(r"[^,]+", "'1'", found[1])
    return f"({found[1]}) IN (({values}))"


def postgres_plan(conn: Connection, statement: sqlalchemy.ClauseElement) -> list[str]:
    """By which indexes rows are found, and by which of their columns: not what is looked at in the rows themselves."""
    text = str(statement.compile(dialect=conn.dialect))
    text = re.sub(r"\(([^()]+, [^()]+)\) IN \(__\[POSTCOMPILE_\w+\]\)", _one_tuple, text)
    text = re.sub(r"__\[POSTCOMPILE_\w+\]", "'1'", text)
    text = re.sub(r"\$\d+(?=\s|,|\)|$)", "1", text)
    text = re.sub(r"\$\d+(::\w+(\[\])?)", lambda found: f"'{'{1}' if found[2] else '1'}'{found[1]}", text)
    lines = [row[0] for row in conn.exec_driver_sql(f"EXPLAIN (COSTS OFF) {text}").all()]
    ways = (
        re.search(r"Seq Scan on \w+|(?<=using )\w+|(?<=Bitmap Index Scan on )\w+|Index Cond: .*", one) for one in lines
    )
    return [way[0] for way in ways if way]


MANY = 30_000
_WAITING = (
    "INSERT INTO inbox (app_id, user_id, epoch, head_seq, floor_seq, pinned_until_ms, created_ms) "
    f"SELECT 'shop', 'u' || n, 'e', 0, 0, 0, 0 FROM generate_series(10000, {10_000 + MANY}) AS n",
    "INSERT INTO push_job (app_id, user_id, device_id, reason, knock, tries, retry_ms, bare_seq, claim_token, lost, "
    "shown_seq, escalate_seq, escalate_after, escalate_on) "
    "SELECT 'shop', 'u' || n, 'phone', 'account_parked', 0, 1, 9e15, 0, 0, 0, 0, 0, 0, 0 "
    f"FROM generate_series(10000, {10_000 + MANY}) AS n",
    "INSERT INTO address (app_id, user_id, device_id, preference, account, kind, token_sealed, token_hash, registered_ms, "
    "state, shared, failures) "
    "SELECT 'shop', 'u' || n, 'phone', 0, 'v', 'token', '', cast('u' || n AS bytea), 0, 'active', 0, 0 "
    f"FROM generate_series(10000, {10_000 + MANY}) AS n",
)


async def test_a_portion_of_those_who_wait_for_an_account_costs_the_same_however_many_they_are(
    postgres_url: str, clock: Any
) -> None:
    """Also where the server has no statistics yet, as after many have registered at once, or a dump was read in."""
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=1)

    def look(conn: Connection, now_ms: int) -> list[tuple[str, int]]:
        conn.exec_driver_sql("TRUNCATE inbox, push_job, address")
        for statement in _WAITING:
            conn.exec_driver_sql(statement)
        here = {"app": "shop", "after": "u19999", "upto": "u20099", "most": 100, "now": now_ms, "accounts": ["v"]}
        seen = []
        for one in (parked._portion, parked._hold, parked._release, parked._hurry, parked._retry):
            made = one.compile(dialect=conn.dialect)
            values = made.params | here
            lists = re.compile(r"__\[POSTCOMPILE_(\w+)\]")  # of words that are part of the statement
            text = lists.sub(lambda named: ", ".join(f"'{one}'" for one in values[named[1]]), str(made))  # noqa: B023
            given = tuple(values[name] for name in made.positiontup or () if not isinstance(values[name], list))
            (found,) = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", given).scalars()
            seen += _looked_at(found[0]["Plan"])
        return seen

    try:
        seen = await engine.write(look)
    finally:
        await engine.close()
    assert sum(rows for _, rows in seen) >= 100 * 5
    assert [one for one in seen if one[1] > 100] == []


def _looked_at(node: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """By each part of a plan that reads a table: how many rows it read, with those that it left out."""
    if ("Relation Name" in node and "Scan" in node["Node Type"]) or "Index Name" in node:
        rows = node["Actual Rows"] + sum(value for key, value in node.items() if key.startswith("Rows Removed"))
        yield f"{node['Node Type']} {node.get('Index Name', '')}", round(rows * node["Actual Loops"])
    for one in node.get("Plans", ()):
        yield from _looked_at(one)


async def test_no_plan_is_another_under_row_level_security(postgres_url: str, clock: Any) -> None:
    """SEC-5. PostgreSQL's conditions for safety come before others, which then may find no index: here none is in the way."""
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=1)

    def plans(conn: Connection, _: int) -> dict[str, list[str]]:
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off")  # else tables this small are walked
        return {name: postgres_plan(conn, statement) for name, statement in statements(conn)}

    def open_all(conn: Connection, _: int) -> None:
        for table in OWNED:
            conn.exec_driver_sql(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")

    try:
        with of_app("shop"):
            bound = await engine.read(plans)
        await engine.write(open_all)
        unbound = await engine.read(plans)
    finally:
        await engine.close()
    assert {name: plan for name, plan in bound.items() if plan != unbound[name]} == {}
    assert sum("Index Cond" in line for plan in bound.values() for line in plan) > 50, "it sees them"
