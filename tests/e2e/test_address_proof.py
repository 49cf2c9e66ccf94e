"""An account with `challenge = true`: a device proves that it reads what goes to its address before anything else goes there."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from relay_face import Face, served

from providers.sandbox import Sandbox
from relay.client import Client, Problem
from relay.clock import SystemClock
from relay.push import challenge

SOON_S = 15.0
CLOCK = SystemClock()


class Scene:
    def __init__(self, face: Face, sandbox: Sandbox) -> None:
        self.face = face
        self.sandbox = sandbox
        self.tokens: dict[str, str] = {}

    async def register(self, phone: str, *, user: str = "ann") -> str:
        """Registers the phone's address by the device itself; gives its state."""
        if user not in self.tokens:
            self.tokens[user] = await self.face.device(user)
        body = {"addresses": [{"account": "up", "token": self.sandbox.emulators["unifiedpush"].address(phone)}]}
        status, answer, _ = await self.face.call("PUT", "/v1/device/addresses", body, token=self.tokens[user])
        assert status == 200, answer
        return str(answer["addresses"][0]["state"])

    async def prove(self, value: str, *, user: str = "ann") -> Any:
        body = {"account": "up", "value": value}
        return await self.face.call("POST", "/v1/device/addresses/proof", body, token=self.tokens[user])

    async def challenged(self, phone: str, *, times: int = 1) -> dict[str, Any]:
        """The relay's object in the newest push that the phone has got, once it has got so many."""
        assert await self.sandbox.phones.wait(phone, times, timeout_s=SOON_S)
        received = self.received(phone)
        assert len(received) == times
        message = json.loads(received[-1]["data"]) if isinstance(received[-1]["data"], str) else received[-1]["data"]
        relay = message["relay"]
        return dict(json.loads(relay) if isinstance(relay, str) else relay)

    def received(self, phone: str) -> list[dict[str, Any]]:
        return [dict(one) for view in self.sandbox.phones.view(token=phone, phones_max=1) for one in view["received"]]  # type: ignore[attr-defined]


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), vendors=("unifiedpush",))
    await sandbox.start()
    config = tmp_path / "relay.toml"
    config.write_text(f"{sandbox.account_toml('up', 'unifiedpush').strip()}\nchallenge = true\n")
    async with served(config, CLOCK) as face:
        yield Scene(face, sandbox)
    await sandbox.stop()


async def test_an_address_is_used_once_its_device_has_said_what_a_push_to_it_said(scene: Scene) -> None:
    assert await scene.register("phone1") == "unproven"
    told = await scene.challenged("phone1")
    assert (told["device"], told["prove"]["account"]) == ("phone", "up")
    message = await scene.face.send(push={"title": "Ann", "body": "hello"})
    _, trace, _ = await scene.face.call("GET", f"/v1/messages/{message}")
    assert trace["recipients"][0]["devices"][0]["attempts"] == [], "nothing else goes there"

    status, answer, _ = await scene.prove(told["prove"]["value"])
    assert (status, answer) == (200, {"addresses": [{"account": "up", "state": "active"}]})
    assert await scene.sandbox.phones.wait("phone1", 2, timeout_s=SOON_S), "what waited for it"
    assert scene.received("phone1")[-1]["title"] == "Ann"
    assert (await scene.prove(told["prove"]["value"]))[0] == 200, "said twice, it is no less true"
    assert await scene.register("phone1") == "active", "and need not be said at the next contact"


async def test_what_another_devices_push_said_proves_nothing(scene: Scene) -> None:
    await scene.register("phone1")
    await scene.register("phone2", user="ben")
    theirs = (await scene.challenged("phone2"))["prove"]["value"]
    for value in (theirs, "x", "A" * 22):
        status, problem, headers = await scene.prove(value)
        assert (status, headers["Content-Type"]) == (422, "application/problem+json")
        assert problem["errors"][0]["pointer"] == "/value"
    mine = (await scene.challenged("phone1"))["prove"]["value"]
    assert (await scene.prove(mine, user="ben"))[0] == 422


async def test_nobody_loses_an_address_to_who_has_not_proven_it(scene: Scene) -> None:
    await scene.register("phone1")
    assert (await scene.prove((await scene.challenged("phone1"))["prove"]["value"]))[0] == 200
    assert await scene.register("phone1", user="ben") == "unproven"
    assert await scene.register("phone1") == "active"
    value = (await scene.challenged("phone1", times=2))["prove"]["value"]
    assert (await scene.prove(value, user="ben"))[0] == 200
    assert (await scene.face.call("GET", "/v1/users/ann/devices/phone"))[1]["addresses"][0]["state"] == "taken"


async def test_another_push_is_sent_when_the_device_asks_but_not_one_after_the_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.register("phone1")
    first = await scene.challenged("phone1")
    ask = ("POST", "/v1/device/addresses/challenge")
    status, answer, _ = await scene.face.call(*ask, token=scene.tokens["ann"])
    assert (status, answer) == (202, {"addresses": [{"account": "up", "state": "unproven"}]})
    monkeypatch.setattr(challenge, "GAP_MS", 0)
    assert (await scene.face.call(*ask, token=scene.tokens["ann"]))[0] == 202
    assert await scene.challenged("phone1", times=2) == first, "it says the same, and the first still counts"
    ids = {json.loads(bytes(one["message"]))["id"] for one in scene.received("phone1")}
    assert len(ids) == 2, "a vendor that drops repeats passes on both"


async def test_the_client_proves_an_address_by_the_push_that_its_app_got(scene: Scene, tmp_path: Path) -> None:
    address = {"account": "up", "token": scene.sandbox.emulators["unifiedpush"].address("phone1")}
    token = await scene.face.device()
    async with Client(scene.face.url, token, cache=tmp_path / "a.db", facts={"addresses": [address]}) as client:
        await client.caught_up(SOON_S)
        await client.pushed(await scene.challenged("phone1"))
        device = await scene.face.call("GET", "/v1/users/ann/devices/phone")
        assert [one["state"] for one in device[1]["addresses"]] == ["active"]
        await client.pushed({"v": 1, "head": 3})
        with pytest.raises(Problem) as refused:
            await client.pushed({"v": 1, "prove": {"account": "up", "value": "x"}})
        assert refused.value.status == 422
