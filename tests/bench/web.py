"""Through the relay's faces, with the relay as a process of its own."""

import json
import os
from pathlib import Path

from relay.clock import SystemClock
from tests.bench.load import request
from tests.bench.processes import answers, holding, load, serving
from tests.bench.report import Figure

CLOCK = SystemClock()
CONNECTIONS = 64
TEXT = "x" * 180


async def start(home: Path) -> list[Figure]:
    """From nothing to ready, and the memory of a relay with nothing to do."""
    async with serving(home, "relay", "serve"):
        pass
    async with serving(home, "relay", "serve") as relay:
        await CLOCK.sleep(2)
        memory = relay.memory()
    return [
        Figure(name="start to ready", value=relay.ready_s, unit="s", aim=2, less_is_better=True),
        Figure(name="memory, idle", value=memory / 2**20, unit="MiB", aim=120, less_is_better=True),
    ]


def _message(n: int) -> dict[str, object]:
    return {"to": {"users": [f"u{n % 1000:05}"]}, "body": {"text": TEXT}, "push": {"title": "Ann", "body": "hello"}}


def _rounds(requests: list[bytes]) -> list[list[bytes]]:
    return [requests[n::CONNECTIONS] for n in range(CONNECTIONS)]


async def single(home: Path, *, count: int) -> list[Figure]:
    """One message a request, each with a key."""
    async with serving(home, "relay", "serve") as relay:
        posts = _posts(relay.key, count)
        await load(relay.port, _rounds(_posts(relay.key, 2000, first=10**9)))  # makes the users, warms up
        took, statuses = await load(relay.port, _rounds(posts))
        assert statuses == {"202": count}, statuses
    async with serving(home, "tests.bench.bare") as bare:
        await load(bare.port, _rounds(posts[:1000]))
        bare_took, _ = await load(bare.port, _rounds(posts))
    return [
        Figure(
            name=f"POST /v1/messages, {CONNECTIONS} connections",
            value=count / took,
            unit="requests/s",
            raw=count / bare_took,
            raw_name="bare aiohttp",
            aim=0.5,
            ratio=True,
        )
    ]


def _posts(key: str, count: int, first: int = 0) -> list[bytes]:
    return [
        request(
            "POST",
            "/v1/messages",
            token=key,
            body=json.dumps(_message(n)).encode(),
            key=f"bench-{os.getpid()}-{first + n}",
        )
        for n in range(count)
    ]


async def batch(home: Path, *, count: int) -> list[Figure]:
    """A hundred messages a request, each with a key."""

    def bodies(first: int, count: int) -> list[bytes]:
        numbered = [{**_message(n), "key": f"bench-{n}"} for n in range(first, first + count)]
        return [json.dumps({"messages": numbered[at : at + 100]}).encode() for at in range(0, count, 100)]

    async with serving(home, "relay", "serve") as relay:

        async def post(some: list[bytes]) -> float:
            requests = [request("POST", "/v1/messages/batch", token=relay.key, body=one) for one in some]
            took, statuses = await load(relay.port, [requests[n::8] for n in range(8)])
            assert set(statuses) == {"202"}, statuses
            return took

        await post(bodies(10**9, 2000))
        took = await post(bodies(0, count))
    return [
        Figure(name="batches of 100", value=count / took, unit="messages/s", aim=40_000),
    ]


async def sockets(home: Path, *, count: int) -> list[Figure]:
    """Memory of the relay for each WebSocket that says nothing."""
    async with serving(home, "relay", "serve") as relay:
        devices = [f"/v1/users/u{n:05}/devices/phone" for n in range(count)]
        await answers(relay.port, [request("PUT", path, token=relay.key, body=b"{}") for path in devices])
        minted = await answers(relay.port, [request("POST", f"{path}/token", token=relay.key) for path in devices])
        before = relay.memory()
        async with holding(relay.url, [one["token"] for one in minted]):
            await CLOCK.sleep(2)
            after = relay.memory()
    return [
        Figure(name=f"memory for each of {count:,} idle WebSockets", value=(after - before) / count / 1024, unit="KiB")
    ]
