"""Xiaomi, OPPO, vivo and Meizu on a whole relay: a message arrives, and the vendor's receipt finds it."""

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from aiohttp import ClientSession
from relay_face import PUSHES_AT_ONCE, Face, served

from providers.sandbox import Sandbox
from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.telemetry.metrics import Metrics

SOON_S = 20.0
CLOCK = SystemClock()
SECRET = "0123456789abcdefABCDEF"
VENDORS = ("xiaomi", "oppo", "vivo", "meizu")


class Scene:
    def __init__(self, face: Face, sandbox: Sandbox, config: Path) -> None:
        self.face = face
        self.sandbox = sandbox
        self.config = config

    async def told(self, vendor: str) -> dict[str, Any]:
        """Sends a message to a phone of this vendor; gives what the vendor was sent, once it was."""
        device = {"addresses": [{"account": vendor, "token": f"phone-{vendor}"}]}
        assert (await self.face.call("PUT", "/v1/users/ann/devices/phone", device))[0] == 201
        self.message = await self.face.send(push={"title": "Ann", "body": "hello"})
        assert await self.sandbox.phones.wait(f"phone-{vendor}", 1, timeout_s=SOON_S)
        (phone,) = self.sandbox.phones.view(token=f"phone-{vendor}", phones_max=1)
        received: list[Any] = phone["received"]  # type: ignore[assignment]
        (delivery,) = received
        assert (delivery["title"], delivery["body"]) == ("Ann", "hello")
        return dict(delivery)

    async def attempt(self) -> dict[str, Any]:
        return (await self.face.attempted(self.message, lambda made: made and made[-1].get("vendor_id")))[-1]

    async def attempts(self, message: str) -> list[dict[str, Any]]:
        """Those that have ended, once there are any."""
        return await self.face.attempted(message, lambda made: made and made[-1]["verdict"] is not None)

    async def report(self, address: str, body: bytes) -> int:
        async with self.face.http.post(f"{self.face.url}{urlsplit(address).path}", data=io.BytesIO(body)) as answer:
            return answer.status


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=VENDORS)
    await sandbox.start()
    tables = [
        sandbox.account_toml(vendor, vendor)
        + f"receipts = {{ url = 'https://relay.example/v1/receipts/{vendor}', path_secret = '{SECRET}' }}\n"
        for vendor in VENDORS
    ]
    config = tmp_path / "relay.toml"
    config.write_text("\n".join(tables), encoding="utf-8")
    async with served(config, CLOCK) as face:
        yield Scene(face, sandbox, config)
    await sandbox.stop()


def asked_of(vendor: str, message: dict[str, Any]) -> tuple[str, str]:
    """The address and the parameter that the push named."""
    match vendor:
        case "xiaomi":
            return message["extra.callback"], message["extra.callback.param"]
        case "oppo":
            return message["call_back_url"], message["call_back_parameter"]
        case _:
            return message["extra"]["callback"], message["extra"]["callback.param"]


def receipt(vendor: str, name: str, param: str) -> bytes:
    """That it was delivered, as the vendor posts it."""
    token = f"phone-{vendor}"
    match vendor:
        case "xiaomi":
            said = {name: {"param": param, "type": 1, "targets": token, "timestamp": 1_764_000_000_000}}
            return urlencode({"data": json.dumps(said)}).encode()
        case "oppo":
            event = {"messageId": name, "registrationIds": token, "param": param, "eventType": "push_arrive"}
            return json.dumps([event]).encode()
        case "vivo":
            return json.dumps({name: {"param": param, "targets": token}}).encode()
        case _:
            said = {f"{name}-1": {"param": param, "type": 1, "targets": [token]}}
            return urlencode({"cb": json.dumps(said), "access_token": "t"}).encode()


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_message_arrives_and_its_receipt_finds_it(scene: Scene, vendor: str) -> None:
    delivery = await scene.told(vendor)
    attempt = await scene.attempt()
    assert attempt["vendor_id"] == delivery["name"]
    address, param = asked_of(vendor, json.loads(bytes(delivery["message"])))
    assert param == scene.message
    assert await scene.report(address[:-1] + "x", receipt(vendor, delivery["name"], param)) == 401
    assert (await scene.attempt())["receipts"] == []
    assert await scene.report(address, receipt(vendor, delivery["name"], param)) == 200
    (found,) = (await scene.attempt())["receipts"]
    assert found["fact"] == "delivered"


@pytest.mark.parametrize(
    ("vendor", "fault", "code"),
    [
        ("xiaomi", "quota", "200001"),  # of the channel
        ("meizu", "dayover", "device_110011"),  # of the device's public messages
        ("xiaomi", "code27001", "27001"),  # the channel's id is unknown
        ("oppo", "code67", "67"),  # its category is wrong
    ],
)
async def test_news_that_the_vendor_does_not_take_now_holds_no_chat_back(
    scene: Scene, vendor: str, fault: str, code: str
) -> None:
    """A number of the day, or a mistake in the settings, that concerns the one channel and not the other."""
    token = f"phone-{vendor}"
    order = {"vendor": vendor, "token": token, "fault": fault, "times": 1}
    async with scene.face.http.post(f"{scene.sandbox.url}/_control/faults", json=order) as answer:
        assert answer.status < 300, await answer.text()
    device = {"addresses": [{"account": vendor, "token": token}]}
    assert (await scene.face.call("PUT", "/v1/users/ann/devices/phone", device))[0] == 201
    news = await scene.face.send(push={"title": "News", "body": "today", "channel": "news"})
    assert (await scene.attempts(news))[0]["vendor_code"] == code

    await scene.face.send(push={"title": "Ann", "body": "hello"})
    assert await scene.sandbox.phones.wait(token, 1, timeout_s=SOON_S)
    (phone,) = scene.sandbox.phones.view(token=token, phones_max=1)
    assert [one["title"] for one in phone["received"]] == ["Ann"]  # type: ignore[attr-defined]


async def test_an_address_that_the_vendor_has_no_right_to_give_us_passes_its_turn_on(scene: Scene) -> None:
    """Meizu's 201 is about this device; an operator has to act, and the device's other address does not wait for that."""
    order = {"vendor": "meizu", "token": "phone-meizu", "fault": "norights"}
    async with scene.face.http.post(f"{scene.sandbox.url}/_control/faults", json=order) as answer:
        assert answer.status < 300, await answer.text()
    addresses = [{"account": vendor, "token": f"phone-{vendor}"} for vendor in ("meizu", "xiaomi")]
    assert (await scene.face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": addresses}))[0] == 201
    message = await scene.face.send(push={"title": "Ann", "body": "hello"})
    assert await scene.sandbox.phones.wait("phone-xiaomi", 1, timeout_s=SOON_S)
    assert [one["account"] for one in await scene.attempts(message)] == ["meizu", "xiaomi"]


async def test_a_code_that_the_vendor_does_not_document_is_tried_three_times_and_then_told(scene: Scene) -> None:
    device = {"addresses": [{"account": "xiaomi", "token": "t1"}]}
    assert (await scene.face.call("PUT", "/v1/users/ann/devices/phone", device))[0] == 201
    order = {"vendor": "xiaomi", "token": "t1", "fault": "code20315"}  # which is of no send
    async with scene.face.http.post(f"{scene.sandbox.url}/_control/faults", json=order) as answer:
        assert answer.status < 300
    message = await scene.face.send(push={"title": "hi"})
    async with asyncio.timeout(SOON_S):
        while not (events := (await scene.face.call("GET", "/v1/events?types=account.impaired"))[1]["events"]):
            await CLOCK.sleep(0.05)
    assert [(one["data"]["account"], one["data"]["code"]) for one in events] == [("xiaomi", "20315")]
    assert [one["verdict"] for one in await scene.attempts(message)] == ["retry", "retry", "misconfigured"]
    _, body, _ = await scene.face.call("GET", "/v1/push/accounts")
    assert {one["name"]: one["state"] for one in body["accounts"]}["xiaomi"] == "impaired"


async def test_a_restart_does_not_ask_again_what_the_vendor_takes_no_more_of_today(tmp_path: Path) -> None:
    """Xiaomi's public channel is used up; whoever calls all the same is given less tomorrow."""
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=("xiaomi",))
    await sandbox.start()
    config = tmp_path / "relay.toml"
    store = f'[store]\nurl = "sqlite:///{tmp_path}/relay.db"\n'
    config.write_text(store + sandbox.account_toml("mi", "xiaomi"), encoding="utf-8")
    async with served(config, CLOCK) as face:
        for user in ("ann", "bob"):
            device = {"addresses": [{"account": "mi", "token": f"{user}-1"}]}
            assert (await face.call("PUT", f"/v1/users/{user}/devices/phone", device))[0] == 201
        order = {"vendor": "xiaomi", "token": "ann-1", "fault": "quota", "times": 1}
        async with face.http.post(f"{sandbox.url}/_control/faults", json=order) as answer:
            assert answer.status < 300
        scene = Scene(face, sandbox, config)
        news = await face.send(push={"title": "News", "channel": "news"})
        assert (await scene.attempts(news))[0]["vendor_code"] == "200001"
        key = face.key
    asked = len(sandbox.emulators["xiaomi"].seen)

    relay = Relay(load(config, PUSHES_AT_ONCE), CLOCK, system_rng(), Metrics())
    await relay.open()
    async with relay.running(), ClientSession() as http:
        face = Face(http, f"http://127.0.0.1:{relay.port}", key, relay)
        await face.send(to={"users": ["bob"]}, push={"title": "News", "channel": "news"})
        await face.send(to={"users": ["bob"]}, push={"title": "Ann"})
        assert await sandbox.phones.wait("bob-1", 1, timeout_s=SOON_S)
        (phone,) = sandbox.phones.view(token="bob-1", phones_max=1)
        assert [one["title"] for one in phone["received"]] == ["Ann"]  # type: ignore[attr-defined]
        assert len(sandbox.emulators["xiaomi"].seen) == asked + 1

        assert (await face.call("POST", "/v1/push/accounts/mi/unpark"))[0] == 200  # Xiaomi has given more
        assert await sandbox.phones.wait("ann-1", 1, timeout_s=SOON_S)
    await relay.close()
    await sandbox.stop()
