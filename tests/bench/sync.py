"""What devices feel: how soon a message is there, how long a herd takes to come back, what a poll for nothing costs."""

import asyncio
import contextlib
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from relay.clock import SystemClock
from tests.bench.load import Connection, request
from tests.bench.processes import Served, answers, load, serving
from tests.bench.report import Figure

CLOCK = SystemClock()
TEXT = "x" * 180
SENDERS = 32
POLLERS = (64, 256)  # connections
POLL_ROUNDS = 7
# All devices of a benchmark come from one address.
FROM_ONE = {"RELAY_LIMITS__ANONYMOUS_PER_S": "10000", "RELAY_LIMITS__ANONYMOUS_BURST": "10000"}


async def _devices(relay: Served, count: int) -> list[str]:
    """Registers devices, one of each user; their tokens in the order of the users."""
    paths = [f"/v1/users/u{n:05}/devices/phone" for n in range(count)]
    await answers(relay.port, [request("PUT", path, token=relay.key, body=b"{}") for path in paths])
    asked = [request("POST", f"{path}/token", token=relay.key) for path in paths]
    return [str(one["token"]) for one in await answers(relay.port, asked)]


def _message(n: int, users: int) -> dict[str, Any]:
    return {"to": {"users": [f"u{n % users:05}"]}, "body": {"text": TEXT}}


async def _fill(relay: Served, *, users: int, each: int) -> None:
    messages = [_message(n, users) for n in range(users * each)]
    bodies = [json.dumps({"messages": messages[at : at + 100]}).encode() for at in range(0, len(messages), 100)]
    await answers(
        relay.port, [request("POST", "/v1/messages/batch", token=relay.key, body=one) for one in bodies], connections=4
    )


class Receivers:
    """The process with the devices in it."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def line(self) -> Any:
        assert self._child.stdout is not None
        return json.loads(await self._child.stdout.readline())

    async def ask(self) -> Any:
        assert self._child.stdin is not None
        self._child.stdin.write(b"\n")
        return await self.line()


@contextlib.asynccontextmanager
async def _receiving(relay: Served, tokens: Sequence[str], *, each: int) -> AsyncIterator[Receivers]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.receivers",
        cwd=Path(__file__).resolve().parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps({"url": relay.url, "tokens": list(tokens), "each": each}).encode() + b"\n")
    try:
        yield Receivers(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


class Paced(Connection):
    """Sends each request at its time, or as soon as the one before it is answered."""

    def __init__(
        self, requests: Sequence[bytes], done: "asyncio.Future[None]", *, first_s: float, gap_s: float
    ) -> None:
        super().__init__(requests, done, keep=False)
        self._next_s = first_s
        self._gap_s = gap_s

    def go(self) -> None:
        at_s, self._next_s = self._next_s, self._next_s + self._gap_s
        asyncio.get_running_loop().call_at(at_s, super().go)


async def _send(relay: Served, posts: Sequence[bytes], *, rate: float) -> dict[int, int]:
    """Sends so many a second, evenly; gives the statuses."""
    loop = asyncio.get_running_loop()
    begin_s, connections, ends = loop.time() + 0.5, [], []
    for n in range(SENDERS):
        done: asyncio.Future[None] = loop.create_future()
        first_s = begin_s + n / rate
        _, one = await loop.create_connection(
            lambda n=n, done=done, first_s=first_s: Paced(  # type: ignore[misc]
                posts[n::SENDERS], done, first_s=first_s, gap_s=SENDERS / rate
            ),
            "127.0.0.1",
            relay.port,
        )
        connections.append(one)
        ends.append(done)
    for one in connections:
        one.go()
    await asyncio.gather(*ends)
    statuses: dict[int, int] = {}
    for one in connections:
        for status, count in one.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return statuses


async def live(home: Path, *, devices: int, rate: float, seconds: float) -> list[Figure]:
    """From accepted to received, on WebSockets that are open: the relay, its devices and its senders share this machine."""
    count = int(rate * seconds)
    posts = [json.dumps(_message(n, devices)).encode() for n in range(count)]
    async with serving(home, "relay", "serve", environ=FROM_ONE) as relay:
        requests = [
            request("POST", "/v1/messages", token=relay.key, body=body, key=f"live-{os.getpid()}-{n}")
            for n, body in enumerate(posts)
        ]
        tokens = await _devices(relay, devices)
        async with _receiving(relay, tokens, each=0) as receivers:
            assert (await receivers.line())["failed"] == 0
            cpu_s = relay.cpu_s()
            statuses = await _send(relay, requests, rate=rate)
            cpu_s = relay.cpu_s() - cpu_s
            assert statuses == {202: count}, statuses
            await CLOCK.sleep(2)
            took_ms = sorted(await receivers.ask())
            assert len(took_ms) == count, f"{len(took_ms)} of {count} have come"
    name = f"accepted to received, {rate:,.0f} messages/s to {devices:,} devices"
    return [
        Figure(name=f"{name}, p99", value=took_ms[int(count * 0.99)], unit="ms", aim=50, less_is_better=True),
        Figure(name=f"{name}, median", value=took_ms[count // 2], unit="ms"),
        Figure(name="the relay's CPU for each of them", value=cpu_s / count * 1e6, unit="µs"),
    ]


async def herd(home: Path, *, devices: int, each: int) -> list[Figure]:
    """Everybody connects at once, reads what was missed, and acks."""
    async with serving(home, "relay", "serve", environ=FROM_ONE) as relay:
        tokens = await _devices(relay, devices)
        await _fill(relay, users=devices, each=each)
        async with _receiving(relay, tokens, each=each) as receivers:
            found = await receivers.line()
            memory = relay.memory()
        assert found["got"] == devices * each or found["failed"], found
    name = f"{devices:,} devices x {each} messages reconnect by WebSocket"
    return [
        Figure(name=name, value=found["seconds"], unit="s", aim=60 * devices / 10_000, less_is_better=True),
        Figure(name=f"{name}, p99 of the devices", value=found["p99"] or 0, unit="s"),
        Figure(name=f"{name}, failed", value=found["failed"], unit="devices", aim=0, less_is_better=True),
        Figure(name=f"{name}, memory then", value=memory / 2**20, unit="MiB", aim=1024, less_is_better=True),
    ]


async def polls(home: Path, *, devices: int, count: int) -> list[Figure]:
    """Polls that find nothing new, beside a handler that answers 304 and looks at nothing. By few connections, and by
    more, as a node has: what comes together is looked up together."""
    async with serving(home, "relay", "serve", environ=FROM_ONE) as relay, serving(home, "tests.bench.bare") as bare:
        tokens = await _devices(relay, devices)
        await _fill(relay, users=devices, each=2)
        asked = [await _up_to_date(relay, token) for token in tokens]
        requests = [asked[n % devices] for n in range(count // POLL_ROUNDS)]
        found = [await _polled((relay, bare), requests, connections=some) for some in POLLERS]
    return [
        Figure(
            name=f"polls with nothing new (304), {some} connections",
            value=len(requests) / took_s,
            unit="requests/s",
            raw=len(requests) / bare_took_s,
            raw_name="bare aiohttp",
            aim=0.6,
            ratio=True,
        )
        for some, (took_s, bare_took_s) in zip(POLLERS, found, strict=True)
    ]


async def _polled(servers: Sequence[Served], requests: Sequence[bytes], *, connections: int) -> list[float]:
    """Seconds that these polls take each server, once it is warm. By turns, so that a machine that is slower for a while is so
    for all of them; the middle one of the rounds."""
    took: list[list[float]] = [[] for _ in servers]
    for warm in (False, *[True] * POLL_ROUNDS):
        for server, seconds in zip(servers, took, strict=True):
            took_s, statuses = await load(server.port, _spread(requests, connections))
            assert statuses == {"304": len(requests)}, statuses
            if warm:
                seconds.append(took_s)
    return [statistics.median(seconds) for seconds in took]


def _spread(requests: Sequence[bytes], connections: int) -> list[Sequence[bytes]]:
    return [requests[n::connections] for n in range(connections)]


async def _up_to_date(relay: Served, token: str) -> bytes:
    """Reads all that there is; gives the poll that finds nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(request("PUT", "/v1/device", token=token, body=b'{"store":{"id":"s"}}'))
    await _answer(reader)
    writer.write(request("GET", "/v1/device/sync", token=token))
    head, body = await _answer(reader)
    writer.close()
    etag = next(line for line in head.split("\r\n") if line.lower().startswith("etag:")).split(": ", 1)[1]
    cursor = json.loads(body)["batches"][0]["cursor"]
    bare = request("GET", f"/v1/device/sync?cursor={cursor}", token=token)
    return bare.removesuffix(b"\r\n") + f"If-None-Match: {etag}\r\n\r\n".encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lengths = [line for line in head.split("\r\n") if line.lower().startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
    assert head.startswith("HTTP/1.1 200"), head
    return head, body
