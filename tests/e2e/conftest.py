"""The relay in one process, on each store: HTTP and WebSocket over real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from postgres_databases import fresh
from relay_face import Face
from relay_process import RelayProcess

from relay.app import Relay
from relay.client import Backend
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.telemetry.metrics import Metrics


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
    settings = {"RELAY_SERVER__PORT": "0", "RELAY_SERVER__QUIET_S": "0", "RELAY_STORE__URL": store_url}
    relay = Relay(load(None, settings), SystemClock(), system_rng(), Metrics())
    first = await relay.open()
    assert first.api_key is not None
    async with relay.running(), aiohttp.ClientSession() as http:
        yield Face(http, f"http://127.0.0.1:{relay.port}", first.api_key, relay)
    await relay.close()


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
