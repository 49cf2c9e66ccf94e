"""Devices on WebSockets, many in one process: `python -m tests.bench.receivers`.

Reads one line of JSON (url, tokens, each). Every device connects, reads until it is caught up, and acks; when it has `each`
messages it stays and acks what comes. Prints a line of JSON: seconds, failures and messages until all had caught up, and the
seconds of the 99th device of a hundred;
after one more line of input another: how many milliseconds each later message took from its accept to here.
"""

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable

import aiohttp
import msgspec
import uvloop

from relay.clock import SystemClock, from_rfc3339

CLOCK = SystemClock()
AT_ONCE = 250  # handshakes under way


class Entry(msgspec.Struct):
    accepted_at: str


class Frame(msgspec.Struct):
    type: str
    to: int = 0
    caught_up: bool = False
    entries: list[Entry] = []


_frame = msgspec.json.Decoder(Frame)


class Herd:
    """All devices, and what they have seen."""

    def __init__(self, url: str, each: int) -> None:
        self._url = url
        self._each = each
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.failed = 0
        self.got = 0
        self.began = time.perf_counter()
        self.caught_up_s: list[float] = []
        self.took_ms: list[int] = []

    async def device(self, http: aiohttp.ClientSession, token: str, caught_up: Callable[[], None]) -> None:
        try:
            async with self._gate:
                ws = await http.ws_connect(
                    f"{self._url}/v1/device/ws",
                    headers={"Authorization": f"Bearer {token}"},
                    protocols=["relay.v1.json"],
                )
                await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}})
                has = 0
                while True:
                    frame = await self._next(ws)
                    has += len(frame.entries)
                    if frame.type == "error":
                        raise ConnectionError
                    if frame.caught_up and has >= self._each:
                        break
        except (aiohttp.ClientError, OSError, TypeError, msgspec.DecodeError):
            self.failed += 1
            caught_up()
            return
        self.got += has
        self.caught_up_s.append(time.perf_counter() - self.began)
        caught_up()
        with contextlib.suppress(TypeError, OSError):  # closed at the end
            while True:
                frame = await self._next(ws)
                now_ms = CLOCK.now_ms()
                self.took_ms += [now_ms - from_rfc3339(one.accepted_at) for one in frame.entries]

    async def _next(self, ws: aiohttp.ClientWebSocketResponse) -> Frame:
        frame = _frame.decode(await ws.receive_str())
        if frame.entries:
            await ws.send_str(f'{{"type":"ack","ref":"a","upto":{frame.to}}}')
        return frame


async def main() -> None:
    asked = json.loads(await asyncio.to_thread(sys.stdin.readline))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    herd = Herd(asked["url"], asked["each"])
    left, all_here = len(asked["tokens"]), asyncio.Event()

    def caught_up() -> None:
        nonlocal left
        left -= 1
        if not left:
            all_here.set()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        herd.began = time.perf_counter()
        devices = [asyncio.create_task(herd.device(http, token, caught_up)) for token in asked["tokens"]]
        await all_here.wait()
        seconds, took_s = time.perf_counter() - herd.began, sorted(herd.caught_up_s)
        p99_s = took_s[int(0.99 * len(took_s))] if took_s else None
        print(json.dumps({"seconds": seconds, "p99": p99_s, "failed": herd.failed, "got": herd.got}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(herd.took_ms), flush=True)
        for device in devices:
            device.cancel()
        await asyncio.gather(*devices, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main())
