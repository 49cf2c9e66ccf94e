"""A client of a relay that runs in this process, over real sockets."""

from dataclasses import dataclass
from typing import Any

import aiohttp

from relay.app import Relay
from relay.model import DeviceKey
from relay.push.from_settings import DEFAULT_APP


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
