"""A client that reads but acks nothing is served a minute after its window became full, and not again before it comes anew
(protocol 9.2)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from raw_socket import PING, Line, dialled
from running_relay import Face, HeldClock, running

from relay.inbox.ack import AckRequest
from relay.model import DeviceKey
from relay.push.from_settings import DEFAULT_APP

WINDOW = 2
SOON_S = 5  # a look each second, on a busy machine


@dataclass
class Slow:
    face: Face
    clock: HeldClock

    async def looked(self) -> None:
        """The relay looks at windows that are full, as it does each second."""

        async def look() -> None:
            self.face.of.relay.hub.look_at_windows()

        await self.face.of.does(look())


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Slow]:
    clock = HeldClock()
    with running(tmp_path, {"RELAY_WINDOW__ENTRIES": str(WINDOW)}, clock=clock) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            for n in range(3 * WINDOW):
                await face.sent(body=n)
            yield Slow(face, clock)


async def filled(line: Line) -> dict[str, Any]:
    """The batch that fills the window."""
    while not (batch := await line.hear_of("batch"))["entries"]:
        pass
    assert len(batch["entries"]) == WINDOW
    return batch


async def answered(line: Line) -> bool:
    """Whether the connection stands, and nothing else was said on it."""
    line.tell(type="hb", ref="still-there")
    return (await line.hear_of("hb"))["ref"] == "still-there"


async def test_a_socket_whose_window_is_full_for_a_minute_without_an_ack_is_closed_as_slow(slow: Slow) -> None:
    async with dialled(slow.face.of.port, slow.face.token, hello={}) as line:
        await filled(line)
        slow.clock.pass_s(59)
        await slow.looked()
        assert await answered(line)
        slow.clock.pass_s(1)
        async with asyncio.timeout(SOON_S):
            assert await line.closed() == 4008


async def test_each_ack_begins_the_minute_anew(slow: Slow) -> None:
    async with dialled(slow.face.of.port, slow.face.token, hello={}) as line:
        batch = await filled(line)
        slow.clock.pass_s(59)
        line.tell(type="ack", ref="1", upto=batch["to"])
        await filled(line)
        slow.clock.pass_s(59)
        await slow.looked()
        assert await answered(line)
        slow.clock.pass_s(1)
        async with asyncio.timeout(SOON_S):
            assert await line.closed() == 4008


async def test_an_ack_by_post_opens_a_socket_s_window(slow: Slow) -> None:
    """As of another process of the app that has the same store."""
    async with dialled(slow.face.of.port, slow.face.token, hello={}) as line:
        batch = await filled(line)
        acked = await slow.face.call("POST", "/v1/device/ack", {"cursor": batch["cursor"]}, token=slow.face.token)
        assert acked.json["acked"] == WINDOW
        assert (await filled(line))["from"] == WINDOW


async def test_an_ack_that_another_node_took_opens_a_socket_s_window_with_the_next_ping(slow: Slow) -> None:
    relay = slow.face.of.relay
    device = DeviceKey(DEFAULT_APP, slow.face.user, "phone")

    async def elsewhere(cursor: str) -> None:
        await relay.inbox.ack(AckRequest(device=device, cursor=relay.inbox.reader.unseal(cursor, device)))

    async def ping() -> None:
        for one in relay.hub.all():
            one.ping()

    async with dialled(slow.face.of.port, slow.face.token, hello={}) as line:
        for work in (elsewhere((await filled(line))["cursor"]), ping()):
            await slow.face.of.does(work)
        assert await line.hear() == (PING, b"")
        assert (await filled(line))["from"] == WINDOW


async def test_what_is_left_comes_with_the_next_connection(slow: Slow) -> None:
    async with dialled(slow.face.of.port, slow.face.token, hello={}) as line:
        await filled(line)
        slow.clock.pass_s(60)
        assert await line.closed() == 4008
    entries = await slow.face.inbox()
    assert [one["body"] for one in entries] == list(range(3 * WINDOW))


async def test_an_event_stream_ends_after_the_same_minute(slow: Slow) -> None:
    hello = await slow.face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=slow.face.token)
    assert hello.status == 200
    headers = {"Authorization": f"Bearer {slow.face.token}"}
    async with slow.face.http.get(f"{slow.face.of.url}/v1/device/stream", headers=headers) as answer:
        async for row in answer.content:
            if row.startswith(b"id:"):  # of a whole batch: it fills the window
                break
        slow.clock.pass_s(60)
        async with asyncio.timeout(SOON_S):
            assert b"event: batch" not in await answer.content.read()


async def test_who_has_acked_everything_may_be_silent_for_as_long_as_it_likes(slow: Slow) -> None:
    async with dialled(slow.face.of.port, slow.face.token, hello={}) as line:
        for ref in "123":
            line.tell(type="ack", ref=ref, upto=(await filled(line))["to"])
            await line.hear_of("ack")
        slow.clock.pass_s(600)
        await slow.looked()
        assert await answered(line)
