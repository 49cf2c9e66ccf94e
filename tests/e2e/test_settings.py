"""The operator's settings do what they say, seen from outside (protocol 16, safety 5)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.inbox.reader import InboxReader
from relay.inbox.reading import Reading
from relay.model import DeviceKey
from relay.telemetry.metrics import Metrics

DAY_MS = 86_400_000


class Shifted(SystemClock):
    """The machine's clock, and what the test adds to it."""

    added_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.added_ms


@dataclass
class Served:
    """A relay with some settings, and its one backend."""

    http: aiohttp.ClientSession
    relay: Relay
    clock: Shifted
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.relay.port}"

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token or self.key}"}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text else None

    async def device(self) -> str:
        assert (await self.call("PUT", "/v1/users/ann/devices/phone", {}))[0] == 201
        return str((await self.call("POST", "/v1/users/ann/devices/phone/token"))[1]["token"])

    async def send(self, body: Any) -> Any:
        return await self.call("POST", "/v1/messages", {"to": {"users": ["ann"]}, "body": body})

    async def connect(self, token: str) -> tuple[aiohttp.ClientWebSocketResponse, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        ws = await self.http.ws_connect(self.url + "/v1/device/ws", headers=headers, protocols=["relay.v1.json"])
        await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}})
        return ws, await ws.receive_json(timeout=10)


@asynccontextmanager
async def serving(home: Path, **settings: str) -> AsyncIterator[Served]:
    environ = {
        "RELAY_SERVER__PORT": "0",
        "RELAY_SERVER__QUIET_S": "0",
        "RELAY_STORE__URL": f"sqlite:///{home}/relay.db",
        "RELAY_KEYS__FILE": f"{home}/relay.keys",
    }
    clock = Shifted()
    relay = Relay(load(None, environ | {f"RELAY_{k}": v for k, v in settings.items()}), clock, system_rng(), Metrics())
    first = await relay.open()
    assert first.api_key is not None
    async with relay.running(), aiohttp.ClientSession() as http:
        yield Served(http, relay, clock, first.api_key)
    await relay.close()


async def test_a_body_and_a_batch_are_as_large_as_the_operator_allows(tmp_path: Path) -> None:
    async with serving(tmp_path, LIMITS__BODY_BYTES="2048", LIMITS__BATCH_BYTES="4096") as served:
        await served.device()
        assert (await served.send("x" * 1900))[0] == 202
        status, answer = await served.send("x" * 2100)
        assert (status, answer["code"]) == (413, "body_too_large")
        assert "2048" in answer["detail"]
        one = {"to": {"users": ["ann"]}, "body": "x" * 1500}
        assert (await served.call("POST", "/v1/messages/batch", {"messages": [one] * 2}))[0] == 202
        status, answer = await served.call("POST", "/v1/messages/batch", {"messages": [one] * 3})
        assert (status, answer["code"]) == (413, "batch_too_large")


async def test_a_page_has_as_many_messages_and_bytes_as_the_operator_allows(tmp_path: Path) -> None:
    async with serving(tmp_path, PAGE__ENTRIES="3", PAGE__BYTES="3000") as served:
        token = await served.device()
        for _ in range(4):
            await served.send("short")
        _, page = await served.call("GET", "/v1/device/sync?limit=200", token=token)
        assert (page["batches"][0]["to"], page["more"]) == (3, True)
        await served.send("x" * 1500)
        await served.send("x" * 1500)
        _, page = await served.call("GET", f"/v1/device/sync?cursor={page['batches'][0]['cursor']}", token=token)
        assert (page["batches"][0]["to"], page["more"]) == (5, True)


async def test_a_socket_is_granted_the_window_that_the_operator_allows(tmp_path: Path) -> None:
    async with serving(tmp_path, WINDOW__ENTRIES="2", WINDOW__BYTES="5000") as served:
        token = await served.device()
        for number in range(3):
            await served.send(number)
        ws, welcome = await served.connect(token)
        assert welcome["window"] == {"entries": 2, "bytes": 5000}
        assert (await ws.receive_json(timeout=10))["to"] == 2
        await ws.send_json({"type": "ack", "ref": "2", "upto": 2})
        assert (await ws.receive_json(timeout=10))["type"] == "ack"
        assert (await ws.receive_json(timeout=10))["to"] == 3
        await ws.close()


async def test_nobody_waits_longer_than_the_operator_allows(tmp_path: Path) -> None:
    async with serving(tmp_path, POLL__WAIT_MAX_S="1") as served:
        token = await served.device()
        _, welcome = await served.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)
        began = time.perf_counter()
        path = f"/v1/device/sync?wait=50&cursor={welcome['cursors']['inbox']}"
        status, page = await served.call("GET", path, token=token)
        assert (status, page["caught_up"]) == (200, True)
        assert 0.9 < time.perf_counter() - began < 10


async def test_a_lost_hint_heals_at_the_next_look(tmp_path: Path) -> None:
    """F9: the look is the guarantee, the hint only makes it sooner."""
    async with serving(tmp_path, POLL__SESSION_S="0.5") as served:
        token = await served.device()
        ws, _ = await served.connect(token)
        await ws.receive_json(timeout=10)  # the first, empty batch
        served.relay.bus.wake = lambda users: None  # type: ignore[method-assign] # the bus loses everything
        began = time.perf_counter()
        assert (await served.send("hi"))[0] == 202
        batch = await ws.receive_json(timeout=10)
        assert batch["entries"][0]["body"] == "hi"
        assert time.perf_counter() - began < 3  # the default would take 4 to 6
        await ws.close()


async def test_the_look_reads_nothing_for_who_was_sent_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every few seconds all whose inboxes have grown would be read at once, and what is new would wait for that."""
    async with serving(tmp_path, POLL__SESSION_S="60") as served:
        ws, _ = await served.connect(await served.device())
        await ws.receive_json(timeout=10)  # the first, empty batch
        read, readings = InboxReader.read_after, list[int]()

        async def counted(self: InboxReader, device: DeviceKey, seq: int, **more: Any) -> Reading:
            readings.append(seq)
            return await read(self, device, seq, **more)

        monkeypatch.setattr(InboxReader, "read_after", counted)
        for body in ("one", "two"):
            assert (await served.send(body))[0] == 202
            assert (await ws.receive_json(timeout=10))["entries"][0]["body"] == body
            await served.relay.hub.poll()
        await served.relay.hub.poll()
        assert readings == [0, 1]
        await ws.close()


async def test_events_are_kept_as_long_as_the_operator_wants(tmp_path: Path) -> None:
    async with serving(tmp_path, RETENTION__EVENT_D="31") as served:
        await served.device()
        _, sent = await served.send("hi")
        assert (await served.call("DELETE", f"/v1/messages/{sent['id']}"))[0] == 200

        async def events() -> int:
            return len((await served.call("GET", "/v1/events"))[1]["events"])

        async with asyncio.timeout(10):
            while not await events():
                await asyncio.sleep(0.05)  # noqa: TID251 - looks again
        served.clock.added_ms = 31 * DAY_MS - 60_000
        await served.relay.webhooks.tidy()
        assert await events()
        served.clock.added_ms = 31 * DAY_MS + 60_000
        await served.relay.webhooks.tidy()
        assert not await events()


async def test_an_old_app_is_advised_to_upgrade_and_served_all_the_same(tmp_path: Path) -> None:
    settings = {"APP__MIN_APP_VERSION": "5.0.0", "APP__RECOMMENDED_APP_VERSION": "5.10"}
    async with serving(tmp_path, **settings) as at:
        token = await at.device()
        await at.send("hello")
        told = {}
        for version in ("4.9.9", "5.0.0", "5.9", "5.10", None):
            body = {"store": {"id": "s"}} | ({} if version is None else {"app_version": version})
            status, answer = await at.call("PUT", "/v1/device", body, token=token)
            assert (status, answer["missing"], answer["advice"]["min_app_version"]) == (200, 1, "5.0.0")
            told[version] = answer["advice"]["upgrade"]
        assert told == {"4.9.9": "required", "5.0.0": "recommended", "5.9": "recommended", "5.10": "none", None: "none"}
