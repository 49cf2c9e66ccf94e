"""A relay for each file, and for each test a user of its own there; after each test the relay must still serve."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import edge_app
import pytest
from running_relay import Face, Running, running

# Two targets that webhooks may call although they are internal; nothing listens at them.
SETTINGS = {
    "RELAY_WEBHOOKS__EXEMPT": '["127.0.0.1:9,10"]',
    "RELAY_ACCOUNTS__LOG__PROVIDER": "log",
    "RELAY_APP__DEVICE_SENDS": "true",
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("relay"), SETTINGS) as one:
        yield one


@pytest.fixture
async def edge() -> AsyncIterator[edge_app.Edge]:
    """The HTTP layer by itself, without a relay behind it."""
    async with edge_app.running() as one:
        yield one


@pytest.fixture
async def face(relay: Running) -> AsyncIterator[Face]:
    async with aiohttp.ClientSession() as http:
        one = Face(http, relay, f"ann{next(relay.names)}")
        one.token = await one.device()
        yield one
        assert await one.still_serves()
