"""Devices that bring their own endpoints, on a relay that pushes to the sandbox: browsers, UnifiedPush, ntfy, Gotify."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from relay_face import Face, served

from providers.sandbox import Sandbox
from providers.sandbox.webpush import WebPushEmulator
from relay.cli import main
from relay.clock import SystemClock

SOON_S = 15.0
CLOCK = SystemClock()
VENDORS = ("webpush", "unifiedpush", "ntfy", "gotify")


class Scene(NamedTuple):
    face: Face
    sandbox: Sandbox

    def token(self, vendor: str, phone: str) -> str:
        return self.sandbox.emulators[vendor].address(phone)

    async def register(self, vendor: str, token: str, *, user: str = "ann", device: str = "phone") -> Any:
        addresses = [{"account": vendor, "token": token}]
        return await self.face.call("PUT", f"/v1/users/{user}/devices/{device}", {"addresses": addresses})

    async def arrives(self, phone: str) -> bool:
        return await self.sandbox.phones.wait(phone, 1, timeout_s=SOON_S)

    def shown(self, phone: str) -> Any:
        (view,) = self.sandbox.phones.view(token=phone, phones_max=1)
        return view["shown"]

    async def send(self, *users: str) -> None:
        await self.face.send(to={"users": list(users)}, push={"title": "Ann", "body": "hello"})


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=VENDORS, slow_s=0.05)
    await sandbox.start()
    config = tmp_path / "relay.toml"
    config.write_text("\n".join(sandbox.account_toml(vendor, vendor) for vendor in VENDORS))
    async with served(config, CLOCK) as face:
        yield Scene(face, sandbox)
    await sandbox.stop()


async def test_a_message_reaches_each_of_them(scene: Scene) -> None:
    for vendor in VENDORS:
        status, body, _ = await scene.register(vendor, scene.token(vendor, f"{vendor}-phone"), user=vendor)
        assert status == 201, body
    await scene.send(*VENDORS)
    for vendor in VENDORS:
        assert await scene.arrives(f"{vendor}-phone"), vendor
        (shown,) = scene.shown(f"{vendor}-phone")
        assert (shown["title"], shown["body"]) == ("Ann", "hello")


MISTAKES = [
    ("webpush", "abc", "write the subscription as JSON"),
    ("webpush", '{"endpoint":"https://fcm.googleapis.com/x"}', "the subscription lacks its keys"),
    ("webpush", '{"endpoint":"https://push.example/x","keys":{}}', "keys.p256dh must be 65 bytes"),
    ("unifiedpush", '{"endpoint":"https://169.254.169.254/x"}', "the endpoint cannot be called"),
    ("ntfy", "https://ntfy.sh/topic", "a topic has 1 to 64"),
    ("gotify", '{"url":"https://10.0.0.1","token":"Ax"}', "url cannot be called"),
]


async def test_what_cannot_be_an_address_is_said_where_it_stands(scene: Scene) -> None:
    for vendor, token, said in MISTAKES:
        status, problem, headers = await scene.register(vendor, token)
        assert (status, headers["Content-Type"]) == (422, "application/problem+json"), problem
        (error,) = problem["errors"]
        assert error["pointer"].endswith("/addresses/0/token")
        assert said in error["detail"]
        assert token not in json.dumps(problem)


def test_the_check_of_the_configuration_shows_what_devices_may_name(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text('[accounts.home]\nprovider = "gotify"\nexempt = ["gotify.lan:80", "10.1.0.0/16:8443"]\n')
    checked = CliRunner().invoke(main, ["check", "-c", str(config)])
    assert checked.exit_code == 0, checked.output
    for exempt in ("gotify.lan:80", "10.1.0.0/16:8443"):
        assert f"exempt    {exempt}: devices of home may name it" in checked.output


@pytest.mark.parametrize(
    ("url", "more", "said"),
    [
        ("http://127.0.0.1:9000/push", "allow_http = true", "The URL names an address; use a host name."),
        ("http://push.example.com/push", "allow_http = true", "http is not allowed here."),
        ("https://gateway.lan/push", "", "Hosts named lan may not be called."),
        ("https://push.example.com:8443/push", "", "Port 8443 may not be called. Or list its host and port in exempt."),
        ("http://127.0.0.1:9000/push", 'allow_http = true\nexempt = ["127.0.0.1:9000"]', None),
        ("https://push.example.com/push", "", None),
    ],
)
def test_the_check_of_the_configuration_tells_of_a_gateway_that_will_not_be_called(
    tmp_path: Path, url: str, more: str, said: str | None
) -> None:
    config = tmp_path / "relay.toml"
    secret = 'secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"'
    config.write_text(f'[accounts.home]\nprovider = "http"\nurl = "{url}"\n{secret}\n{more}\n')
    checked = CliRunner().invoke(main, ["check", "-c", str(config)])
    assert checked.exit_code == 0, checked.output
    assert ("note      home: url: " in checked.output) == (said is not None)
    assert (said or "The configuration is right.") in checked.output


def test_the_check_of_the_configuration_shows_what_an_account_may_call(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    gateway = 'provider = "http"\nurl = "https://gateway.lan/push"\nsecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"'
    config.write_text(f'[accounts.home]\n{gateway}\nexempt = ["gateway.lan:443"]\n')
    checked = CliRunner().invoke(main, ["check", "-c", str(config)])
    assert checked.exit_code == 0, checked.output
    assert "exempt    gateway.lan:443: home may call it although it is internal" in checked.output


async def test_an_app_is_told_the_key_to_subscribe_with(scene: Scene) -> None:
    token = await scene.face.device()
    status, body, _ = await scene.face.call("GET", "/v1/device/accounts", token=token)
    assert status == 200
    found = {one["account"]: one for one in body["accounts"]}
    emulator = scene.sandbox.emulators["webpush"]
    assert isinstance(emulator, WebPushEmulator)
    assert found.keys() == set(VENDORS)
    assert found["webpush"] == {
        "account": "webpush",
        "provider": "webpush",
        "kinds": ["token"],
        "offer": {"vapid": emulator.public_key},
    }
    assert found["unifiedpush"]["offer"] == {"vapid": emulator.public_key}
    assert found["ntfy"]["offer"] == {}


async def test_the_same_subscription_written_otherwise_is_the_same_address(scene: Scene) -> None:
    token = json.loads(scene.token("webpush", "laptop"))
    keys = {"auth": token["keys"]["auth"] + "==", "p256dh": token["keys"]["p256dh"] + "="}
    other = json.dumps({"keys": keys, "endpoint": token["endpoint"]}, separators=(",", ":"))
    both = [{"account": "webpush", "token": text} for text in (scene.token("webpush", "laptop"), other)]
    status, body, _ = await scene.face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": both})
    assert status == 201, body
    await scene.send("ann")
    assert await scene.arrives("laptop")
    assert len(scene.shown("laptop")) == 1


async def test_a_subscription_made_with_another_key_parks_nobody_else(scene: Scene) -> None:
    """Each browser is a stranger: what its endpoint answers must not stop the others."""
    for n, fault in enumerate(("forbidden", "unsigned", "wnsblocked")):
        await scene.register("webpush", scene.token("webpush", f"{fault}-{n}"), user=f"user-{n}")
    await scene.register("webpush", scene.token("webpush", "laptop"), user="bob")
    await scene.send("user-0", "user-1", "user-2")
    seen = scene.sandbox.emulators["webpush"].outcomes
    async with asyncio.timeout(SOON_S):
        while {"forbidden", "unsigned", "wnsblocked"} - seen.keys():
            await CLOCK.sleep(0.05)
    await scene.send("bob")
    assert await scene.arrives("laptop")


async def test_an_endpoint_that_is_gone_is_given_up(scene: Scene) -> None:
    await scene.register("webpush", scene.token("webpush", "unregistered-1"))
    await scene.send("ann")
    async with asyncio.timeout(SOON_S):
        while True:
            _, device, _ = await scene.face.call("GET", "/v1/users/ann/devices/phone")
            if device["addresses"][0]["state"] == "dead":
                break
            await CLOCK.sleep(0.05)


async def test_backend_and_device_see_that_an_address_keeps_failing(scene: Scene) -> None:
    """A UnifiedPush server that wants a login: a new registration, which may name another server, begins anew."""

    async def failing_since() -> Any:
        _, device, _ = await scene.face.call("GET", "/v1/users/ann/devices/phone")
        return device["addresses"][0]["failing_since"]

    await scene.register("unifiedpush", scene.token("unifiedpush", "login-1"))
    assert await failing_since() is None
    await scene.send("ann")
    async with asyncio.timeout(SOON_S):
        while await failing_since() is None:
            await CLOCK.sleep(0.05)
    _, issued, _ = await scene.face.call("POST", "/v1/users/ann/devices/phone/token")
    token = issued["token"]
    store = {"store": {"id": "s-1"}, "state": "foreground"}
    status, welcome, _ = await scene.face.call("PUT", "/v1/device", store, token=token)
    assert status == 200, welcome
    failing = {"account": "unifiedpush", "state": "active", "failing_since": await failing_since()}
    assert welcome["addresses"] == [failing]
    _, again, _ = await scene.face.call("POST", "/v1/device/addresses/challenge", token=token)
    assert again["addresses"] == [failing]
    await scene.register("unifiedpush", scene.token("unifiedpush", "phone-1"))
    assert await scene.arrives("phone-1")
    assert await failing_since() is None


async def test_a_day_s_messages_that_are_used_up_are_waited_for_and_told(scene: Scene) -> None:
    """ntfy's 42908: the account pauses, an hour at a time, and an operator hears why."""
    await scene.register("ntfy", scene.token("ntfy", "quota1-phone"))
    await scene.send("ann")
    async with asyncio.timeout(SOON_S):
        while not (events := (await scene.face.call("GET", "/v1/events?types=account.impaired"))[1]["events"]):
            await CLOCK.sleep(0.05)
    assert [(one["data"]["account"], one["data"]["code"]) for one in events] == [("ntfy", "ntfy_42908")]
    _, body, _ = await scene.face.call("GET", "/v1/push/accounts")
    (account,) = (one for one in body["accounts"] if one["name"] == "ntfy")
    assert (account["state"], account["code"]) == ("paused", "ntfy_42908")
