"""Databases on a PostgreSQL server, made and dropped by the tests."""

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from relay.store.schema import metadata

_numbers = itertools.count(1)


def on(url: str, database: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}"))


async def admin(url: str, *statements: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as conn:
            for statement in statements:
                await conn.execute(text(statement))
    finally:
        await engine.dispose()


async def make_tables(url: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        async with engine.begin() as conn:
            await conn.run_sync(metadata.create_all)
    finally:
        await engine.dispose()


@asynccontextmanager
async def fresh(server: str, template: str) -> AsyncIterator[str]:
    name = f"relay_test_{os.getpid()}_{next(_numbers)}"
    await admin(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield on(server, name)
    finally:
        await admin(server, f"DROP DATABASE {name} WITH (FORCE)")
