"""Privacy "sealed" on a whole relay: the vendor carries what only the device opens; a device without keys gets ids."""

import base64
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from relay_face import Face, served

from providers.sandbox import Sandbox
from relay.clock import SystemClock

SOON_S = 20.0
CLOCK = SystemClock()
VENDORS = ("apns", "fcm")
PUSH = {"title": "Ann", "body": "my secret plans", "sound": "bell", "data": {"place": "under the bridge"}}

PHONE = generate_private_key(SECP256R1())
AUTH = bytes(range(16))


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


SEAL = {
    "p256dh": base64url(PHONE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)),
    "auth": base64url(AUTH),
}


def opened(sealed: str) -> dict[str, Any]:
    """As an app does with another's implementation of RFC 8291."""
    body = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    return dict(json.loads(http_ece.decrypt(body, private_key=PHONE, auth_secret=AUTH)))


class Scene:
    def __init__(self, face: Face, sandbox: Sandbox) -> None:
        self.face = face
        self.sandbox = sandbox

    async def register(self, vendor: str, **more: Any) -> Any:
        address = {"account": vendor, "token": self.sandbox.emulators[vendor].address("phone")} | more
        return await self.face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": [address]})

    async def received(self) -> dict[str, Any]:
        assert await self.sandbox.phones.wait("phone", 1, timeout_s=SOON_S)
        (phone,) = self.sandbox.phones.view(token="phone", phones_max=1)
        received: list[Any] = phone["received"]  # type: ignore[assignment]
        return dict(received[-1])

    async def attempts(self, message: str, count: int) -> list[dict[str, Any]]:
        return await self.face.attempted(message, lambda made: sum(one["verdict"] is not None for one in made) >= count)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(
        now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=VENDORS, state_dir=tmp_path / "state"
    )
    await sandbox.start()
    tables = [sandbox.account_toml(vendor, vendor) + 'privacy = "sealed"\n' for vendor in VENDORS]
    config = tmp_path / "relay.toml"
    config.write_text("\n".join(tables), encoding="utf-8")
    async with served(config, CLOCK) as face:
        yield Scene(face, sandbox)
    await sandbox.stop()


@pytest.mark.parametrize("vendor", VENDORS)
async def test_the_vendor_carries_what_only_the_device_opens(scene: Scene, vendor: str) -> None:
    assert (await scene.register(vendor, seal=SEAL))[0] == 201
    message = await scene.face.send(push=PUSH)
    said = json.loads(bytes((await scene.received())["message"]))
    sent = json.dumps(said)
    assert "secret" not in sent
    assert "bridge" not in sent
    assert "Ann" not in sent
    found = opened(said["sealed"] if vendor == "apns" else said["data"]["sealed"])
    assert found == {"id": message} | PUSH
    (attempt,) = await scene.attempts(message, 1)
    assert (attempt["form"], attempt["verdict"], attempt["left_out"]) == ("each", "accepted", [])


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_device_without_keys_gets_ids_alone_and_the_trace_says_so(scene: Scene, vendor: str) -> None:
    assert (await scene.register(vendor))[0] == 201
    message = await scene.face.send(push=PUSH)
    delivery = await scene.received()
    assert "secret" not in str(delivery)
    assert message in bytes(delivery["message"]).decode()
    (attempt,) = await scene.attempts(message, 1)
    assert (attempt["form"], attempt["left_out"]) == ("wake", ["seal_keys"])


async def test_what_is_too_large_once_it_is_sealed_goes_as_ids_alone(scene: Scene) -> None:
    assert (await scene.register("apns", seal=SEAL))[0] == 201
    message = await scene.face.send(push=PUSH | {"body": "x" * 3000})
    attempts = await scene.attempts(message, 2)
    assert [(one["form"], one["verdict"]) for one in attempts] == [("each", "too_large"), ("wake", "accepted")]


async def test_what_are_no_keys_is_refused_by_name(scene: Scene) -> None:
    status, problem, _ = await scene.register("apns", seal=SEAL | {"auth": "AAAA"})
    assert status == 422
    assert problem["errors"] == [
        {"pointer": "/addresses/0/seal/auth", "code": "invalid", "detail": "must be 16 bytes in base64url"}
    ]
