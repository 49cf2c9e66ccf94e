"""Databases on a PostgreSQL server, made and dropped by the tests."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from relay.store.migrate import migrate

_numbers = itertools.count(1)
DROPS_MAX = 20


def on(url: str, database: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}"))


async def admin(url: str, *statements: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()


async def make_tables(url: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        async with engine.begin() as conn:
            await conn.run_sync(migrate, 0)
    finally:
        await engine.dispose()


_EMPTY = """
DO $$ DECLARE one record; BEGIN
    SET LOCAL relay.apps = '*';
    FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DELETE FROM %I', one.tablename);
    END LOOP;
END $$"""
_empty: dict[tuple[str, str], list[str]] = {}  # databases with the tables of a template, and nothing in them


@asynccontextmanager
async def emptied(server: str, template: str) -> AsyncIterator[str]:
    """A database with the template's tables and no rows, perhaps one of a test before: to make one takes far longer than to
    empty it. For tests that leave the tables as they are."""
    free = _empty.setdefault((server, template), [])
    name = free.pop() if free else await _made(server, template)
    yield on(server, name)
    conn = await asyncpg.connect(on(server, name))
    try:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = $1 AND usename = current_user AND pid <> pg_backend_pid()",  # the server's own are not ours
            name,
        )
        await conn.execute(_EMPTY)
    finally:
        await conn.close()
    free.append(name)


@asynccontextmanager
async def fresh(server: str, template: str) -> AsyncIterator[str]:
    """A database that is the test's own, made from the template."""
    name = await _made(server, template)
    try:
        yield on(server, name)
    finally:
        await _drop(server, name)


async def _drop(server: str, name: str) -> None:
    for left in reversed(range(DROPS_MAX)):
        try:
            await admin(server, f"DROP DATABASE {name} WITH (FORCE)")
            break
        except asyncpg.InsufficientPrivilegeError:  # the server's own vacuum is there, which a plain role may not end
            if not left:
                raise
        await asyncio.sleep(0.5)  # noqa: TID251 - it goes by itself


async def _made(server: str, template: str) -> str:
    name = f"relay_test_{os.getpid()}_{next(_numbers)}"
    await admin(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return name
