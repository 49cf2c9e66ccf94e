"""One call for all devices that are told the same, where an account says `batch = true`."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from relay_face import Face, served

from providers.sandbox import Sandbox
from relay.clock import SystemClock

SOON_S = 20.0
CLOCK = SystemClock()
VENDORS = ("harmony", "honor", "huawei", "meizu", "oppo", "vivo", "xiaomi")
MEMBERS = 4


class Scene:
    def __init__(self, face: Face, sandbox: Sandbox) -> None:
        self.face = face
        self.sandbox = sandbox

    async def told(self, vendor: str, tokens: list[str], **push: Any) -> dict[str, list[dict[str, Any]]]:
        """A message to users with these phones; the attempts of each, once all have ended."""
        users = [f"{vendor}-{token}" for token in tokens]
        for user, token in zip(users, tokens, strict=True):
            device = {"addresses": [{"account": vendor, "token": token}]}
            assert (await self.face.call("PUT", f"/v1/users/{user}/devices/phone", device))[0] in {200, 201}
        body = {"to": {"users": users}, "body": {"text": "hi"}, "push": {"title": "Ann", "body": "hello", **push}}
        status, answer, _ = await self.face.call("POST", "/v1/messages", body)
        assert status == 202
        async with asyncio.timeout(SOON_S):
            while True:
                _, trace, _ = await self.face.call("GET", f"/v1/messages/{answer['id']}")
                found = {one["user"]: one["devices"][0]["attempts"] for one in trace["recipients"]}
                if all(some and some[-1]["verdict"] is not None for some in found.values()):
                    return {token: found[user] for user, token in zip(users, tokens, strict=True)}
                await CLOCK.sleep(0.05)

    def shown(self, token: str) -> list[dict[str, Any]]:
        (phone,) = self.sandbox.phones.view(token=token, phones_max=1)
        return [dict(one) for one in phone["received"]]  # type: ignore[attr-defined]


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    (vendor,) = {request.node.callspec.params["vendor"]}
    sandbox = Sandbox(
        now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=(vendor,), state_dir=tmp_path / "keys"
    )
    await sandbox.start()
    config = tmp_path / "relay.toml"
    config.write_text(f"{sandbox.account_toml(vendor, vendor).strip()}\nbatch = true\n", encoding="utf-8")
    async with served(config, CLOCK) as face:
        yield Scene(face, sandbox)
    await sandbox.stop()


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_group_is_told_by_one_call_and_a_dead_token_among_them_dies_alone(scene: Scene, vendor: str) -> None:
    alive = [f"phone{n}-{vendor}" for n in range(MEMBERS)]
    attempts = await scene.told(vendor, [*alive, "unregistered-1"])
    assert {token: attempts[token][0]["verdict"] for token in attempts} == {
        **dict.fromkeys(alive, "accepted"),
        "unregistered-1": "token_dead",
    }
    received = [scene.shown(token) for token in alive]
    assert [[(one["title"], one["body"]) for one in some] for some in received] == [[("Ann", "hello")]] * MEMBERS
    assert len({some[0]["name"] for some in received}) == 1, "the vendor's name of a call"
    assert all("device" not in relay_object(some[0]) for some in received)


@pytest.mark.parametrize("vendor", ["huawei"])
async def test_what_the_app_has_a_say_in_names_whose_it_is_and_goes_alone(scene: Scene, vendor: str) -> None:
    """The app then asks whether it is for whoever uses it now (protocol 7.6); so it does with a silent push."""
    tokens = ["phone1", "phone2"]
    for push in ({"mutable": True}, {"title": None, "body": None}):
        await scene.told(vendor, tokens, **push)
    received = [one for token in tokens for one in scene.shown(token)]
    assert len({one["name"] for one in received}) == len(received) == 4
    assert all(relay_object(one)["device"] == "phone" for one in received)


def relay_object(shown: dict[str, Any]) -> dict[str, Any]:
    data = shown["data"]
    found = json.loads(data["payload"]) if "payload" in data else data  # Xiaomi's has it inside
    return dict(json.loads(found["relay"]))
