"""What a webhook receiver and the network before it can do to a running relay: row FLT-25 of safety §4, through its whole
process. (Each kind of bad answer is in tests/webhooks/test_webhook_receivers.)"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from scene import Answer, Neighbour, Scene, eventually, scene
from wire import DOWN, UP, wire_to


@pytest.fixture
async def second() -> AsyncIterator[tuple[Neighbour, int]]:
    """Another receiver, which is well, and its port."""
    neighbour, app = Neighbour(), web.Application()
    app.router.add_post("/{tail:.*}", neighbour.take)
    async with TestServer(app) as server, wire_to(server.port or 0) as wire:
        yield neighbour, wire.port


@pytest.fixture
async def at(tmp_path: Path, second: tuple[Neighbour, int]) -> AsyncIterator[Scene]:
    async with scene(tmp_path, {"RELAY_WEBHOOKS__TIMEOUT_S": "2"}, also_exempt=[f"127.0.0.1:{second[1]}"]) as at:
        yield at


async def acked(at: Scene, user: str) -> str:
    """Makes one event: a message that its device acks. Gives the message's id."""
    token = await at.device(user)
    message = await at.send(user, push=None)
    _, page = await at.call("GET", "/v1/device/sync", token=token)
    status, _ = await at.call("POST", "/v1/device/ack", {"cursor": page["batches"][0]["cursor"]}, token=token)
    assert status == 200
    return message


def acks(neighbour: Neighbour) -> list[str]:
    """The messages that a receiver was told to be acked."""
    told = [call["data"] for call in neighbour.calls if call["type"] == "delivery.acked"]
    return [one["message_id"] for data in told for one in data["deliveries"]]


async def test_flt_25_whatever_befalls_the_wire_every_event_arrives_and_other_endpoints_do_not_wait(
    at: Scene, second: tuple[Neighbour, int]
) -> None:
    well, port = second
    await at.hook("delivery.acked")
    status, _ = await at.call("POST", "/v1/webhooks", {"url": f"http://127.0.0.1:{port}/", "types": ["delivery.acked"]})
    assert status == 201
    sent: list[str] = []

    async def befall(what: str) -> None:
        match what:
            case "refuses":
                at.receiver_wire.refuses = True
            case "swallows the request":
                at.receiver_wire.holes.add(UP)
            case "swallows the answer":
                at.receiver_wire.holes.add(DOWN)
            case "cuts the answer":
                at.receiver_wire.cut_after = 12
            case "crawls":
                at.receiver_wire.bytes_per_s = 50
        sent.append(await acked(at, what.replace(" ", ".")))
        began = asyncio.get_running_loop().time()

        async def arrived() -> bool:
            return sent[-1] in acks(well)

        await eventually(arrived)
        assert asyncio.get_running_loop().time() - began < 1
        await asyncio.sleep(0.3)  # noqa: TID251 - for the attempt to come to grief
        at.receiver_wire.heal()
        at.receiver_wire.cut()

    for what in ("refuses", "swallows the request", "swallows the answer", "cuts the answer", "crawls"):
        await befall(what)

    async def all_there() -> bool:
        return set(acks(at.receiver)) == set(sent)

    await eventually(all_there, within_s=60)
    assert sorted(acks(well)) == sorted(sent)  # once each where nothing was wrong
    ids: dict[str, set[str]] = {}
    for call in at.receiver.calls:
        if call["type"] == "delivery.acked":
            ids.setdefault(call["data"]["deliveries"][0]["message_id"], set()).add(call["id"])
    assert all(len(some) == 1 for some in ids.values()), "a repeat has the id of the first"


async def test_flt_25_a_receiver_that_says_410_is_left_alone_and_the_events_stay_to_be_pulled(at: Scene) -> None:
    endpoint = await at.hook("delivery.acked")
    at.receiver.answer = Answer(410)
    message = await acked(at, "ann")

    async def disabled() -> bool:
        return bool((await at.call("GET", f"/v1/webhooks/{endpoint}"))[1]["state"] == "disabled")

    await eventually(disabled)
    at.receiver.answer = Answer()
    count = len(at.receiver.calls)
    later = await acked(at, "bob")

    async def can_be_pulled() -> bool:  # an event gets its number soon after what it tells of
        pulled = [
            one["message_id"]
            for user in ("ann", "bob")
            for event in await at.events(user, "delivery.acked")
            for one in event["data"]["deliveries"]
        ]
        return pulled == [message, later]

    await eventually(can_be_pulled)
    assert len(at.receiver.calls) == count


async def test_a_restart_in_the_middle_of_a_call_to_a_receiver_repeats_it_under_its_id(at: Scene) -> None:
    await at.hook("delivery.acked")
    at.receiver_wire.holes.add(DOWN)
    message = await acked(at, "ann")

    async def asked() -> bool:
        return message in acks(at.receiver)

    await eventually(asked)
    await at.relay.end(signal.SIGKILL)
    at.receiver_wire.heal()
    at.receiver_wire.cut()
    await at.relay.start()

    async def again() -> bool:
        return acks(at.receiver).count(message) >= 2

    await eventually(again, within_s=60)
    assert len({call["id"] for call in at.receiver.calls if call["type"] == "delivery.acked"}) == 1
