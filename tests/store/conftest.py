"""The same store tests on both databases: `engine` is a fresh one of each kind, with all tables."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from postgres_databases import fresh

from relay.store.engine import Engine, SqliteEngine
from relay.store.postgres import PostgresEngine
from relay.store.schema import metadata

START_MS = 1_764_000_000_000


class SetClock:
    """A clock that goes when it is told to."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    def forward(self, *, ms: int = 0, s: float = 0) -> None:
        self.ms += ms + round(s * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.05))  # noqa: TID251 - only a retried transaction sleeps in these tests


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["sqlite", "postgres"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> AsyncIterator[Engine]:
    """A store with all tables and no rows."""
    if request.param == "sqlite":
        sqlite = SqliteEngine(tmp_path / "relay.db", clock)
        await sqlite.write(lambda conn, _: metadata.create_all(conn))
        yield sqlite
        await sqlite.close()
        return
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template")
    async with fresh(server, template) as url:
        postgres = PostgresEngine(url, clock, random.Random(1), workers=4)
        yield postgres
        await postgres.close()
