"""SEC-5: on PostgreSQL the server itself keeps the apps apart, for the day on which a statement forgets to."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from postgres_databases import admin, make_tables
from postgres_process import PostgresProcess
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from relay.store.engine import Conn
from relay.store.gathered import Gathered
from relay.store.migrate import create, migrate, step_by_step
from relay.store.postgres import PostgresEngine
from relay.store.row_security import OPEN, OWNED, see_all
from relay.store.schema import metadata
from relay.store.schema.inboxes import read_marker
from relay.store.scope import of_app

ODD = ("*", "{a}", 'a","b', "a','b", "\\", '"', "", "a,b")  # apps may be named so


def marker(app_id: str) -> dict[str, Any]:
    return {"app_id": app_id, "user_id": "ann", "conversation_id": "c", "read_seq": 1, "updated_ms": 0}


def mark(conn: Conn, _: int, app_ids: list[str]) -> list[str]:
    conn.execute(insert(read_marker), [marker(app_id) for app_id in app_ids])
    return app_ids


def forgetful(conn: Conn, _: int) -> list[str]:
    """Which apps have rows: a statement without its app."""
    return sorted(conn.scalars(select(read_marker.c.app_id)))


def forgetful_batch(conn: Conn, now_ms: int, asked: list[int]) -> list[list[str]]:
    return [forgetful(conn, now_ms)] * len(asked)


def forgetful_change(conn: Conn, _: int) -> int:
    return conn.execute(update(read_marker).values(read_seq=read_marker.c.read_seq + 1)).rowcount


def forgetful_removal(conn: Conn, _: int) -> int:
    return conn.execute(delete(read_marker)).rowcount


@pytest.fixture
async def postgres(postgres_url: str, clock: Any) -> AsyncIterator[PostgresEngine]:
    """With a row of each of the apps a and b."""
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=1)
    await engine.write(lambda conn, now_ms: mark(conn, now_ms, ["a", "b"]))
    assert not engine.connections.bypasses_row_security, "these tests need a role that is no superuser"
    yield engine
    await engine.close()


async def test_who_asks_for_an_app_finds_and_changes_its_rows_alone(postgres: PostgresEngine) -> None:
    with of_app("a"):
        assert await postgres.read(forgetful) == ["a"]
        assert await postgres.write(forgetful) == ["a"]
        assert await postgres.write(forgetful_change) == 1
        assert await postgres.write(forgetful_removal) == 1
    with of_app("c"):
        assert await postgres.read(forgetful) == []
        assert await postgres.write(forgetful_removal) == 0
    assert await postgres.read(forgetful) == ["b"], "the relay itself sees all there is"


async def test_no_row_is_written_for_another_app(postgres: PostgresEngine) -> None:
    with of_app("a"):
        with pytest.raises(DBAPIError, match="row-level security"):
            await postgres.write(lambda conn, now_ms: mark(conn, now_ms, ["c"]))
        with pytest.raises(DBAPIError, match="row-level security"):
            await postgres.write(lambda conn, _: conn.execute(update(read_marker).values(app_id="c")))
    assert await postgres.read(forgetful) == ["a", "b"]


async def test_a_transaction_that_serves_several_sees_the_rows_of_each(postgres: PostgresEngine) -> None:
    async def of(app_id: str) -> list[str]:
        with of_app(app_id):
            return await postgres.write_batched(forgetful_batch, 1)

    first = asyncio.create_task(postgres.write(lambda conn, _: conn.execute(text("SELECT pg_sleep(0.1)"))))
    await asyncio.sleep(0)  # noqa: TID251 - the only worker is busy with the first: the others wait together
    assert await asyncio.gather(of("a"), of("b"), of("c")) == [["a", "b"]] * 3
    await first
    assert await of("a") == ["a"], "the next one begins anew"


async def test_questions_that_share_a_reading_are_answered_for_each_app(postgres: PostgresEngine) -> None:
    """Whoever comes first begins the reading, in its own task."""
    gathered = Gathered(postgres, lambda conn, now_ms, _: dict.fromkeys(forgetful(conn, now_ms), 1))

    async def asks(app_id: str, key: str) -> int | None:
        with of_app(app_id):
            return await gathered.get(key)

    assert await asyncio.gather(asks("a", "a"), asks("b", "b")) == [1, 1]
    assert await asks("a", "b") is None


async def test_a_transaction_that_says_nothing_finds_nothing(postgres: PostgresEngine, postgres_url: str) -> None:
    """Neither on a new connection, nor on one that has served an app before."""
    conn = await asyncpg.connect(postgres_url)
    try:
        for said in ("", "SET LOCAL relay.apps = '{a}'", "SET LOCAL relay.apps = '*'"):
            async with conn.transaction():
                if said:
                    await conn.execute(said)
            for table in sorted(OWNED):
                assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0
        for nonsense in ("a", "*,a", "a}", " *"):
            await conn.execute(f"SET relay.apps = '{nonsense}'")
            assert await conn.fetchval("SELECT count(*) FROM read_marker") == 0
    finally:
        await conn.close()


@pytest.mark.parametrize("app_id", ODD)
async def test_the_name_of_an_app_is_nothing_but_its_name(postgres: PostgresEngine, app_id: str) -> None:
    await postgres.write(lambda conn, now_ms: mark(conn, now_ms, [app_id]))
    with of_app(app_id):
        assert await postgres.read(forgetful) == [app_id]


async def test_a_transaction_can_become_the_relays_own_and_only_itself(postgres: PostgresEngine) -> None:
    def work(conn: Conn, now_ms: int) -> list[str]:
        see_all(conn)
        return forgetful(conn, now_ms)

    with of_app("a"):
        assert await postgres.write(work) == ["a", "b"]
        assert await postgres.write(forgetful) == ["a"]


def test_each_table_has_an_app_or_is_the_stores_own() -> None:
    """A table without an app would be open to all: it must be named as such on purpose."""
    assert {name for name, table in metadata.tables.items() if "app_id" not in table.c} == OPEN


_PROTECTED = """
SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND row_security_active(oid)
AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polcmd = '*' AND polroles = '{0}')"""


@pytest.mark.parametrize("may_see_all", [False, True])
async def test_beside_a_newer_relay_an_older_one_finds_nothing_unless_its_role_may_see_all(
    own_postgres: PostgresProcess, may_see_all: bool
) -> None:
    """As config/docs/upgrading.md says; on the connection, and with the statements, that the older one had before."""
    await make_tables(own_postgres.url)
    older = await asyncpg.connect(own_postgres.url)
    try:
        for table in OWNED:
            await older.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
        add = await older.prepare("INSERT INTO read_marker VALUES ($1, 'ann', 'c', 1, 0)")
        count = await older.prepare("SELECT count(*) FROM read_marker")
        await add.fetch("a")
        assert await count.fetchval() == 1
        if may_see_all:
            await admin(own_postgres.admin_url, "ALTER ROLE relay BYPASSRLS")
        await make_tables(own_postgres.url)  # the newer one migrates
        if may_see_all:
            await add.fetch("b")
            assert await count.fetchval() == 2
            await admin(own_postgres.admin_url, "ALTER ROLE relay NOBYPASSRLS")
            newer = await asyncpg.connect(own_postgres.url)
            assert await newer.fetchval("SELECT count(*) FROM read_marker") == 0, "it is bound again"
            await newer.close()
        else:
            assert await count.fetchval() == 0
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await add.fetch("b")
    finally:
        await older.close()


def nothing(_: Connection) -> None:
    """It is left to `migrate`."""


def as_it_was_before(conn: Connection) -> None:
    """The tables of a relay that knew nothing of policies; on one of them somebody has begun."""
    create(conn)
    conn.execute(text("ALTER TABLE message ENABLE ROW LEVEL SECURITY"))


@pytest.mark.parametrize("make", [nothing, step_by_step, as_it_was_before])
async def test_however_a_store_was_made_every_table_of_an_app_is_protected(
    empty_postgres_url: str, clock: Any, make: Callable[[Connection], None]
) -> None:
    engine = PostgresEngine(empty_postgres_url, clock, random.Random(1), workers=1)
    try:
        await engine.write(lambda conn, _: make(conn))
        await engine.write(migrate)
        assert await engine.read(lambda conn, _: set(conn.scalars(text(_PROTECTED)))) == OWNED
        await engine.write(migrate)  # there is nothing left to do
        await engine.write(lambda conn, now_ms: mark(conn, now_ms, ["a", "b"]))
        with of_app("a"):
            assert await engine.read(forgetful) == ["a"]
    finally:
        await engine.close()
