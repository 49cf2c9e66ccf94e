"""Transactions beside the engine's own, on connections that a test holds open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from house import House
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from relay.inbox.accept import accept
from relay.inbox.send import Send
from relay.store.postgres import PostgresEngine


class Held:
    """A transaction that its test ends: by `commit`, `rollback`, or by leaving it."""

    def __init__(self, house: House, conn: Any) -> None:
        self.house, self.conn = house, conn

    async def run(self, work: Any, *arguments: Any) -> Any:
        """Runs a store function (conn, now_ms, *arguments, policy_of) in it."""
        house = self.house
        return await self.conn.run_sync(
            lambda conn: work(conn, house.clock.now_ms(), *arguments, lambda _: house.policy)
        )

    async def accept(self, *sends: Send) -> list[Any]:
        new_epoch = self.house.inbox.new_epoch
        return await self.run(lambda conn, now_ms, policy_of: accept(conn, now_ms, sends, policy_of, new_epoch))

    async def pid(self) -> int:
        return int((await self.conn.execute(text("SELECT pg_backend_pid()"))).scalar_one())

    async def commit(self) -> None:
        await self.conn.commit()

    async def rollback(self) -> None:
        await self.conn.rollback()


@asynccontextmanager
async def held(house: House) -> AsyncIterator[Held]:
    """A connection of its own with a transaction in it."""
    assert isinstance(house.engine, PostgresEngine)
    url = house.engine.connections.url.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as conn:
        await conn.execute(text("SET relay.apps = '*'"))
        await conn.commit()
        yield Held(house, conn)


async def until_blocked(house: House) -> None:
    """Until another connection waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while not (await house.rows(waiting))[0]["count"]:
            pass
