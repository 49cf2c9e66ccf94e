"""Apple keeps one notification for a phone that is off (sheet `apns` §8): what the user finds is the sum of all."""

import asyncio
import random
from pathlib import Path

import aiohttp
import pytest
from relay_face import Face

from providers.sandbox import Sandbox
from providers.sandbox.apns import ApnsEmulator
from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.telemetry.metrics import Metrics

CLOCK = SystemClock()


async def test_a_phone_that_was_off_shows_one_notification_that_tells_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(
        now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=["apns"], state_dir=tmp_path / "sandbox"
    )
    await sandbox.start()
    apple = sandbox.emulators["apns"]
    assert isinstance(apple, ApnsEmulator)
    config = tmp_path / "relay.toml"
    config.write_text(sandbox.account_toml("apns", "apns"))
    quick = {"PUSH__DEBOUNCE_S": "0", "PUSH__KNOCKS_S": "[1, 3600]", "SERVER__PORT": "0", "SERVER__QUIET_S": "0"}
    environ = {f"RELAY_{key}": value for key, value in quick.items()}
    relay = Relay(load(config, environ), CLOCK, system_rng(), Metrics())
    first = await relay.open()
    assert first.api_key is not None
    async with relay.running(), aiohttp.ClientSession() as http:
        face = Face(http, f"http://127.0.0.1:{relay.port}", first.api_key, relay)
        addresses = [{"account": "apns", "token": apple.address("p1")}]
        status, body, _ = await face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": addresses})
        assert status in {200, 201}, body
        apple.switch_off("p1")
        message = await face.send(push={"title": "Bob", "body": "hi"})
        await attempts(face, message, 2)  # the first, and the reminder
        for _ in range(3):
            await attempts(face, await face.send(push={"title": "Bob", "body": "are you there?"}), 1)
        apple.switch_on("p1")
        assert await sandbox.phones.wait("p1", 1, timeout_s=15)
        (phone,) = sandbox.phones.view(token="p1", phones_max=1)
        assert [(one["title"], one["body"]) for one in phone["shown"]] == [("Bob", "4 new messages")]
    await relay.close()
    await sandbox.stop()


async def attempts(face: Face, message: str, count: int) -> None:
    """Waits until Apple has taken so many pushes that told of it."""
    async with asyncio.timeout(15):
        while True:
            _, trace, _ = await face.call("GET", f"/v1/messages/{message}")
            made = trace["recipients"][0]["devices"][0]["attempts"]
            if sum(one["verdict"] == "accepted" for one in made) >= count:
                return
            await CLOCK.sleep(0.05)
