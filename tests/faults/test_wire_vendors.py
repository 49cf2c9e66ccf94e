"""What a vendor and the network before it can do to a running relay: rows FLT-1 to FLT-9 of safety §4, each in its test's
name. Whatever it is, the message stays owed, and the device gets it by itself or by the next push."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from scene import Answer, Scene, eventually, scene
from wire import DOWN, UP

BULKHEAD = 4


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One relay for all; each test has users of its own."""
    home = tmp_path_factory.mktemp("relay")
    async with scene(home, {"RELAY_ACCOUNTS__GATE__CONCURRENCY": str(BULKHEAD)}) as at:
        yield at


@pytest_asyncio.fixture(loop_scope="module")
async def at(one_scene: Scene) -> AsyncIterator[Scene]:
    yield one_scene
    await one_scene.clear()


@pytest.fixture
def ann(request: pytest.FixtureRequest) -> str:
    return f"ann.{request.node.name.encode().hex()[-60:]}"


@pytest.fixture
def bob(ann: str) -> str:
    return ann.replace("ann", "bob")


async def verdicts(at: Scene, message: str, count: int) -> list[str]:
    """Of a message's attempts, once there are so many with an end."""
    found: list[str] = []

    async def told() -> bool:
        found[:] = [one["verdict"] for one in await at.attempts(message) if one["verdict"] is not None]
        return len(found) >= count

    await eventually(told)
    return found


async def test_flt_1_a_vendor_that_refuses_connections_is_told_when_it_is_back(at: Scene, ann: str, bob: str) -> None:
    token = await at.device(ann, "gate")
    await at.device(bob, "other")
    at.vendor_wires["gate"].refuses = True
    message = await at.send(ann)
    assert set(await verdicts(at, message, 2)) == {"retry"}
    assert not at.vendors["gate"].calls
    await at.send(bob)
    await at.vendors["other"].calls_are(1)  # the other account does not notice
    assert await at.inbox(token) == ["hi"]  # and the device may fetch it meanwhile
    at.vendor_wires["gate"].heal()
    (call,) = await at.vendors["gate"].calls_are(1)
    assert call["data"]["title"] == "t"
    assert (await verdicts(at, message, 3))[-1] == "accepted"


async def test_flt_1_flt_4_a_vendor_that_swallows_everything_holds_up_nobody_else(
    at: Scene, ann: str, bob: str
) -> None:
    """Its calls are bounded by its own bulkhead, and end by their time limit, which the unit tests shorten."""
    hole = at.vendor_wires["gate"]
    hole.holes.update({UP, DOWN})
    for n in range(BULKHEAD + 4):
        await at.device(f"{ann}{n}", "gate")
        await at.send(f"{ann}{n}")
    await eventually(lambda: _is(hole.open >= BULKHEAD))
    for n in range(3):
        await at.device(f"{bob}{n}", "other")
    for n in range(3):
        began = asyncio.get_running_loop().time()
        await at.send(f"{bob}{n}")
        await at.vendors["other"].calls_are(n + 1)
        assert asyncio.get_running_loop().time() - began < 2
    assert hole.open == BULKHEAD
    assert at.vendors["gate"].calls == []


async def test_flt_2_errors_of_the_vendor_cost_neither_token_nor_message(at: Scene, ann: str) -> None:
    token = await at.device(ann, "gate")
    at.vendors["gate"].answer = Answer(500)
    message = await at.send(ann)
    assert set(await verdicts(at, message, 2)) == {"retry"}
    assert await at.events(ann, "device.token_invalid", "device.unreachable") == []
    assert await at.inbox(token) == ["hi"]
    at.vendors["gate"].answer = Answer()
    assert (await verdicts(at, message, 3))[-1] == "accepted"
    assert {call["data"]["id"] for call in at.vendors["gate"].calls} == {message}


async def test_flt_3_while_a_vendor_asks_to_wait_it_gets_no_request(at: Scene, ann: str, bob: str) -> None:
    await at.device(ann, "gate")
    await at.device(bob, "gate")
    vendor = at.vendors["gate"]
    vendor.answer = Answer(429, headers={"Retry-After": "3"})
    message = await at.send(ann)
    await vendor.calls_are(1)
    asked_s = asyncio.get_running_loop().time()
    assert await verdicts(at, message, 1) == ["retry"]
    vendor.answer = Answer()
    await at.send(bob)  # the account waits, not only this device
    await vendor.calls_are(2)
    assert asyncio.get_running_loop().time() - asked_s >= 2.9
    await vendor.calls_are(3)
    assert {call["data"]["token"] for call in vendor.calls[1:]} == {f"{ann}.gate", f"{bob}.gate"}


async def test_flt_5_after_a_reset_in_the_answer_it_is_sent_again_under_the_same_id(at: Scene, ann: str) -> None:
    token = await at.device(ann, "gate")
    at.vendor_wires["gate"].cut_after = 10
    message = await at.send(ann)
    assert await verdicts(at, message, 1) == ["retry"]
    at.vendor_wires["gate"].heal()
    first, second = (await at.vendors["gate"].calls_are(2))[:2]
    assert first["id"] == second["id"]
    assert first["data"]["relay"]["ids"] == second["data"]["relay"]["ids"] == [message]  # by which the device knows it
    assert (await verdicts(at, message, 2)) == ["retry", "accepted"]
    assert len(at.vendors["gate"].calls) == 2
    assert await at.inbox(token) == ["hi"]


async def test_flt_6_a_token_is_given_up_on_the_vendors_plain_word_and_nothing_less(at: Scene, ann: str) -> None:
    token = await at.device(ann, "gate", "other")
    vendor = at.vendors["gate"]
    vendor.answer = Answer(400, {"error": "invalid"})  # a refusal without a word on the token
    await at.send(ann, "one")
    await at.vendors["other"].calls_are(1)  # the device's next vendor has it, with all that it says
    assert len(vendor.calls) == 1
    assert await at.events(ann, "device.token_invalid") == []
    vendor.answer = Answer(400, {"error": "token_dead"})
    await at.send(ann, "two")

    async def told() -> bool:
        return bool(await at.events(ann, "device.token_invalid"))

    await eventually(told)
    (event,) = await at.events(ann, "device.token_invalid")
    assert event["data"]["account"] == "gate"
    call = (await at.vendors["other"].calls_are(2))[-1]  # the next address of the chain
    assert call["data"]["token"] == f"{ann}.other"
    assert await at.inbox(token) == ["one", "two"]


async def test_flt_7_a_broken_credential_parks_the_account_and_costs_no_token(at: Scene, ann: str) -> None:
    token = await at.device(ann, "gate")
    at.vendors["gate"].answer = Answer(401)
    message = await at.send(ann)
    assert await verdicts(at, message, 1) == ["misconfigured"]
    for n in range(3):
        await at.send(ann, n)
    assert await at.inbox(token) == ["hi", 0, 1, 2]
    assert await at.events(ann, "device.token_invalid") == []
    assert len(at.vendors["gate"].calls) == 1
    at.vendors["gate"].answer = Answer()
    assert await at.relay.end(signal.SIGTERM) == 0
    await at.relay.start()  # the operator mended it
    began = asyncio.get_running_loop().time()
    await at.vendors["gate"].calls_are(2)
    assert asyncio.get_running_loop().time() - began < 10


@pytest.mark.parametrize("status", [400, 413])
async def test_flt_8_what_a_vendor_refuses_is_told_once_without_its_content(at: Scene, ann: str, status: int) -> None:
    token = await at.device(ann, "gate")
    at.vendors["gate"].answer = Answer(status)
    message = await at.send(ann)
    assert len(await verdicts(at, message, 2)) == 2
    await asyncio.sleep(1.5)  # noqa: TID251 - that nothing more comes
    full, bare = at.vendors["gate"].calls
    assert full["data"]["title"] == "t"
    assert "title" not in bare["data"]
    assert await at.inbox(token) == ["hi"]


ENDLESS_MIB = 100


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(ENDLESS_MIB):
        await answer.write(b"{" * 2**20)
    return answer


async def elsewhere(request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/elsewhere")


async def not_text(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503, body=b"\xff\xfe{", content_type="text/html")


@pytest.mark.parametrize("answer", [endless, not_text, elsewhere])  # after the last the account pauses
async def test_flt_9_a_vendor_that_answers_nonsense_is_asked_again_later(
    at: Scene, ann: str, bob: str, answer: Any
) -> None:
    asked: list[str] = []

    async def take(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        await request.read()
        return await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", take)
    async with TestServer(app) as server:
        assert server.port is not None
        wire = at.vendor_wires["gate"]
        sound, wire.target = wire.target, server.port
        token = await at.device(ann, "gate")
        before = at.memory_mib()
        message = await at.send(ann)
        if answer is endless:
            assert await verdicts(at, message, 1) == ["accepted"]  # its status said so
            assert wire.passed[DOWN] < ENDLESS_MIB / 4 * 2**20
        else:
            assert set(await verdicts(at, message, 1)) == {"retry"}
        assert at.memory_mib() - before < 16
        assert "/elsewhere" not in asked
        wire.target = sound
        wire.cut()
        assert await at.inbox(token) == ["hi"]
        if answer is not_text:
            await at.vendors["gate"].calls_are(1)  # asked again, by itself
        await at.send(ann, "more")
        await at.device(bob, "other")
        await at.send(bob)
        await at.vendors["other"].calls_are(1)
        if answer is endless:
            await at.vendors["gate"].calls_are(1)  # its next push goes there as ever


async def _is(value: bool) -> bool:
    return value
