"""The same store tests on both databases: `engine` is a fresh one of each kind, with all tables."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from clocks import SetClock
from postgres_databases import fresh

from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.schema import metadata
from relay.store.sqlite import SqliteEngine


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
