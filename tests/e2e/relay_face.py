"""A client of a relay that runs in this process, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from relay.app import Relay
from relay.clock import Clock, SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.model import DeviceKey
from relay.push.from_settings import DEFAULT_APP
from relay.telemetry.metrics import Metrics

AT_ONCE = {"RELAY_SERVER__PORT": "0", "RELAY_SERVER__QUIET_S": "0"}
PUSHES_AT_ONCE = AT_ONCE | {"RELAY_PUSH__DEBOUNCE_S": "0"}
SOON_S = 20.0
CLOCK = SystemClock()


@dataclass
class Face:
    """A client of a running relay."""

    http: aiohttp.ClientSession
    url: str
    key: str
    relay: Relay

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> Any:
        headers["Authorization"] = f"Bearer {token or self.key}"
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            text = await answer.read()
            return answer.status, (await answer.json(content_type=None)) if text else None, answer.headers

    async def device(self, user: str = "ann", device: str = "phone") -> str:
        """Registers a device and gives its token."""
        assert (await self.call("PUT", f"/v1/users/{user}/devices/{device}", {}))[0] == 201
        status, body, _ = await self.call("POST", f"/v1/users/{user}/devices/{device}/token")
        assert status == 201
        return str(body["token"])

    @staticmethod
    def device_key(user: str = "ann", device: str = "phone") -> DeviceKey:
        return DeviceKey(DEFAULT_APP, user, device)

    async def send(self, body: Any = "hi", **more: Any) -> str:
        status, answer, _ = await self.call("POST", "/v1/messages", {"to": {"users": ["ann"]}, "body": body} | more)
        assert status == 202, answer
        return str(answer["id"])

    async def attempts(self, message: str) -> list[dict[str, Any]]:
        """What the trace says was tried for the first device of the message's first receiver."""
        _, trace, _ = await self.call("GET", f"/v1/messages/{message}")
        return list(trace["recipients"][0]["devices"][0]["attempts"])

    async def attempted(self, message: str, enough: Callable[[list[dict[str, Any]]], Any]) -> list[dict[str, Any]]:
        """The same, once it is enough."""
        async with asyncio.timeout(SOON_S):
            while not enough(made := await self.attempts(message)):
                await CLOCK.sleep(0.05)
        return made

    async def connect(self, token: str, **hello: Any) -> aiohttp.ClientWebSocketResponse:
        ws = await self.http.ws_connect(
            self.url + "/v1/device/ws", headers={"Authorization": f"Bearer {token}"}, protocols=["relay.v1.json"]
        )
        await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}} | hello)
        return ws


async def next_frame(ws: aiohttp.ClientWebSocketResponse, type_: str) -> dict[str, Any]:
    while True:
        frame = await ws.receive_json(timeout=10)
        if frame["type"] == type_:
            return dict(frame)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[Face]:
    """This relay, from its first start to its end."""
    first = await relay.open()
    try:
        assert first.api_key is not None
        async with relay.running(), aiohttp.ClientSession() as http:
            yield Face(http, f"http://127.0.0.1:{relay.port}", first.api_key, relay)
    finally:
        await relay.close()


def served(
    config: Path | None, clock: Clock, settings: Mapping[str, str] = PUSHES_AT_ONCE
) -> AbstractAsyncContextManager[Face]:
    """A relay with this configuration; by default one that pushes without waiting for more."""
    return running(Relay(load(config, settings), clock, system_rng(), Metrics()))
