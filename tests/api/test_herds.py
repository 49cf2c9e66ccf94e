"""F35: many devices that come at once are let in so many a second; the others are told times of their own (protocol 6.6, safety
FLT-34)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from raw_socket import UPGRADE, dialled
from running_relay import ORIGIN, Answer, Face, HeldClock, running
from structlog.testing import capture_logs

from relay.shedding import Shed

PER_S = 3


@dataclass
class Herd:
    face: Face
    clock: HeldClock

    async def shake_hands(self) -> Answer:
        return await self.face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=self.face.token)

    async def upgrade(self) -> Answer:
        return await self.face.call("GET", "/v1/device/ws", token=self.face.token, headers=UPGRADE)

    async def stream(self) -> Answer:
        return await self.face.call("GET", "/v1/device/stream", token=self.face.token)

    async def all_taken(self, *, but: int = 0) -> None:
        for _ in range(PER_S - but):
            assert (await self.shake_hands()).status == 200


@pytest.fixture
async def herd(tmp_path: Path) -> AsyncIterator[Herd]:
    clock = HeldClock()
    with running(tmp_path, {"RELAY_LIMITS__HANDSHAKES_PER_S": str(PER_S)}, clock=clock) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            yield Herd(face, clock)


def told_later(answer: Answer) -> float:
    """The seconds that it was told: whole ones in the header, and exactly in the body."""
    assert answer.refused(503, "overloaded")
    wait_s = float(answer.json["retry_after_ms"]) / 1000
    assert 1 <= wait_s <= 30
    assert wait_s <= int(answer.headers["Retry-After"]) < wait_s + 2
    return wait_s


async def test_so_many_devices_shake_hands_in_a_second_and_the_next_ones_in_the_next(herd: Herd) -> None:
    await herd.all_taken()
    told_later(await herd.shake_hands())
    herd.clock.pass_s(1)
    await herd.all_taken()
    told_later(await herd.shake_hands())


async def test_handshakes_sockets_and_streams_are_counted_as_one(herd: Herd) -> None:
    await herd.all_taken(but=1)
    async with dialled(herd.face.of.port, herd.face.token, hello={}):
        for refused in (await herd.shake_hands(), await herd.upgrade(), await herd.stream()):
            told_later(refused)


async def test_who_is_refused_still_syncs_acks_and_is_sent_to(herd: Herd) -> None:
    await herd.all_taken()
    await herd.face.sent(body="hi")
    page = (await herd.face.sync()).json["batches"][0]
    assert [one["body"] for one in page["entries"]] == ["hi"]
    acked = await herd.face.call("POST", "/v1/device/ack", {"cursor": page["cursor"]}, token=herd.face.token)
    assert acked.status == 200
    told_later(await herd.shake_hands())


async def test_the_refused_are_told_times_all_over_half_a_minute(herd: Herd) -> None:
    await herd.all_taken()
    told = [told_later(await herd.shake_hands()) for _ in range(40)]
    assert min(told) < 10
    assert max(told) > 20


async def test_all_who_are_refused_together_are_one_line_of_the_log(herd: Herd) -> None:
    await herd.all_taken()
    with capture_logs() as lines:
        for _ in range(40):
            told_later(await herd.shake_hands())
    assert [(one["event"], one["code"]) for one in lines if one["log_level"] != "debug"] == [
        ("http.unavailable", "overloaded")
    ]


async def test_strangers_use_nothing_up(herd: Herd) -> None:
    for _ in range(PER_S + 1):
        assert (await herd.face.call("GET", "/v1/device/ws", token="nobody", headers=UPGRADE)).status == 401
        assert (await herd.face.call("GET", "/v1/device/stream", token="nobody")).status == 401
    await herd.all_taken()


async def test_a_page_whose_ticket_comes_with_its_hello_is_told_on_its_socket(herd: Herd) -> None:
    page = {"Origin": ORIGIN}
    ticket = (await herd.face.call("POST", "/v1/device/ticket", {}, token=herd.face.token, headers=page)).json["ticket"]
    await herd.all_taken(but=1)
    async with dialled(herd.face.of.port, None) as line:  # there is room when it comes, and none when it says hello
        assert (await herd.shake_hands()).status == 200
        line.tell(type="hello", ref="1", store={"id": "s"}, ticket=ticket)
        error = await line.hear_of("error")
        assert (error["code"], error["ref"]) == ("overloaded", "1")
        assert 1000 <= error["retry_after_ms"] <= 30_000
        assert await line.closed() == 1013


async def test_at_a_door_that_sheds_or_is_full_the_times_are_as_far_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, {"RELAY_LIMITS__SOCKETS_PER_NODE": "1"}) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            herd = Herd(face, HeldClock())
            async with dialled(relay.port, face.token, hello={}):
                full = [told_later(await herd.upgrade()) for _ in range(40)]
                monkeypatch.setattr(relay.relay.shedding, "looked", lambda *_: False)
                relay.relay.shedding.level = Shed.CONNECTIONS
                shed = [told_later(await herd.stream()) for _ in range(40)]
    for told in (full, shed):
        assert min(told) < 10
        assert max(told) > 20


async def test_what_a_socket_is_told_to_wait_is_drawn_too(tmp_path: Path) -> None:
    """OVL-2, for frames: a send that comes too fast."""
    settings = {"RELAY_APP__DEVICE_SENDS": "true", "RELAY_LIMITS__DEVICE_SENDS_PER_S": "0.1"}
    with running(tmp_path, settings | {"RELAY_LIMITS__DEVICE_SENDS_BURST": "1"}, clock=HeldClock()) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            async with dialled(relay.port, await face.device(), hello={}) as line:
                told = set()
                for n in range(12):
                    line.tell(type="send", ref=str(n), key=f"k{n}", message={"to": {"users": ["ann"]}, "body": n})
                    if n:
                        error = await line.hear_of("error")
                        assert error["code"] == "rate_limited"
                        told.add(error["retry_after_ms"])
    assert all(750 <= wait_ms <= 1250 for wait_ms in told)
    assert len(told) > 1
