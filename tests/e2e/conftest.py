"""The relay in one process, on each store: HTTP and WebSocket over real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from postgres_databases import fresh
from relay_face import AT_ONCE, Face, served
from relay_process import RelayProcess

from relay.client import Backend
from relay.clock import SystemClock


@pytest.fixture(params=["sqlite", "postgres"])
async def store_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """An empty store of each kind."""
    if request.param == "sqlite":
        yield "sqlite:///relay.db"
    else:
        async with fresh(request.getfixturevalue("postgres_server"), "template1") as url:
            yield url


@pytest.fixture
async def face(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Face]:
    monkeypatch.chdir(tmp_path)
    async with served(None, SystemClock(), AT_ONCE | {"RELAY_STORE__URL": store_url}) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RelayProcess]:
    """A relay in a process of its own, with the module's SETTINGS: one for all its tests, each of which has its users."""
    relay = RelayProcess(tmp_path_factory.mktemp("relay"), request.module.SETTINGS)
    await relay.start()
    yield relay
    await relay.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def backend(relay: RelayProcess) -> AsyncIterator[Backend]:
    async with Backend(relay.url, relay.key) as backend:
        yield backend
