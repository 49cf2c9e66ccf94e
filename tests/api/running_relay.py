"""A whole relay on a port of its own, in a thread of this process, and a client for it: for tests from outside."""

import asyncio
import io
import itertools
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from relay.api.principal import SCOPES
from relay.app import Relay
from relay.clock import Clock, SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.store import apps
from relay.telemetry.metrics import Metrics

WITHIN_S = 30
OTHER_APP = "other"
ORIGIN = "https://app.example"  # whose pages may connect
# Requests are not to be slowed down here, except where a test is about that.
UNHURRIED = {
    "RELAY_SERVER__PORT": "0",
    "RELAY_SERVER__ALLOWED_ORIGINS": f'["{ORIGIN}"]',
    "RELAY_SERVER__QUIET_S": "0",
    "RELAY_LIMITS__LAG_MS": "60000",
    "RELAY_LIMITS__SEND_RATE_PER_S": "100000",
    "RELAY_LIMITS__SEND_BURST": "100000",
    "RELAY_LIMITS__ANONYMOUS_PER_S": "10000",
    "RELAY_LIMITS__ANONYMOUS_BURST": "10000",
    "RELAY_LIMITS__HANDSHAKES_PER_S": "100000",
}


class HeldClock(SystemClock):
    """Its durations stand still while a test runs, until it says so: what is refused for its rate stays refused, say."""

    def __init__(self) -> None:
        super().__init__()
        self._held_ms = super().monotonic_ms()

    def monotonic_ms(self) -> int:
        return self._held_ms

    def pass_s(self, seconds: float) -> None:
        self._held_ms += int(seconds * 1000)


@dataclass
class Running:
    """Where a running relay is, and keys of two apps' backends, which may do everything there."""

    port: int
    key: str
    other_key: str
    relay: Relay
    loop: asyncio.AbstractEventLoop
    names: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def does(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` comes to in the relay's own loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))


@contextmanager
def running(
    folder: Path, settings: Mapping[str, str] | None = None, *, clock: Clock | None = None
) -> Iterator[Running]:
    """Serves from `folder` for as long as the block lasts, then drains without waiting."""
    files = {"RELAY_STORE__URL": f"sqlite:///{folder / 'relay.db'}", "RELAY_KEYS__FILE": str(folder / "relay.keys")}
    loaded = load(None, UNHURRIED | files | dict(settings or {}))
    up, stop = threading.Event(), asyncio.Event()
    box: list[Running] = []
    failed: list[BaseException] = []

    def made() -> Relay:
        return Relay(loaded, clock or SystemClock(), system_rng(), Metrics())

    async def serve() -> None:
        first = made()
        key = (await first.open()).api_key
        assert key is not None
        await first.engine.write(
            lambda conn, now_ms: apps.create_app(conn, now_ms, app_id=OTHER_APP, id_secret=bytes(32))
        )
        other_key = await first.issuer.api_key(OTHER_APP, name="other", scopes=SCOPES)
        await first.close()
        relay = made()
        await relay.open()
        try:
            async with relay.running():
                box.append(Running(relay.port, key, other_key, relay, asyncio.get_running_loop()))
                up.set()
                await stop.wait()
        finally:
            await relay.close()

    def main() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failed.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=main, name="relay")
    thread.start()
    assert up.wait(WITHIN_S)
    if failed:
        thread.join(WITHIN_S)
        raise failed[0]
    try:
        yield box[0]
    finally:
        box[0].loop.call_soon_threadsafe(stop.set)
        thread.join(WITHIN_S)
        assert not thread.is_alive()
        assert not failed, failed


@dataclass
class Answer:
    """What came back, read whole."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str | None:
        """The problem's code; None if it is no problem."""
        return self.json["code"] if self.headers.get("Content-Type") == "application/problem+json" else None

    @property
    def pointers(self) -> list[str]:
        """The fields that a problem names."""
        return [one["pointer"] for one in self.json.get("errors", ())]

    def refused(self, status: int, code: str) -> bool:
        """Whether it is this problem, and says nothing that would make the caller try the same again."""
        assert (self.status, self.code) == (status, code), self.text
        return True


@dataclass
class Face:
    """A client of a running relay, with a user of its own who has one device."""

    http: aiohttp.ClientSession
    of: Running
    user: str
    token: str = ""

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """As the backend, or with this token. `raw` is sent as JSON as it stands."""
        sent: dict[str, str] = {"Authorization": f"Bearer {token or self.of.key}", **(headers or {})}
        data = raw if raw is not None else None if body is None else json.dumps(body, ensure_ascii=False).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        url = URL(self.of.url + path, encoded=True)
        async with self.http.request(
            method, url, data=None if data is None else io.BytesIO(data), headers=sent
        ) as answer:
            return Answer(answer.status, answer.headers, (await answer.read()).decode())

    async def send(self, *, key: str | None = None, token: str | None = None, **fields: Any) -> Answer:
        """Sends to this face's user; `fields` are added to a good message or take the place of its own."""
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"to": {"users": [self.user]}, "body": "hi"} | fields
        return await self.call("POST", "/v1/messages", body, token=token, headers=headers)

    async def sent(self, **fields: Any) -> str:
        """The id of a message that was accepted."""
        answer = await self.send(**fields)
        assert answer.status == 202, answer.text
        return str(answer.json["id"])

    async def device(self, user: str | None = None, device: str = "phone", *, key: str | None = None) -> str:
        """Registers a device and gives its token."""
        path = f"/v1/users/{user or self.user}/devices/{device}"
        assert (await self.call("PUT", path, {}, token=key)).status in {200, 201}
        return str((await self.call("POST", f"{path}/token", token=key)).json["token"])

    async def sync(self, *, token: str | None = None, **query: Any) -> Answer:
        words = "&".join(f"{name}={value}" for name, value in query.items())
        return await self.call("GET", f"/v1/device/sync?{words}", token=token or self.token)

    async def inbox(self, *, token: str | None = None) -> list[Any]:
        """All entries that the device has not acked."""
        return list((await self.sync(token=token)).json["batches"][0]["entries"])

    async def head(self) -> int:
        """How much was ever stored for this user."""
        return int((await self.sync()).json["batches"][0]["head"])

    async def still_serves(self) -> bool:
        """Whether the relay goes on as if nothing had been, and met no bug."""
        stranger = f"{self.user}.after"
        token = await self.device(stranger)
        assert (await self.call("GET", "/healthz")).status == 200
        assert (await self.send(to={"users": [stranger]}, body="after")).status == 202
        assert [one["body"] for one in await self.inbox(token=token)] == ["after"]
        assert 'status="500"' not in (await self.call("GET", "/metrics")).text
        return True
