"""A relay with accounts at Huawei's two networks and Honor, before their emulators: told, told anew, and dead."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from relay_face import Face, served

from providers.sandbox import Sandbox
from relay.clock import SystemClock

SOON_S = 15.0
CLOCK = SystemClock()
VENDORS = ("huawei", "harmony", "honor")


@dataclass
class Scene:
    face: Face
    sandbox: Sandbox

    async def device(self, user: str, *addresses: tuple[str, str]) -> None:
        listed = [{"account": account, "token": token} for account, token in addresses]
        status, body, _ = await self.face.call("PUT", f"/v1/users/{user}/devices/phone", {"addresses": listed})
        assert status in {200, 201}, body

    async def send(self, user: str, **more: Any) -> str:
        message = {"to": {"users": [user]}, "body": "hi", "push": {"title": "Ann", "body": "hi"}, **more}
        status, answer, _ = await self.face.call("POST", "/v1/messages", message)
        assert status == 202, answer
        return str(answer["id"])

    async def arrives(self, token: str, count: int = 1) -> dict[str, Any]:
        assert await self.sandbox.phones.wait(token, count, timeout_s=SOON_S)
        (phone,) = self.sandbox.phones.view(token=token, phones_max=1)
        return dict(phone)

    async def addresses(self, user: str) -> list[tuple[str, str]]:
        _, device, _ = await self.face.call("GET", f"/v1/users/{user}/devices/phone")
        return [(one["account"], one["state"]) for one in device["addresses"]]

    async def events(self, type_: str) -> list[dict[str, Any]]:
        _, body, _ = await self.face.call("GET", f"/v1/events?types={type_}")
        return [event["data"] for event in body["events"]]


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(
        now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=VENDORS, state_dir=tmp_path / "sandbox"
    )
    await sandbox.start()
    config = tmp_path / "relay.toml"
    config.write_text("".join(sandbox.account_toml(vendor, vendor) for vendor in VENDORS))
    async with served(config, CLOCK) as face:
        yield Scene(face, sandbox)
    await sandbox.stop()


async def test_each_network_is_told_and_a_newer_one_takes_the_older_one_s_place(scene: Scene) -> None:
    for vendor in VENDORS:
        await scene.device(vendor, (vendor, f"{vendor}-phone"))
        first = await scene.send(vendor, collapse_key="offer")
        phone = await scene.arrives(f"{vendor}-phone")
        assert [one["title"] for one in phone["shown"]] == ["Ann"]
        assert phone["received"][0]["data"]["relay_id"] == first
        await scene.send(vendor, collapse_key="offer", push={"title": "Ann", "body": "now half the price"})
        phone = await scene.arrives(f"{vendor}-phone", 2)
        assert [one["body"] for one in phone["shown"]] == ["now half the price"]


async def test_a_dead_token_makes_way_for_the_phone_s_new_network(scene: Scene) -> None:
    """As after an upgrade to HarmonyOS 5: the old token stops working, the new one is registered beside it."""
    await scene.device("dee", ("huawei", "unregistered-1"), ("harmony", "new-phone"))
    await scene.send("dee")
    await scene.arrives("new-phone")
    async with asyncio.timeout(SOON_S):
        while ("huawei", "dead") not in await scene.addresses("dee"):
            await CLOCK.sleep(0.05)
    assert ("harmony", "active") in await scene.addresses("dee")
    async with asyncio.timeout(SOON_S):
        while not (events := await scene.events("device.token_invalid")):
            await CLOCK.sleep(0.05)
    assert [event["account"] for event in events] == ["huawei"]


async def test_a_token_that_cannot_be_one_is_refused_at_registration(scene: Scene) -> None:
    for vendor in VENDORS:
        addresses = {"addresses": [{"account": vendor, "token": "two words"}]}
        status, problem, _ = await scene.face.call("PUT", "/v1/users/eve/devices/phone", addresses)
        assert (status, problem["errors"][0]["pointer"]) == (422, "/addresses/0/token")
