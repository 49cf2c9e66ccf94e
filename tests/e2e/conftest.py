"""The relay in one process, on each store: HTTP and WebSocket over real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from postgres_databases import fresh
from relay_face import Face

from relay.app import Relay
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
