"""A relay of these tests: its real start and its real HTTP faces, in this process, on a folder of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
from aiohttp.test_utils import TestServer

from providers import loading
from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.store.room import Space
from relay.telemetry.metrics import Metrics

ACCOUNT = "phones"
GIB = 1024**3
_discover = loading.discover


def config(home: Path) -> Path:
    """The configuration file of a relay whose other files are in `home` too."""
    path = home / "relay.toml"
    path.write_text(
        f'[store]\nurl = "sqlite:///{home}/relay.db"\n'
        f'[keys]\nfile = "{home}/relay.keys"\n'
        "[server]\nport = 0\nquiet_s = 0\n"
        "[limits]\nsend_rate_per_s = 100000\nsend_burst = 100000\n"
        f'[accounts.{ACCOUNT}]\nprovider = "log"\n'
    )
    return path


def relay_in(home: Path) -> Relay:
    return Relay(
        load(config(home), {}), SystemClock(), system_rng(), Metrics(), read_space=lambda _: Space(90 * GIB, 100 * GIB)
    )


@cache
def _discovered(only: frozenset[str]) -> tuple[loading.Loaded, ...]:
    return _discover(only=only)


def _installed(*, only: set[str]) -> tuple[loading.Loaded, ...]:
    """What is installed is the same at every start, and looking for it a third of what one costs."""
    return _discovered(frozenset(only))


class Face:
    """A client of a relay."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str) -> None:
        self._http, self.url, self.key = http, url, key

    async def call(self, method: str, path: str, body: Any = None, *, bearer: str = "", **headers: str) -> Any:
        """The status and the JSON of the answer."""
        headers["Authorization"] = f"Bearer {bearer or self.key}"
        async with self._http.request(method, self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def send(self, key: str, body: dict[str, Any]) -> Any:
        return await self.call("POST", "/v1/messages", body, **{"Idempotency-Key": key})


@asynccontextmanager
async def face_of(relay: Relay, key: str) -> AsyncIterator[Face]:
    """The HTTP faces of an opened relay, which does nothing of its own accord."""
    server = TestServer(relay.web)
    await server.start_server()
    try:
        async with aiohttp.ClientSession() as http:
            yield Face(http, str(server.make_url("")).rstrip("/"), key)
    finally:
        await server.close()


@asynccontextmanager
async def opened(home: Path, key: str) -> AsyncIterator[tuple[Relay, Face]]:
    """A relay after its real start."""
    relay = relay_in(home)
    with patch.object(loading, "discover", _installed):
        await relay.open()
    try:
        async with face_of(relay, key) as face:
            yield relay, face
    finally:
        await relay.close()
