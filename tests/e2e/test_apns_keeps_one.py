"""Apple keeps one notification for a phone that is off (sheet `apns` §8): what the user finds is the sum of all."""

import random
from pathlib import Path

import pytest
from relay_face import PUSHES_AT_ONCE, Face, served

from providers.sandbox import Sandbox
from providers.sandbox.apns import ApnsEmulator
from relay.clock import SystemClock

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
    async with served(config, CLOCK, PUSHES_AT_ONCE | {"RELAY_PUSH__KNOCKS_S": "[1, 3600]"}) as face:
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
    await sandbox.stop()


async def attempts(face: Face, message: str, count: int) -> None:
    """Waits until Apple has taken so many pushes that told of it."""
    await face.attempted(message, lambda made: sum(one["verdict"] == "accepted" for one in made) >= count)
