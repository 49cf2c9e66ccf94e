"""The same store tests on both databases: `engine` is a fresh one of each kind, with all tables."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clocks import SetClock
from house import House
from postgres_databases import emptied

from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.schema import metadata
from relay.store.sqlite import SqliteEngine


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with all tables, to be copied for each test."""
    path = tmp_path_factory.mktemp("template") / "relay.db"

    async def make() -> None:
        sqlite = SqliteEngine(path, SetClock())
        await sqlite.write(lambda conn, _: metadata.create_all(conn))
        await sqlite.close()

    with ThreadPoolExecutor(1) as pool:  # a thread of its own: the test that asks first has a loop running here
        pool.submit(lambda: asyncio.run(make())).result()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> AsyncIterator[Engine]:
    """A store with all tables and no rows."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "relay.db")
        sqlite = SqliteEngine(tmp_path / "relay.db", clock)
        yield sqlite
        await sqlite.close()
        return
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template")
    async with emptied(server, template) as url:
        postgres = PostgresEngine(url, clock, random.Random(1), workers=4)
        yield postgres
        await postgres.close()


@pytest.fixture
async def house(engine: Engine, clock: SetClock) -> House:
    """One without settings of its own, for tests whose file makes no other."""
    return await House(engine, clock).begin()
