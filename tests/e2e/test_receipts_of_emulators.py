"""A vendor reports by itself what became of a push, in its own form and with its own proof, and the relay's trace says so."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from relay_face import PUSHES_AT_ONCE, Face, served

from providers.sandbox import Sandbox
from providers.sandbox.coded import CodedEmulator
from relay.clock import SystemClock

SOON_S = 20.0
CLOCK = SystemClock()
VENDORS = ("huawei", "harmony", "honor", "xiaomi", "oppo", "vivo", "meizu")
CODES = {"huawei": "0", "harmony": "0", "honor": "0", "xiaomi": "1", "oppo": "push_arrive", "vivo": "0", "meizu": "1"}


class Scene:
    def __init__(self, face: Face, sandbox: Sandbox) -> None:
        self.face = face
        self.sandbox = sandbox

    def emulator(self, vendor: str) -> CodedEmulator:
        found = self.sandbox.emulators[vendor]
        assert isinstance(found, CodedEmulator)
        return found

    async def pushed(self, vendor: str, token: str = "phone", **push: Any) -> str:
        addresses = {"addresses": [{"account": vendor, "token": token}]}
        assert (await self.face.call("PUT", "/v1/users/ann/devices/phone", addresses))[0] in {200, 201}
        return await self.face.send(push={"title": "Ann", "body": "hello"} | push)

    async def reported(self, message: str, count: int = 1) -> list[dict[str, Any]]:
        """The receipts that the trace of this message has, once there are so many."""
        made = await self.face.attempted(message, lambda made: sum(len(one["receipts"]) for one in made) >= count)
        return [receipt for one in made for receipt in one["receipts"]]

    async def waits_for_tomorrow(self, message: str) -> None:
        """It is told again when the next day begins."""
        waiting: dict[str, Any] = {}
        async with asyncio.timeout(SOON_S):
            while waiting.get("reason") != "quota":
                await CLOCK.sleep(0.05)
                _, trace, _ = await self.face.call("GET", f"/v1/messages/{message}")
                waiting = trace["recipients"][0]["devices"][0]["waiting"]


@asynccontextmanager
async def scene_of(vendors: tuple[str, ...], home: Path) -> AsyncIterator[Scene]:
    """The vendors know the relay's port before it is there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=vendors, state_dir=home)
    await sandbox.start()
    url = f"http://127.0.0.1:{port}"
    config = home / "relay.toml"
    config.write_text("\n".join(sandbox.account_toml(vendor, vendor, relay=url) for vendor in vendors))
    async with served(config, CLOCK, PUSHES_AT_ONCE | {"RELAY_SERVER__PORT": str(port)}) as face:
        yield Scene(face, sandbox)
    await sandbox.stop()


@pytest.fixture
async def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    vendor = request.getfixturevalue("vendor")
    async with scene_of((vendor,), tmp_path) as scene:
        yield scene


@pytest.mark.parametrize("vendor", VENDORS)
async def test_that_it_was_delivered_is_in_the_trace(scene: Scene, vendor: str) -> None:
    message = await scene.pushed(vendor)
    (receipt,) = await scene.reported(message)
    assert (receipt["fact"], receipt["code"]) == ("delivered", CODES[vendor])


@pytest.mark.parametrize("vendor", ["xiaomi", "meizu"])
async def test_so_is_that_somebody_has_tapped_it(scene: Scene, vendor: str) -> None:
    message = await scene.pushed(vendor)
    await scene.reported(message)
    order = {"vendor": vendor, "token": "phone"}
    async with scene.face.http.post(f"{scene.sandbox.url}/_control/click", json=order) as answer:
        assert answer.status == 204
    assert [one["fact"] for one in await scene.reported(message, 2)] == ["delivered", "clicked"]


@pytest.mark.parametrize("vendor", ["huawei", "oppo"])
async def test_who_waits_for_a_vendor_that_does_not_tell_of_taps_hears_it(scene: Scene, vendor: str) -> None:
    await scene.reported(await scene.pushed(vendor))
    order = {"vendor": vendor, "token": "phone"}
    async with scene.face.http.post(f"{scene.sandbox.url}/_control/click", json=order) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("vendor", ["huawei", "harmony", "xiaomi", "oppo"])
async def test_an_app_that_is_gone_is_told_by_the_receipt_alone_and_its_address_goes(scene: Scene, vendor: str) -> None:
    message = await scene.pushed(vendor, "uninstalled-1")
    (receipt,) = await scene.reported(message)
    assert receipt["fact"] == "failed"
    assert receipt["reason"] in {"uninstalled", "invalid"}
    _, device, _ = await scene.face.call("GET", "/v1/users/ann/devices/phone")
    assert [one["state"] for one in device["addresses"]] == ["dead"]
    assert scene.sandbox.phones.count("uninstalled-1") == 0


NEWS: dict[str, tuple[str, dict[str, Any]]] = {  # what the vendor counts it as, and how a push becomes that
    "oppo": ("device", {"channel": "news"}),
    "huawei": ("marketing", {"overrides": {"huawei": {"android": {"category": "MARKETING"}}}}),
    "harmony": ("marketing", {"overrides": {"harmony": {"payload": {"notification": {"category": "MARKETING"}}}}}),
}


@pytest.mark.parametrize("vendor", NEWS)
async def test_a_device_that_had_its_share_of_the_day_is_told_of(scene: Scene, vendor: str) -> None:
    emulator, (counted, push) = scene.emulator(vendor), NEWS[vendor]
    for _ in range(2):
        emulator.today.add((counted, "phone"))
    message = await scene.pushed(vendor, **push)
    (receipt,) = await scene.reported(message)
    assert (receipt["fact"], receipt["reason"]) == ("failed", "daily_cap")
    await scene.waits_for_tomorrow(message)


@pytest.mark.parametrize("vendor", ["huawei"])
async def test_a_device_that_gets_nothing_for_a_while_is_told_of(scene: Scene, vendor: str) -> None:
    """Sheet huawei §7: 3000 a device and day."""
    for _ in range(3000):
        scene.emulator(vendor).today.add(("all", "phone"))
    message = await scene.pushed(vendor)
    (receipt,) = await scene.reported(message)
    assert (receipt["fact"], receipt["code"], receipt["reason"]) == ("failed", "102", "throttled")
    await scene.waits_for_tomorrow(message)


@pytest.mark.parametrize("vendor", ["huawei"])
async def test_a_wrong_secret_in_the_console_is_refused(scene: Scene, vendor: str) -> None:
    emulator = scene.emulator(vendor)
    assert emulator.console is not None
    emulator.console = replace(emulator.console, secret="another")
    await scene.pushed(vendor)
    async with asyncio.timeout(SOON_S):
        while not emulator.outcomes["receipt:401"]:
            await CLOCK.sleep(0.05)


@pytest.mark.parametrize("vendor", ["xiaomi"])
async def test_nothing_that_was_not_shown_can_be_tapped(scene: Scene, vendor: str) -> None:
    for order in ({"vendor": vendor, "token": "nobody"}, {"token": 1}):
        async with scene.face.http.post(f"{scene.sandbox.url}/_control/click", json=order) as answer:
            assert answer.status in {400, 404}
