"""An API key in a URL or a cookie is refused there, and its owner told to rotate it (safety SEC-1)."""

import asyncio
from typing import Any

import pytest
from running_relay import Face

from relay.api.principal import SCOPES
from relay.store import apps


async def new_key(face: Face) -> tuple[str, str]:
    """Its text and its id."""
    text = await face.of.does(face.of.relay.issuer.api_key("default", name=f"{face.user}.key", scopes=SCOPES))
    return text, text.split("_")[2]


async def flagged(face: Face, key_id: str) -> bool:
    row = await face.of.does(face.of.relay.engine.read(lambda conn, _: apps.api_key_row(conn, key_id)))
    return row.leaked_ms is not None


async def told(face: Face, key_id: str) -> list[dict[str, Any]]:
    events = (await face.call("GET", "/v1/events?types=api_key.leaked&limit=200")).json["events"]
    return [one["data"] for one in events if one["data"]["key_id"] == key_id]


@pytest.mark.parametrize("place", ["/v1/messages?key={}", "/v1/messages?x={}", "/v1/device/ws?token={}", "cookie"])
async def test_a_key_that_works_is_refused_and_flagged_once(face: Face, place: str) -> None:
    text, key_id = await new_key(face)
    for _ in range(2):
        if place == "cookie":
            answer = await face.call("GET", "/v1/messages", headers={"Cookie": f"session={text}"})
        else:
            answer = await face.call("GET", place.format(text))
        assert answer.refused(400, "credential_in_url")
        assert text.rpartition("_")[0][-40:] not in answer.text
    assert await flagged(face, key_id)
    async with asyncio.timeout(10):
        while not (found := await told(face, key_id)):
            await asyncio.sleep(0.05)  # noqa: TID251 - events are numbered by the relay's own worker
    (one,) = found
    assert one["name"] == f"{face.user}.key"
    assert (await face.call("GET", "/v1/messages", token=text)).status == 200, "to revoke it is its owner's to say"


async def test_the_key_that_takes_its_place_is_not_flagged(face: Face) -> None:
    text, key_id = await new_key(face)
    await face.call("GET", f"/v1/messages?key={text}")
    successor, _ = await face.of.does(face.of.relay.issuer.rotated_api_key("default", key_id))
    assert not await flagged(face, successor.split("_")[2])
    assert await flagged(face, key_id)


async def test_who_knows_only_its_name_flags_nothing_and_is_told_the_same(face: Face) -> None:
    text, key_id = await new_key(face)
    other, _ = await new_key(face)
    head, tail = text[: len("rk_live_") + 12], other[len("rk_live_") + 12 :]
    for guess in (head + tail, head + "_" + "A" * 43 + "_000000"):
        answer = await face.call("GET", f"/v1/messages?key={guess}")
        assert answer.refused(400, "credential_in_url")
    assert not await flagged(face, key_id)
    assert await told(face, key_id) == []
