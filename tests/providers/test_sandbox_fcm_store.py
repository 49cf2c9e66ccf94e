"""What Google keeps for a phone that is off (sheet fcm.md §3.2 and §4), sent by the adapter."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from meeting import Meeting, meeting

from providers.contract import Verdict
from providers.sandbox.fcm import FcmEmulator


class Scene:
    def __init__(self, met: Meeting) -> None:
        self.met = met
        emulator = met.sandbox.emulators["fcm"]
        assert isinstance(emulator, FcmEmulator)
        self.google = emulator

    async def send(self, phone: str, body: str, **fields: Any) -> None:
        assert (await self.met.send(phone, id=f"m-{body}", body=body, **fields)).verdict is Verdict.ACCEPTED

    def comes(self, phone: str) -> list[str | None]:
        """What it gets, once it is on."""
        self.google.switch_on(phone)
        return [one["body"] for one in self.met.received(phone)]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with meeting("fcm") as met:
        yield Scene(met)


@pytest.mark.parametrize("phone", ["phone", "ios-phone", "web-phone"])
async def test_a_phone_that_is_off_gets_a_message_when_it_is_on(scene: Scene, phone: str) -> None:
    async with aiohttp.ClientSession(scene.met.sandbox.url) as http:
        async with http.post(f"/fcm/phones/{phone}/off") as answer:
            assert answer.status == 204
        await scene.send(phone, "hello")
        assert scene.met.received(phone) == []
        state = scene.google.state()
        assert (state["off"], state["stored"]) == ([phone], 1)
        async with http.post(f"/fcm/phones/{phone}/on"):
            assert [one["body"] for one in scene.met.received(phone)] == ["hello"]
    await scene.send(phone, "now")
    assert scene.comes(phone) == ["hello", "now"]


@pytest.mark.parametrize("phone", ["phone", "ios-phone", "web-phone"])
async def test_what_is_for_now_or_never_is_not_kept_nor_what_is_over_by_then(scene: Scene, phone: str) -> None:
    scene.google.switch_off(phone)
    for body, ttl_s in (("never", 0), ("short", 60), ("long", 120)):
        await scene.send(phone, body, ttl_s=ttl_s, collapse_key=None if phone == "web-phone" else body)
    scene.met.clock[0] += 90
    assert scene.comes(phone) == ["long"]


async def test_a_newer_one_takes_the_place_of_one_with_its_key(scene: Scene) -> None:
    scene.google.switch_off("phone")
    for body in ("1 : 0", "2 : 0"):
        await scene.send("phone", body, collapse_key="score")
    await scene.send("phone", "hello", collapse_key="chat")
    assert scene.comes("phone") == ["2 : 0", "hello"]


async def test_a_fifth_key_drives_out_any_of_the_four(scene: Scene) -> None:
    lost = set()
    for phone in range(12):
        scene.google.switch_off(f"p{phone}")
        for body in "abcde":
            await scene.send(f"p{phone}", body, collapse_key=body)
        came = scene.comes(f"p{phone}")
        assert len(came) == 4
        assert came[-1] == "e"
        lost |= {*"abcd"} - {*came}
    assert len(lost) > 1


async def test_notifications_that_name_no_key_have_the_same_one(scene: Scene) -> None:
    scene.google.switch_off("phone")
    for body in "abc":
        await scene.send("phone", body)
    assert scene.comes("phone") == ["c"]


async def test_more_than_a_hundred_messages_for_the_app_are_all_discarded_and_it_is_told_so() -> None:
    async with meeting("fcm", mode="data") as met:
        scene = Scene(met)
        for count, phone in ((100, "full"), (101, "over")):
            scene.google.switch_off(phone)
            for number in range(count):
                await scene.send(phone, str(number))
        await scene.send("over", "later")
        assert len(scene.comes("full")) == 100
        assert scene.comes("over") == [None, "later"]
        assert met.received("over")[0]["data"] == {"message_type": "deleted_messages"}


async def test_apple_keeps_one_and_a_browser_those_of_all_topics(scene: Scene) -> None:
    for phone in ("ios-phone", "web-phone"):
        scene.google.switch_off(phone)
        for body, key in (("a", "x"), ("b", "x"), ("c", "y"), ("d", None)):
            await scene.send(phone, body, collapse_key=key)
    assert scene.comes("ios-phone") == ["d"]
    assert scene.comes("web-phone") == ["b", "c", "d"]


async def test_a_reset_forgets_who_is_off(scene: Scene) -> None:
    scene.google.switch_off("phone")
    await scene.send("phone", "hello")
    await scene.met.control("reset")
    await scene.send("phone", "again")
    assert scene.comes("phone") == ["again"]
