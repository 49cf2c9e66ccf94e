"""F31: what was shown on one device and is of no use any more is taken off its screen: once, and never loudly."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from relay_face import Face, served
from sqlalchemy import update

from providers.sandbox import Sandbox
from relay.clock import SystemClock
from relay.store.schema.inboxes import message

CLOCK = SystemClock()
SOON_S = 15.0
SETTLES_S = 0.2
ONE, OTHER = {"type": "direct", "id": "c1"}, {"type": "direct", "id": "c2"}


@dataclass
class Room:
    """A relay, the sandbox behind it, and one user's phone that is away and tablet that talks."""

    face: Face
    sandbox: Sandbox
    vendor: str
    tablet: str
    phone: str = "t1"

    async def send(self, *, shown: int, **more: Any) -> str:
        """A message, sent when the phone has got it."""
        told = {"conversation": ONE, "push": {"title": "hi"}} | more
        count = self.sandbox.phones.count(self.phone)
        message = await self.face.send(**told)
        assert await self.sandbox.phones.wait(self.phone, count + 1, timeout_s=SOON_S)
        assert len(self.shown()) == shown
        return message

    async def read(self, seq: int, conversation: str = "c1") -> None:
        body = {"read": [{"conversation": conversation, "read_seq": seq}]}
        status, answer, _ = await self.face.call("POST", "/v1/device/ack", body, token=self.tablet)
        assert status == 200, answer

    def view(self) -> Any:
        (phone,) = self.sandbox.phones.view(token=self.phone, phones_max=1)
        return phone

    def shown(self) -> list[Any]:
        return list(self.view()["shown"])

    async def clears(self, left: int) -> None:
        """Waits until so many notifications are left on the phone."""
        for _ in range(int(SOON_S / 0.05)):
            if len(self.shown()) == left:
                return
            await CLOCK.sleep(0.05)
        raise AssertionError(f"{len(self.shown())} are left")

    async def facts(self, message: str) -> list[str]:
        """What the trace says became of it on the phone."""
        for _ in range(int(SOON_S / 0.05)):
            _, trace, _ = await self.face.call("GET", f"/v1/messages/{message}")
            (phone,) = [one for one in trace["recipients"][0]["devices"] if one["device"] == "phone"]
            told = [receipt["fact"] for attempt in phone["attempts"] for receipt in attempt["receipts"]]
            if told:
                return told
            await CLOCK.sleep(0.05)
        return []


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: a service account takes seconds."""
    return tmp_path_factory.mktemp("keys")


@asynccontextmanager
async def room(vendor: str, folder: Path, keys: Path) -> AsyncIterator[Room]:
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=(vendor,), state_dir=keys)
    await sandbox.start()
    (folder / "relay.toml").write_text(sandbox.account_toml(vendor, vendor))
    async with served(folder / "relay.toml", CLOCK) as face:
        face.relay.withdrawer.settles_s = SETTLES_S
        address = {"account": vendor, "token": sandbox.emulators[vendor].address("t1")}
        assert (await face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": [address]}))[0] == 201
        yield Room(face, sandbox, vendor, await face.device(device="tablet"))
    await sandbox.stop()


@pytest.fixture(params=["fcm", "harmony", "xiaomi", "unifiedpush"])
async def any_way(
    request: pytest.FixtureRequest, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Room]:
    """Vendors that tell the app, or take it back themselves: by number, by name."""
    monkeypatch.chdir(tmp_path)
    async with room(request.param, tmp_path, keys) as one:
        yield one


@pytest.fixture(params=["fcm", "apns"])
async def silently(
    request: pytest.FixtureRequest, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Room]:
    monkeypatch.chdir(tmp_path)
    async with room(request.param, tmp_path, keys) as one:
        yield one


@pytest.fixture
async def harmony(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    monkeypatch.chdir(tmp_path)
    async with room("harmony", tmp_path, keys) as one:
        yield one


async def test_what_is_read_on_one_device_is_taken_away_on_the_other(any_way: Room) -> None:
    read = await any_way.send(shown=1)
    other = await any_way.send(shown=2, conversation=OTHER)
    await any_way.read(1)
    await any_way.clears(1)
    assert await any_way.facts(read) == ["withdrawn"]
    count = any_way.sandbox.phones.count("t1")

    await any_way.read(1)  # said twice
    await CLOCK.sleep(4 * SETTLES_S)
    assert any_way.sandbox.phones.count("t1") == count, "it is said once"
    _, trace, _ = await any_way.face.call("GET", f"/v1/messages/{other}")
    (phone,) = [one for one in trace["recipients"][0]["devices"] if one["device"] == "phone"]
    assert not any(attempt["receipts"] for attempt in phone["attempts"]), "what is unread stays"


@pytest.mark.parametrize("first", ["cancelled", "recalled"])
async def test_what_the_backend_takes_back_is_taken_away(any_way: Room, first: str) -> None:
    message = await any_way.send(shown=1)
    if first == "recalled":
        status, _, _ = await any_way.face.call("POST", "/v1/device/ack", {"ids": [message]}, token=any_way.tablet)
        assert status == 200
    status, answer, _ = await any_way.face.call("DELETE", f"/v1/messages/{message}")
    assert (status, answer["status"]) == (200, first)
    await any_way.clears(0)
    assert await any_way.facts(message) == ["withdrawn"]


async def test_what_expires_is_taken_away(harmony: Room) -> None:
    message = await harmony.send(shown=1, ttl_s=3)
    await harmony.clears(0)
    assert await harmony.facts(message) == ["withdrawn"]


async def test_a_call_that_another_device_takes_is_taken_away(harmony: Room) -> None:
    message = await harmony.send(shown=1, scope={"first_ack_wins": True})
    await harmony.face.call("POST", "/v1/device/ack", {"ids": [message]}, token=harmony.tablet)
    await harmony.clears(0)


async def test_a_newer_one_in_the_same_place_stays(harmony: Room) -> None:
    await harmony.send(shown=1, collapse_key="score")
    await harmony.send(shown=1, collapse_key="score")
    third = await harmony.send(shown=2, conversation=OTHER)
    await harmony.face.call("DELETE", f"/v1/messages/{third}")
    await harmony.clears(1)


async def test_a_summary_goes_when_all_that_it_tells_of_is_read(harmony: Room) -> None:
    some = [
        {"to": {"users": ["ann"]}, "body": "hi", "conversation": ONE, "push": {"title": f"hi {n}"}} for n in range(5)
    ]
    status, _, _ = await harmony.face.call("POST", "/v1/messages/batch", {"messages": some})
    assert status == 202
    assert await harmony.sandbox.phones.wait("t1", 1, timeout_s=SOON_S)
    (summary,) = harmony.shown()
    assert summary["body"] == "5 new messages"
    await harmony.read(4)
    await CLOCK.sleep(4 * SETTLES_S)
    assert len(harmony.shown()) == 1, "the newest is unread"
    await harmony.read(5)
    await harmony.clears(0)


async def test_the_badge_falls_with_what_is_read(silently: Room) -> None:
    await silently.send(shown=1, push={"title": "a", "badge": 1})
    await silently.send(shown=2, push={"title": "b", "badge": 2}, conversation=OTHER)
    await silently.read(2, "c2")
    await silently.clears(1)
    assert silently.view()["badge"] == 1


async def test_an_adapter_that_raises_ends_nothing_but_this_try(harmony: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in may have any mistake: others' notifications, and the relay, go on."""

    async def broken(*_: object) -> None:
        raise ValueError

    provider = harmony.face.relay.accounts.all()[0].provider
    with monkeypatch.context() as patch:
        patch.setattr(type(provider), "recall", broken)
        first = await harmony.send(shown=1)
        await harmony.read(1)
        assert await harmony.facts(first) == ["not_withdrawn"]
    await harmony.send(shown=2, conversation=OTHER)
    await harmony.read(3, "c2")  # the second number told the other devices of the first reading
    await harmony.clears(1)


async def test_a_row_that_cannot_be_read_ends_nothing_but_this_look(harmony: Room) -> None:
    """FLT-23: what is stored for one user must not end the relay for all others."""
    await harmony.send(shown=1)
    await harmony.face.relay.engine.write(lambda conn, _: conn.execute(update(message).values(push="[]")))
    await harmony.read(1)
    await CLOCK.sleep(3 * SETTLES_S)
    await harmony.send(shown=2, conversation=OTHER)
    assert (await harmony.face.call("GET", "/readyz"))[0] == 200


async def test_without_the_client_s_id_the_trace_says_why_it_stays(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "providers.sandbox.harmony.HarmonyEmulator._others", lambda self: {"category": "IM", "base_url": self.url}
    )
    async with room("harmony", tmp_path, keys) as one:
        message = await one.send(shown=1)
        await one.read(1)
        assert await one.facts(message) == ["not_withdrawn"]
        assert len(one.shown()) == 1
