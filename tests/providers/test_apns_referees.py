"""Clients that others wrote, against our APNs emulator: what they take for good APNs, we must serve as such."""

import asyncio
import json
import os
import random
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol

from providers.sandbox import Sandbox
from providers.sandbox.apns import BUNDLE, KEY_ID, TEAM_ID, ApnsEmulator
from relay.clock import SystemClock

CLOCK = SystemClock()
# What a fault's word is, and what a client should say of it.
ANSWERS = {
    "phone-1": ("200", None),
    "baddevicetoken-1": ("400", "BadDeviceToken"),
    "devicetokennotfortopic-1": ("400", "DeviceTokenNotForTopic"),
    "unregistered-1": ("410", "Unregistered"),
    "payloadtoolarge-1": ("413", "PayloadTooLarge"),
    "toomanyrequests-1": ("429", "TooManyRequests"),
    "internalservererror-1": ("500", "InternalServerError"),
}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=["apns"], slow_s=0.05)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


def port_of(apple: ApnsEmulator) -> int:
    return int(apple.url.rpartition(":")[2])


async def test_aioapns(apple: ApnsEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(APNsProductionClientProtocol, "APNS_SERVER", "localhost")
    monkeypatch.setattr(APNsProductionClientProtocol, "APNS_PORT", port_of(apple))
    trusting = ssl.create_default_context(cadata=apple.host.authority.pem)
    trusting.set_alpn_protocols(["h2"])
    key = str(apple.settings()["key"])
    client = APNs(key=key, key_id=KEY_ID, team_id=TEAM_ID, topic=BUNDLE, ssl_context=trusting)
    found = {}
    for phone in ANSWERS:
        request = NotificationRequest(
            device_token=apple.address(phone),
            message={"aps": {"alert": {"title": "Ann", "body": "hello"}, "badge": 1}},
            time_to_live=60,
            priority=10,
            collapse_key="c",
            push_type=PushType.ALERT,
        )
        result = await client.send_notification(request)
        found[phone] = (result.status, result.description or None)
    wake = NotificationRequest(
        device_token=apple.address("phone-2"),
        message={"aps": {"content-available": 1}},
        priority=5,
        push_type=PushType.BACKGROUND,
    )
    assert (await client.send_notification(wake)).is_successful
    client.pool.close()
    assert found == ANSWERS
    (view,) = apple.host.phones.view(token="phone-1", phones_max=1)
    received: Any = view["received"]
    assert (received[0]["title"], received[0]["badge"], received[0]["collapse"]) == ("Ann", 1, "c")


def node_modules() -> tuple[str, str]:
    """Node itself, and the folder that has @parse/node-apn."""
    node, folder = shutil.which("node"), os.environ.get("RELAY_NODE_MODULES", "")
    if node is None or not (Path(folder) / "@parse" / "node-apn").is_dir():
        missing = (
            "RELAY_NODE_MODULES names no folder with @parse/node-apn (npm install --prefix …), or there is no node"
        )
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return node, folder


async def test_node_apn(apple: ApnsEmulator, tmp_path: Path) -> None:
    node, folder = node_modules()
    (tmp_path / "key.p8").write_text(str(apple.settings()["key"]))
    (tmp_path / "ca.pem").write_text(apple.host.authority.pem)
    token = {"key": str(tmp_path / "key.p8"), "keyId": KEY_ID, "teamId": TEAM_ID}
    notes: list[dict[str, Any]] = [
        {
            "token": apple.address(phone),
            "alert": {"title": "Ann", "body": "hello"},
            "badge": 1,
            "expiry": CLOCK.now_ms() // 1000 + 60,
            "priority": 10,
            "pushType": "alert",
            "collapseId": "c",
        }
        for phone in ANSWERS
        if "internal" not in phone  # which it tries again for a long time
    ]
    process = await asyncio.create_subprocess_exec(
        node,
        str(Path(__file__).parent / "node_apn.cjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"NODE_PATH": folder, "NODE_EXTRA_CA_CERTS": str(tmp_path / "ca.pem"), "PATH": os.environ.get("PATH", "")},
    )
    options = {"token": token, "address": "localhost", "port": port_of(apple), "production": True}
    asked = json.dumps({"options": options, "topic": BUNDLE, "notes": notes}).encode()
    try:
        async with asyncio.timeout(60):
            said, trouble = await process.communicate(asked)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, trouble.decode()
    found = [
        ("200", None) if one["sent"] else (str(one["failed"][0]["status"]), one["failed"][0]["reason"])
        for one in json.loads(said)
    ]
    assert found == [answer for phone, answer in ANSWERS.items() if "internal" not in phone]
    (view,) = apple.host.phones.view(token="phone-1", phones_max=1)
    received: Any = view["received"]
    assert (received[0]["title"], received[0]["badge"], received[0]["collapse"]) == ("Ann", 1, "c")
