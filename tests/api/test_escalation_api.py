"""A message with steps, from outside: what a backend may ask for, what its trace says, and the event that it gets."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from own_process import Ahead, process
from running_relay import Answer, Face

WITHIN_S = 20
STEPS = [{"after_s": 600, "by": "next_address"}, {"after_s": 1200, "by": "webhook"}]
PUSH = {"title": "Alarm"}


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """What it gives, once that is something."""
    async with asyncio.timeout(WITHIN_S):
        while not (found := await look()):
            await asyncio.sleep(0.05)  # noqa: TID251 - the relay's own workers, in real time
    return found


async def test_the_steps_of_a_message_outlive_the_process_that_promised_them(tmp_path: Path) -> None:
    clock = Ahead()
    async with aiohttp.ClientSession() as http:
        async with process(tmp_path, clock) as relay:
            face = Face(http, relay, "ann")
            await face.device()
            chain = [{"account": name, "kind": "token", "token": name} for name in ("first", "second")]
            assert (await face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": chain})).status == 200
            message = await face.sent(push=PUSH, escalate=STEPS)
            await until(lambda: attempts(face, message))
        clock.ahead_ms += 600_000
        async with process(tmp_path, clock, key=relay.key) as relay:
            face = Face(http, relay, "ann")

            async def escalated() -> bool:
                return len(await attempts(face, message)) == 2

            await until(escalated)
            assert await attempts(face, message) == [("first", "each", "accepted"), ("second", "escalate", "accepted")]
            assert await states(face, message) == ["done", "waiting"]
            clock.ahead_ms += 600_000
            (event,) = await until(lambda: events(face))
            assert (event["data"]["user"], event["data"]["device"]) == ("ann", "phone")
            (delivery,) = event["data"]["deliveries"]
            assert (delivery["message_id"], delivery["step"], delivery["after_s"]) == (message, 2, 1200)
            assert await states(face, message) == ["done", "done"]


async def test_one_that_is_acked_takes_no_step(face: Face) -> None:
    await face.sent(escalate=[{"after_s": 10, "by": "webhook"}])
    message = await face.sent(escalate=STEPS, push=PUSH)
    batch = (await face.sync()).json["batches"][0]
    assert (await face.call("POST", "/v1/device/ack", {"cursor": batch["cursor"]}, token=face.token)).status == 200
    assert await states(face, message) == ["not_needed", "not_needed"]


REFUSED = [
    # escalate, more of the message -> the fields that are named
    ([], {}, ["/escalate"]),
    ([{"after_s": 60 + n, "by": "webhook"} for n in range(6)], {}, ["/escalate"]),
    ([{"after_s": 9, "by": "webhook"}], {}, ["/escalate/0/after_s"]),
    ([{"after_s": 2_419_201, "by": "webhook"}], {}, ["/escalate/0/after_s"]),
    ([{"after_s": 60, "by": "pigeon"}], {}, ["/escalate/0/by"]),
    ([{"after_s": 60, "by": "webhook"}, {"after_s": 60, "by": "webhook"}], {}, ["/escalate/1/after_s"]),
    ([{"after_s": 60, "by": "webhook"}, {"after_s": 50, "by": "webhook"}], {}, ["/escalate/1/after_s"]),
    ([{"after_s": 60, "by": "next_address"}], {}, ["/escalate/0/by"]),
    ([{"after_s": 60, "by": "webhook"}], {"ttl_s": 60}, ["/escalate/0/after_s"]),
    ([{"after_s": 60, "by": "webhook"}], {"ttl_s": 0}, ["/escalate/0/after_s"]),
]


@pytest.mark.parametrize(("steps", "more", "pointers"), REFUSED)
async def test_steps_that_make_no_sense_are_named(
    face: Face, steps: list[Any], more: dict[str, Any], pointers: list[str]
) -> None:
    answer = await face.send(escalate=steps, **more)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == pointers


async def test_they_do_not_go_with_an_ultra_group(face: Face) -> None:
    group = f"{face.user}.town"
    members = {"type": "ultra", "add": [face.user]}
    assert (await face.call("PUT", f"/v1/groups/{group}/members", members)).status == 200
    answer = await face.send(to={"group": group}, escalate=[{"after_s": 60, "by": "webhook"}])
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == ["/escalate"]


# --- looking ----------------------------------------------------------------------------------------------------------


async def recipient(face: Face, message: str) -> dict[str, Any]:
    (one,) = (await face.call("GET", f"/v1/messages/{message}")).json["recipients"]
    return dict(one)


async def attempts(face: Face, message: str) -> list[tuple[str, str, str]]:
    """Account, form and verdict of those that have ended."""
    (device,) = (await recipient(face, message))["devices"]
    return [(one["account"], one["form"], one["verdict"]) for one in device["attempts"] if one["verdict"]]


async def states(face: Face, message: str) -> list[str]:
    return [one["state"] for one in (await recipient(face, message))["escalation"]]


async def events(face: Face) -> list[Any]:
    answer: Answer = await face.call("GET", "/v1/events?types=delivery.escalated")
    assert answer.status == 200, answer.text
    return list(answer.json["events"])
