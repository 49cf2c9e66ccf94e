"""Whoever is connected is told on its connection what it need not show any more (protocol 9.1, F89)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from relay_face import Face, next_frame, served

from relay.client.ways import events_of
from relay.clock import SystemClock
from relay.inbox.reader import InboxReader

CALL = {"type": "call", "scope": {"first_ack_wins": True}}


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    config = tmp_path / "relay.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/relay.db"\n[keys]\nfile = "{tmp_path}/relay.keys"\n')
    async with served(config, SystemClock()) as face:
        yield face


async def online(face: Face, name: str, **hello: Any) -> aiohttp.ClientWebSocketResponse:
    ws = await face.connect(await face.device(device=name), **hello)
    await next_frame(ws, "welcome")
    await next_frame(ws, "batch")  # it has nothing yet
    return ws


async def is_silent(ws: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether nothing of a withdrawal was said up to the answer to what is asked now."""
    await ws.send_json({"type": "hb", "ref": "last", "state": "foreground"})
    while (frame := await ws.receive_json(timeout=10))["type"] != "hb":
        assert frame["type"] != "withdraw", frame
    return True


async def test_f89_a_call_that_one_device_answers_stops_ringing_on_the_others(face: Face) -> None:
    tablet, phone, desktop = [await online(face, name) for name in ("tablet", "phone", "desktop")]
    call = await face.send(**CALL)
    for ws in (tablet, phone, desktop):
        assert (await next_frame(ws, "batch"))["entries"][0]["id"] == call
    await tablet.send_json({"type": "ack", "ref": "2", "upto": 1})
    await next_frame(tablet, "ack")
    for ws in (phone, desktop):
        assert (await next_frame(ws, "withdraw"))["ids"] == [call]
    await phone.send_json({"type": "ack", "ref": "2", "upto": 1})  # too late: it tells nobody anything
    await next_frame(phone, "ack")
    for ws in (tablet, phone, desktop):
        assert await is_silent(ws)


async def test_other_messages_that_one_device_acks_stay_on_the_others(face: Face) -> None:
    tablet, phone = [await online(face, name) for name in ("tablet", "phone")]
    await face.send()
    for ws in (tablet, phone):
        await next_frame(ws, "batch")
    await tablet.send_json({"type": "ack", "ref": "2", "upto": 1})
    await next_frame(tablet, "ack")
    assert await is_silent(phone)


@pytest.mark.parametrize("acked", [False, True])
async def test_what_the_sender_takes_back_leaves_every_screen(face: Face, acked: bool) -> None:
    """Before anybody acked it no entry follows that would tell a device which was sent it: nothing but this does."""
    tablet, phone = [await online(face, name) for name in ("tablet", "phone")]
    message = await face.send()
    for ws in (tablet, phone):
        await next_frame(ws, "batch")
    if acked:
        await tablet.send_json({"type": "ack", "ref": "2", "upto": 1})
        await next_frame(tablet, "ack")
    status, answer, _ = await face.call("DELETE", f"/v1/messages/{message}")
    assert (status, answer["status"]) == (200, "recalled" if acked else "cancelled")
    for ws in (tablet, phone):
        assert (await next_frame(ws, "withdraw"))["ids"] == [message]


async def test_it_is_said_though_the_window_is_full(face: Face) -> None:
    phone = await online(face, "phone", window={"entries": 1, "bytes": 1024})
    first = await face.send()
    await next_frame(phone, "batch")
    await face.send("waits for an ack")
    await face.call("DELETE", f"/v1/messages/{first}")
    assert (await next_frame(phone, "withdraw"))["ids"] == [first]


async def test_it_is_said_after_the_page_that_was_read_before(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = await online(face, "phone")
    read, go_on, read_after = asyncio.Event(), asyncio.Event(), InboxReader.read_after

    async def slowly(self: InboxReader, *args: Any, **more: Any) -> Any:
        reading = await read_after(self, *args, **more)
        read.set()
        await go_on.wait()
        return reading

    monkeypatch.setattr(InboxReader, "read_after", slowly)
    message = await face.send()
    await read.wait()
    await face.call("DELETE", f"/v1/messages/{message}")
    go_on.set()
    frame = await phone.receive_json(timeout=10)
    assert [one["id"] for one in frame["entries"]] == [message]
    assert (await next_frame(phone, "withdraw"))["ids"] == [message]


async def test_a_stream_says_it_by_an_event(face: Face) -> None:
    token = await face.device(device="phone")
    status, welcome, _ = await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)
    assert status == 200
    message = await face.send()
    url = f"{face.url}/v1/device/stream?cursor={welcome['cursors']['inbox']}"
    async with asyncio.timeout(20), face.http.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
        async for kind, data in events_of(answer.content):
            if kind == "batch":
                await face.call("DELETE", f"/v1/messages/{message}")
            if kind == "withdraw":
                assert message.encode() in data
                return
    raise AssertionError("It was not said.")
