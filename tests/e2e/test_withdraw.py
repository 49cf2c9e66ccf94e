"""Shown on the phone, read on the tablet: the phone is told to take it away (F31), once, and never loudly."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from relay_face import Face

from providers.sandbox import Sandbox
from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.telemetry.metrics import Metrics

CLOCK = SystemClock()
SOON_S = 15.0


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), state_dir=tmp_path / "sandbox")
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture
async def pushing(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Face]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.toml").write_text(sandbox.account_toml("fcm"))
    environ = {"RELAY_SERVER__PORT": "0", "RELAY_SERVER__QUIET_S": "0", "RELAY_PUSH__DEBOUNCE_S": "0"}
    relay = Relay(load(tmp_path / "relay.toml", environ), CLOCK, system_rng(), Metrics())
    first = await relay.open()
    assert first.api_key is not None
    async with relay.running(), aiohttp.ClientSession() as http:
        yield Face(http, f"http://127.0.0.1:{relay.port}", first.api_key, relay)
    await relay.close()


async def test_what_is_read_on_one_device_is_taken_away_on_the_other(pushing: Face, sandbox: Sandbox) -> None:
    phone = {"addresses": [{"account": "fcm", "token": "t1"}]}
    assert (await pushing.call("PUT", "/v1/users/ann/devices/phone", phone))[0] == 201
    tablet = await pushing.device(device="tablet")
    conversation = {"type": "direct", "id": "c1"}
    read = await pushing.send(conversation=conversation, push={"title": "hi"})
    assert await sandbox.phones.wait("t1", 1, timeout_s=SOON_S)
    other = await pushing.send(conversation={"type": "direct", "id": "c2"}, push={"title": "ho"})
    assert await sandbox.phones.wait("t1", 2, timeout_s=SOON_S)

    for seq in (1, 1):  # said twice
        body = {"read": [{"conversation": "c1", "read_seq": seq}]}
        status, answer, _ = await pushing.call("POST", "/v1/device/ack", body, token=tablet)
        assert status == 200, answer
    assert await sandbox.phones.wait("t1", 3, timeout_s=SOON_S)
    assert not await sandbox.phones.wait("t1", 4, timeout_s=1.5), "it is said once"

    (seen,) = sandbox.phones.view(token="t1", phones_max=1)
    withdrawal = json.loads(json.dumps(seen["received"][-1]["data"]))  # type: ignore[index]
    assert json.loads(withdrawal["relay"])["withdraw"] == [read]
    assert other not in withdrawal["relay"]
    assert len(seen["shown"]) == 2, "nothing more stands on the screen: the app removes what is named"  # type: ignore[arg-type]
