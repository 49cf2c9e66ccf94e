"""Sends that wait for their time or go to many, at a running relay: the answer, how far it is, and what is refused."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from running_relay import Face

WITHIN_S = 10


async def trace(face: Face, message: str) -> dict[str, Any]:
    return dict((await face.call("GET", f"/v1/messages/{message}")).json)


async def done(face: Face, message: str) -> dict[str, int]:
    """How many have which status once nobody waits any more."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = [one["status"] for one in (await trace(face, message))["recipients"]]
            if "waiting" not in found:
                return {status: found.count(status) for status in found}
            await asyncio.sleep(0.05)  # noqa: TID251 - the relay's own worker, in real time


def at(delta: timedelta) -> str:
    return (datetime.now(UTC) + delta).isoformat().replace("+00:00", "Z")  # noqa: TID251 - as a backend would


async def test_more_than_two_hundred_are_accepted_at_once_and_reached_by_and_by(face: Face) -> None:
    others = [f"{face.user}.stranger{n}" for n in range(200)]
    answer = await face.send(to={"users": [face.user, *others]}, body="to many")
    assert answer.status == 202
    fanout = answer.json["fanout"]
    assert fanout["total"] == 201
    assert {one["status"] for one in answer.json["recipients"]} == {"waiting"}
    assert await done(face, answer.json["id"]) == {"accepted": 1, "rejected": 200}
    assert [one["body"] for one in await face.inbox()] == ["to many"]


async def test_a_message_waits_for_its_time_and_says_so(face: Face) -> None:
    later = at(timedelta(hours=1))
    answer = await face.send(deliver_at=later)
    assert (answer.status, answer.json["recipients"]) == (202, [{"user": face.user, "status": "waiting"}])
    assert answer.json["deliver_at"][:19] == later[:19]
    assert await face.inbox() == []
    assert (await trace(face, answer.json["id"]))["deliver_at"] == answer.json["deliver_at"]
    assert (await face.call("DELETE", f"/v1/messages/{answer.json['id']}")).json["status"] == "cancelled"


async def test_a_time_that_is_near_comes(face: Face) -> None:
    message = await face.sent(deliver_at=at(timedelta(seconds=0.3)))
    assert await done(face, message) == {"accepted": 1}
    assert [one["id"] for one in await face.inbox()] == [message]


async def test_a_time_that_has_passed_is_now(face: Face) -> None:
    message = await face.sent(deliver_at="2020-01-01T00:00:00Z")
    assert [one["id"] for one in await face.inbox()] == [message]


@pytest.mark.parametrize("when", ["tomorrow", "2026-05-03T09:12:44", "9999-01-01T00:00:00Z"])
async def test_a_time_that_makes_no_sense_is_named(face: Face, when: str) -> None:
    answer = await face.send(deliver_at=when)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == ["/deliver_at"]
