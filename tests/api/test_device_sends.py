"""Messages that devices send themselves, at a running relay that lets them (protocol 9.1, 12.3)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from own_process import Ahead
from running_relay import Answer, Face, Running, running

from relay.clock import SystemClock, rfc3339

PATH = "/v1/device/messages"
BURST = 20


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {
        "RELAY_APP__DEVICE_SENDS": "true",
        "RELAY_LIMITS__DEVICE_SENDS_BURST": str(BURST),
        "RELAY_LIMITS__DEVICE_SENDS_PER_S": "0.1",
    }
    with running(tmp_path_factory.mktemp("relay"), settings) as one:
        yield one


@pytest.fixture
async def bob(face: Face) -> str:
    """Another user's token."""
    return await face.device(f"{face.user}-bob")


async def send(face: Face, key: str | None = "k1", *, token: str | None = None, **fields: Any) -> Answer:
    """A send to bob, by this face's device."""
    body = {"to": {"users": [f"{face.user}-bob"]}, "body": {"text": "hi"}} | fields
    headers = {} if key is None else {"Idempotency-Key": key}
    return await face.call("POST", PATH, body, token=token or face.token, headers=headers)


@asynccontextmanager
async def socket(face: Face, token: str | None = None) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {token or face.token}"}
    async with face.http.ws_connect(
        f"{face.of.url}/v1/device/ws", headers=headers, protocols=["relay.v1.json"]
    ) as connection:
        await connection.send_json({"type": "hello", "store": {"id": "s"}})
        assert (await connection.receive_json(timeout=10))["type"] == "welcome"
        yield connection


async def frame(connection: aiohttp.ClientWebSocketResponse, *types: str) -> Any:
    while (heard := await connection.receive_json(timeout=10))["type"] not in types:
        pass
    return heard


def said(key: str, face: Face, **fields: Any) -> dict[str, Any]:
    message = {"to": {"users": [f"{face.user}-bob"]}, "body": {"text": "hi"}} | fields
    return {"type": "send", "ref": "9", "key": key, "message": message}


# --- who gets it ------------------------------------------------------------------------------------------------------


async def test_it_reaches_its_receiver_in_the_name_of_whoever_holds_the_token(face: Face, bob: str) -> None:
    sent = await send(face, client_ref="my-1", conversation={"id": "c-1"})
    assert sent.status == 202, sent.text
    (entry,) = await face.inbox(token=bob)
    assert (entry["id"], entry["h"]) == (sent.json["id"], sent.json["h"])
    assert entry["sender"] == {"user": face.user, "device": "phone"}
    assert (entry["body"], entry["client_ref"], entry["conversation"]["id"]) == ({"text": "hi"}, "my-1", "c-1")


async def test_the_senders_other_devices_get_a_copy_and_the_sending_one_only_in_a_later_session(
    face: Face, bob: str
) -> None:
    tablet = await face.device(device="tablet")
    await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)
    sent = (await send(face)).json
    (copy,) = await face.inbox(token=tablet)
    assert (copy["kind"], copy["id"], copy["seq"]) == ("own", sent["id"], sent["seq"])
    page = (await face.sync()).json["batches"][0]
    assert page["epoch"] == sent["epoch"]
    assert page["entries"] == []
    assert page["gaps"] == [{"from": sent["seq"] - 1, "to": sent["seq"], "why": "own"}]
    await face.call("PUT", "/v1/device", {"store": {"id": "another"}}, token=face.token)
    assert [one["id"] for one in await face.inbox()] == [sent["id"]]


async def test_a_group_takes_messages_of_its_members_alone(face: Face, bob: str) -> None:
    group = f"{face.user}-friends"
    path = f"/v1/groups/{group}/members"
    await face.call("PUT", path, {"add": [f"{face.user}-bob"]})
    answer = await send(face, to={"group": group})
    assert answer.refused(422, "recipient_unknown")
    assert answer.pointers == ["/to/group"]
    await face.call("PUT", path, {"add": [face.user]})
    sent = await send(face, to={"group": group})
    assert sent.status == 202, sent.text
    assert [one["conversation"] for one in await face.inbox(token=bob)] == [{"type": "group", "id": group}]


async def test_in_an_ultra_group_who_is_mentioned_has_it_in_the_inbox_too(face: Face, bob: str) -> None:
    group = f"{face.user}-town"
    members = {"add": [face.user, f"{face.user}-bob", f"{face.user}-cid"], "type": "ultra"}
    assert (await face.call("PUT", f"/v1/groups/{group}/members", members)).status == 200
    sent = await send(face, to={"group": group}, mentions=[f"{face.user}-bob"])
    assert sent.status == 202, sent.text
    assert [(one["kind"], one["id"]) for one in await face.inbox(token=bob)] == [("pointer", sent.json["id"])]
    assert await face.inbox() == []


async def test_a_receiver_who_is_not_there_is_named_and_numbers_of_others_are_not_told(face: Face, bob: str) -> None:
    sent = await send(face, to={"users": [f"{face.user}-bob", "stranger"]})
    assert sent.status == 202
    assert sent.json["refused"] == [{"user": "stranger", "code": "recipient_unknown"}]
    assert "recipients" not in sent.json


async def test_later_means_later_for_the_senders_devices_too(face: Face, bob: str) -> None:
    at = rfc3339(SystemClock().now_ms() + 3_600_000)
    sent = await send(face, deliver_at=at)
    assert (sent.status, sent.json["seq"], sent.json["deliver_at"]) == (202, None, at)
    assert await face.inbox(token=bob) == await face.inbox() == []


# --- once -------------------------------------------------------------------------------------------------------------


async def test_a_repeat_is_one_message_over_whatever_way_and_in_whatever_session(face: Face, bob: str) -> None:
    first = await send(face)
    again = await send(face)
    assert (again.status, again.headers["Idempotent-Replay"]) == (200, "true")
    assert again.json == first.json
    async with socket(face) as connection:
        await connection.send_json(said("k1", face))
        sent = await frame(connection, "sent")
    assert {name: sent[name] for name in first.json} == first.json
    assert len(await face.inbox(token=bob)) == 1


async def test_another_message_under_the_same_key_is_refused(face: Face, bob: str) -> None:
    await send(face)
    assert (await send(face, body="other")).refused(409, "idempotency_conflict")


async def test_a_devices_keys_are_its_own(face: Face, bob: str) -> None:
    """Neither the backend nor another device can block a device's key, or be told what went by it."""
    tablet = await face.device(device="tablet")
    by_backend = await face.send(to={"users": [f"{face.user}-bob"]}, body={"text": "hi"}, key="k1")
    ids = {by_backend.json["id"], (await send(face)).json["id"], (await send(face, token=tablet)).json["id"]}
    assert len(ids) == 3
    assert {one["id"] for one in await face.inbox(token=bob)} == ids


async def test_an_id_of_an_earlier_answer_goes_with_its_key_alone(face: Face, bob: str) -> None:
    sent = (await send(face, "k1")).json["id"]
    assert (await send(face, "k2", id=sent)).refused(422, "validation_failed")
    assert (await send(face, "k1", id=sent)).status == 200


async def test_a_user_with_another_name_still_repeats_what_it_sent_as_itself(face: Face, bob: str) -> None:
    sent = (await send(face)).json
    name = f"{face.user}-renamed"
    assert (await face.call("POST", f"/v1/users/{face.user}/rename", {"to": name})).status == 204
    token = await face.device(name)
    again = await send(face, token=token)
    assert (again.status, again.json["id"]) == (200, sent["id"])
    assert len(await face.inbox(token=bob)) == 1


async def test_a_user_who_comes_back_after_being_erased_finds_no_key_taken(face: Face, bob: str) -> None:
    sent = (await send(face)).json
    assert (await face.call("DELETE", f"/v1/users/{face.user}")).status == 204
    again = await send(face, token=await face.device())
    assert again.status == 202, again.text
    assert again.json["id"] != sent["id"]


# --- what it may not --------------------------------------------------------------------------------------------------


async def test_a_key_is_required(face: Face, bob: str) -> None:
    assert (await send(face, None)).refused(400, "idempotency_key_required")
    assert await face.inbox(token=bob) == []


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "another's name": ({"sender": {"user": "eve"}}, "unknown_field", "/sender"),
    "what ends others' messages": ({"collapse_key": "x"}, "unknown_field", "/collapse_key"),
    "the system's voice": ({"conversation": {"type": "system"}}, "validation_failed", "/conversation/type"),
    "a vendor's own fields": ({"push": {"title": "t", "overrides": {"fcm": {}}}}, "unknown_field", "/push/overrides"),
    "single devices": ({"to": {"devices": [{"user": "b", "device": "p"}]}}, "unknown_field", "/to/devices"),
    "mentions without a group": ({"mentions": ["eve"]}, "validation_failed", ""),
    "nobody": ({"to": {}}, "validation_failed", "/to"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_a_device_may_not_say_is_named(face: Face, bob: str, what: str) -> None:
    fields, code, pointer = WRONG[what]
    answer = await send(face, **fields)
    assert answer.code == code, answer.text
    assert answer.pointers == [pointer]
    assert await face.inbox(token=bob) == []


async def test_a_wrong_message_on_a_socket_is_named_and_the_connection_goes_on(face: Face, bob: str) -> None:
    async with socket(face) as connection:
        await connection.send_json(said("k1", face, ttl_s=-1))
        error = await frame(connection, "error")
        assert (error["code"], error["ref"]) == ("validation_failed", "9")
        assert [one["pointer"] for one in error["errors"]] == ["/ttl_s"]
        await connection.send_json(said("k1", face, field_of_tomorrow=1))
        sent = await frame(connection, "sent", "error")
    assert (sent["type"], sent["ref"]) == ("sent", "9")
    assert [one["id"] for one in await face.inbox(token=bob)] == [sent["id"]]


async def test_who_sends_too_fast_is_told_when_to_go_on(face: Face, bob: str) -> None:
    async with socket(face) as connection:
        for n in range(BURST + 1):
            await connection.send_json(said(f"k{n}", face))
            heard = await frame(connection, "sent", "error")
    assert (heard["type"], heard["code"]) == ("error", "rate_limited")
    assert heard["retry_after_ms"] > 0
    slow = await send(face, "over-http")
    assert slow.refused(429, "rate_limited")
    assert slow.headers["Retry-After"]


async def test_a_clock_that_was_ahead_and_is_set_right_keeps_no_device_from_sending(tmp_path: Path) -> None:
    settings = {
        "RELAY_APP__DEVICE_SENDS": "true",
        "RELAY_LIMITS__DEVICE_SENDS_BURST": "1",
        "RELAY_LIMITS__DEVICE_SENDS_PER_S": "1000",
    }
    clock = Ahead()
    clock.ahead_ms = 86_400_000
    async with aiohttp.ClientSession() as http:
        with running(tmp_path, settings, clock=clock) as relay:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            await face.device("ann-bob")
            assert (await send(face, "k1")).status == 202
            clock.ahead_ms = 0
            assert (await send(face, "k2")).status == 202


async def test_it_is_off_unless_the_operator_turns_it_on(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        with running(tmp_path) as relay:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            bob = await face.device("ann-bob")
            answer = await send(face)
            assert answer.refused(403, "forbidden")
            assert "app.device_sends" in answer.json["detail"]
            async with socket(face) as connection:
                await connection.send_json(said("k1", face))
                assert (await frame(connection, "error"))["code"] == "forbidden"
                await connection.send_json({"type": "hb"})
                assert await frame(connection, "hb"), "the connection is as good as before"
            assert await face.inbox(token=bob) == []


async def test_equal_sends_at_once_are_one_message(face: Face, bob: str) -> None:
    answers = await asyncio.gather(*[send(face) for _ in range(8)])
    assert sorted(one.status for one in answers) == [200] * 7 + [202]
    assert len(await face.inbox(token=bob)) == 1
