"""Google keeps four collapse keys for a phone that is off (sheet `fcm` §3.2): what the user finds tells of all messages."""

import random
from pathlib import Path
from typing import Any

import pytest
from relay_face import Face, served

from providers.sandbox import Sandbox
from providers.sandbox.fcm import FcmEmulator
from relay.clock import SystemClock

CLOCK = SystemClock()


async def test_a_phone_that_was_off_is_told_of_every_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), state_dir=tmp_path / "sandbox")
    await sandbox.start()
    google = sandbox.emulators["fcm"]
    assert isinstance(google, FcmEmulator)
    config = tmp_path / "relay.toml"
    config.write_text(f"[push]\ndebounce_s = 0\n{sandbox.account_toml('fcm', 'fcm')}")
    async with served(config, CLOCK) as face:
        addresses = [{"account": "fcm", "token": "p1"}]
        status, body, _ = await face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": addresses})
        assert status in {200, 201}, body
        google.switch_off("p1")
        for number in range(7):
            await told(face, await face.send(push={"title": "Bob", "body": f"{number}"}))
        google.switch_on("p1")
        (phone,) = sandbox.phones.view(token="p1", phones_max=1)
        shown: Any = phone["shown"]
        assert [one["body"] for one in shown] == ["0", "1", "2", "7 new messages"]
    await sandbox.stop()


async def told(face: Face, message: str) -> None:
    """Waits until Google has taken a push that tells of it."""
    await face.attempted(message, lambda made: any(one["verdict"] == "accepted" for one in made))
