"""The event stream on each store: what was there, what comes, and where it goes on (the rest: tests/api/test_stream.py)."""

import json
from typing import Any

import aiohttp
from relay_face import Face


async def next_batch(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    while True:
        event = dict(line.split(": ", 1) for line in await block(answer))
        if event["event"] == "batch":
            return dict(json.loads(event["data"]))


async def block(answer: aiohttp.ClientResponse) -> list[str]:
    lines: list[str] = []
    while (line := (await answer.content.readline()).decode().rstrip("\n")) or not lines:
        assert line, "the stream has ended"
        lines.append(line)
    return lines


async def test_the_stream_catches_up_goes_live_and_goes_on(face: Face) -> None:
    token = await face.device()
    assert (await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token))[0] == 200
    url, headers = f"{face.url}/v1/device/stream", {"Authorization": f"Bearer {token}"}
    before = await face.send("before")
    async with face.http.get(url, headers=headers) as answer:
        assert [one["id"] for one in (await next_batch(answer))["entries"]] == [before]
        live = await face.send("live")
        batch = await next_batch(answer)
        assert [one["id"] for one in batch["entries"]] == [live]
    missed = await face.send("missed")
    async with face.http.get(url, headers=headers | {"Last-Event-ID": batch["cursor"]}) as answer:
        assert [one["id"] for one in (await next_batch(answer))["entries"]] == [missed]
