"""Safety 9.5, B074 to B083: registering, reading and acking, wrong and hostile, at a running relay over HTTP."""

import asyncio
import base64
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from running_relay import Answer, Face

from relay.inbox.cursor import Cursor, CursorKeys, seal
from relay.model import DeviceKey

KIB = 1024
ADDRESS = {"account": "log", "token": "t"}


async def put(face: Face, body: Any, *, user: str | None = None, device: str = "phone") -> Answer:
    return await face.call("PUT", f"/v1/users/{user or face.user}/devices/{device}", body)


async def addresses(face: Face, user: str | None = None) -> list[tuple[str, str]]:
    answer = await face.call("GET", f"/v1/users/{user or face.user}/devices/phone")
    return [(one["account"], one["state"]) for one in answer.json["addresses"]]


async def cursor_of(face: Face, token: str | None = None) -> str:
    return str((await face.sync(token=token)).json["batches"][0]["cursor"])


async def ack(face: Face, body: Any) -> Answer:
    return await face.call("POST", "/v1/device/ack", body, token=face.token)


async def state_of(face: Face, message: str) -> str:
    trace = (await face.call("GET", f"/v1/messages/{message}")).json
    return str(trace["recipients"][0]["devices"][0]["state"])


# --- registering ------------------------------------------------------------------------------------------------------

BAD_ADDRESSES: dict[str, tuple[Any, str]] = {
    "B074-token-empty": ({"token": ""}, "token"),
    "B074-token-5-KiB": ({"token": "t" * 5 * KIB}, "token"),
    "B074-token-with-space": ({"token": "a b"}, "token"),
    "B074-token-with-line-break": ({"token": "a\r\nX-Injected: 1"}, "token"),
    "B074-token-with-line-end": ({"token": "a\n"}, "token"),
    "B074-token-not-ascii": ({"token": "\u0430"}, "token"),
    "B074-token-null": ({"token": None}, "token"),
    "B074-token-number": ({"token": 1}, "token"),
    "B074-account-unknown": ({"account": "nope"}, "account"),
    "B074-account-hostile": ({"account": "../log"}, "account"),
    "B074-kind-unknown": ({"kind": "nope"}, "kind"),
    "B074-kind-html": ({"kind": "<b>"}, "kind"),
}


@pytest.mark.parametrize(("change", "field"), BAD_ADDRESSES.values(), ids=BAD_ADDRESSES.keys())
async def test_an_address_that_is_none(face: Face, change: dict[str, Any], field: str) -> None:
    """HTML in a token of visible characters is the vendor's to refuse: a token is opaque, and never shown."""
    assert (await put(face, {"addresses": [ADDRESS]})).status == 200
    body = {"addresses": [ADDRESS, ADDRESS | change]}
    for answer in (await put(face, body), await face.call("PUT", "/v1/device/addresses", body, token=face.token)):
        assert answer.refused(422, "validation_failed")
        assert answer.pointers == [f"/addresses/1/{field}"]
    assert await addresses(face) == [("log", "active")]


async def test_b074_nine_addresses(face: Face) -> None:
    answer = await put(face, {"addresses": [ADDRESS | {"token": str(n)} for n in range(9)]})
    assert answer.refused(422, "validation_failed")
    assert await addresses(face) == []


@pytest.mark.parametrize(
    "platform",
    [
        pytest.param("", id="B075-platform-empty"),
        pytest.param("a b", id="B075-platform-space"),
        pytest.param("x" * 65, id="B075-platform-65"),
        pytest.param("<script>\n", id="B075-platform-line-end"),
        pytest.param(1, id="B075-platform-number"),
    ],
)
async def test_a_platform_that_is_no_word(face: Face, platform: Any) -> None:
    """Platforms are the app's own words, for its scopes: any word is one, so none is unknown."""
    answer = await put(face, {"platform": platform}, device="new")
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == ["/platform"]
    assert (await face.call("GET", f"/v1/users/{face.user}/devices/new")).refused(404, "not_found")


async def test_a_name_that_no_user_or_device_can_have_is_not_registered(face: Face) -> None:
    for path, name in ((f"/v1/users/{'x' * 129}/devices/new", "user"), (f"/v1/users/u/devices/{'x' * 129}", "device")):
        answer = await face.call("PUT", path, {})
        assert answer.refused(422, "validation_failed")
        assert answer.pointers == [f"{{{name}}}"]
        assert f"{{{name}}} may have at most 128 characters" in answer.json["detail"]
        assert (await face.call("GET", path)).refused(404, "not_found")


async def test_b075_a_device_of_another_app_looks_like_none(face: Face) -> None:
    theirs = f"/v1/users/{face.user}x/devices/theirs"
    none = f"/v1/users/{face.user}x/devices/none"
    assert (await face.call("PUT", theirs, {}, token=face.of.other_key)).status == 201
    for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/token")):
        seen, unseen = await face.call(method, theirs + end), await face.call(method, none + end)
        assert seen.refused(404, "not_found")
        assert seen.json["detail"] == unseen.json["detail"]
    assert (await face.call("GET", theirs, token=face.of.other_key)).status == 200


async def test_b075_the_21st_device(face: Face) -> None:
    for n in range(19):
        assert (await put(face, {}, device=f"d{n}")).status == 201
    answer = await put(face, {}, device="one-too-many")
    assert answer.refused(422, "validation_failed")
    assert (await face.call("GET", f"/v1/users/{face.user}/devices/one-too-many")).refused(404, "not_found")
    assert (await face.call("DELETE", f"/v1/users/{face.user}/devices/d0")).status == 204
    assert (await put(face, {}, device="instead")).status == 201


async def test_b076_a_token_moves_to_its_newest_owner(face: Face) -> None:
    other, token = f"{face.user}.bob", f"token-of-{face.user}"
    await face.device(other)
    assert (await put(face, {"addresses": [ADDRESS | {"token": token}]})).status == 200
    assert (await put(face, {"addresses": [ADDRESS | {"token": token}]}, user=other)).status == 200
    assert await addresses(face, other) == [("log", "active")]
    assert await addresses(face) == [("log", "taken")]
    async with asyncio.timeout(20):
        while face.user not in (told := await face.call("GET", "/v1/events?types=device.token_moved")).text:
            await face.sync(wait=1)
    (data,) = [one["data"] for one in told.json["events"] if one["data"]["user"] == face.user]
    assert (data["device"], data["account"], data["moves"]) == ("phone", "log", 1)
    assert token not in told.text


# --- cursors ----------------------------------------------------------------------------------------------------------


def altered(cursor: str, place: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(cursor))
    raw[place] ^= 1
    return base64.urlsafe_b64encode(raw).decode()


GARBAGE = {
    "B078-empty": "",
    "B078-garbage": "garbage",
    "B078-not-base64": "!" * 88,
    "B078-zeros": "A" * 88,
    "B078-padding": "=" * 88,
    "B078-surrogate": "\U0001f600" * 22,
    "B078-4-KiB": "A" * 4 * KIB,
    "B078-sql": "' OR 1=1 --",
}


@pytest.mark.parametrize("cursor", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_cursor_that_is_none(face: Face, cursor: str) -> None:
    sent = await face.sent()
    assert (await face.sync(cursor=quote(cursor, safe=""))).refused(400, "invalid_cursor")
    assert (await ack(face, {"cursor": cursor})).refused(400, "invalid_cursor")
    beat = {"session": 1, "cursor": cursor}
    await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)
    answer = await face.call("POST", "/v1/device/heartbeat", beat, token=face.token)
    assert answer.refused(400, "invalid_cursor")
    assert [one["id"] for one in await face.inbox()] == [sent]


async def test_b078_a_cursor_of_10_kib(face: Face) -> None:
    """As a parameter it is more than a request line holds, which is told before it is anything."""
    assert (await face.sync(cursor="A" * 10 * KIB)).refused(400, "malformed_http")
    assert (await ack(face, {"cursor": "A" * 10 * KIB})).refused(400, "invalid_cursor")


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(0, id="B078-older-version"),
        pytest.param(1, id="B078-other-key"),
        pytest.param(2, id="B078-other-kind"),
        pytest.param(3, id="B078-other-epoch"),
        pytest.param(34, id="B078-other-number"),
        pytest.param(51, id="B078-wrong-mac"),
        pytest.param(65, id="B078-last-byte"),
    ],
)
async def test_a_cursor_that_was_altered(face: Face, place: int) -> None:
    sent = await face.sent()
    bad = altered(await cursor_of(face), place)
    assert (await face.sync(cursor=bad)).refused(400, "invalid_cursor")
    assert (await ack(face, {"cursor": bad})).refused(400, "invalid_cursor")
    assert [one["id"] for one in await face.inbox()] == [sent]


@pytest.mark.parametrize(
    "whose", [pytest.param("device", id="B078-of-another-device"), pytest.param("app", id="B078-of-another-app")]
)
async def test_a_cursor_of_somebody_else(face: Face, whose: str) -> None:
    sent = await face.sent()
    other = await (face.device(device="tablet") if whose == "device" else face.device(key=face.of.other_key))
    theirs = await cursor_of(face, other)
    assert (await face.sync(cursor=theirs)).refused(400, "invalid_cursor")
    assert (await ack(face, {"cursor": theirs})).refused(400, "invalid_cursor")
    assert [one["id"] for one in await face.inbox()] == [sent]


def resealed(face: Face, cursor: str, **changes: Any) -> str:
    """The cursor with other content, sealed as the relay would have, had its store been another one."""
    device = DeviceKey("default", face.user, "phone")
    newest, keys = face.of.relay.ring.cursor_keys()
    was: Cursor = face.of.relay.inbox.reader.unseal(cursor, device)
    return seal(replace(was, **changes), device, CursorKeys(newest, keys))


OLD_EPOCH = pytest.param({"epoch8": b"otherone"}, id="B079-old-epoch")
ANOTHER_MESSAGE = pytest.param({"tail8": b"otherone"}, id="B079-another-message-at-its-number")
AHEAD = pytest.param({"seq": 99}, id="B079-ahead-of-the-head")
SESSION_AHEAD = pytest.param({"session": 99}, id="B079-session-ahead")


@pytest.mark.parametrize("changes", [OLD_EPOCH, AHEAD, SESSION_AHEAD, ANOTHER_MESSAGE])
async def test_a_cursor_of_numbers_that_were_lost(face: Face, changes: dict[str, Any]) -> None:
    """Retention (410) is walked on both stores, row by row of protocol 8.5, by the tests of pages."""
    sent = await face.sent()
    lost = resealed(face, await cursor_of(face), **changes)
    answer = await face.sync(cursor=lost)
    assert answer.refused(409, "cursor_epoch_changed")
    go_on = answer.json["resync"]["cursor"]
    assert [one["id"] for one in (await face.sync(cursor=go_on)).json["batches"][0]["entries"]] == [sent]


@pytest.mark.parametrize("changes", [OLD_EPOCH, AHEAD, SESSION_AHEAD, ANOTHER_MESSAGE])
async def test_an_ack_of_numbers_that_were_lost_acks_nothing(face: Face, changes: dict[str, Any]) -> None:
    """What the device has stored under that number is not the message that the sender would be told of."""
    sent = await face.sent()
    cursor = await cursor_of(face)
    answer = await ack(face, {"cursor": resealed(face, cursor, **changes)})
    assert answer.refused(409, "cursor_epoch_changed")
    go_on = answer.json["resync"]["cursor"]
    if "epoch8" not in changes:  # it has proved a loss: whatever was sealed before is void
        assert (await face.sync(cursor=cursor)).refused(409, "cursor_epoch_changed")
    trace = (await face.call("GET", f"/v1/messages/{sent}")).json
    assert {one["state"] for one in trace["recipients"][0]["devices"]} == {"queued"}
    assert [one["id"] for one in (await face.sync(cursor=go_on)).json["batches"][0]["entries"]] == [sent]


async def test_a_heartbeat_with_a_cursor_of_numbers_that_were_lost_is_told_to_look(face: Face) -> None:
    """Protocol 6.2: by the head alone its client would take itself for one that has everything."""
    session = (await face.call("PUT", "/v1/device", {}, token=face.token)).json["session"]
    await face.sent()
    cursor = await cursor_of(face)
    for said, do in ((cursor, None), (resealed(face, cursor, seq=99), "sync")):
        beat = {"session": session, "cursor": said}
        answer = await face.call("POST", "/v1/device/heartbeat", beat, token=face.token)
        assert (answer.json["head"], answer.json.get("do")) == (1, do)


# --- parameters -------------------------------------------------------------------------------------------------------

BAD_QUERIES = {
    "B080-limit-0": "limit=0",
    "B080-limit-negative": "limit=-1",
    "B080-limit-201": "limit=201",
    "B080-limit-word": "limit=abc",
    "B080-limit-float": "limit=1.5",
    "B080-limit-empty": "limit=",
    "B080-limit-huge": "limit=" + "9" * 5000,
    "B080-limit-twice": "limit=1&limit=2",
    "B081-wait-61": "wait=61",
    "B081-wait-negative": "wait=-1",
    "B081-wait-nan": "wait=NaN",
    "B081-wait-inf": "wait=Infinity",
    "B080-range-word": "range=a-b",
    "B080-range-reversed": "range=5-2",
    "B080-range-negative": "range=-1-2",
    "B080-range-huge": "range=0-" + "9" * 30,
    "B080-range-with-wait": "range=0-1&wait=1",
}


@pytest.mark.parametrize("query", BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
async def test_a_parameter_that_does_not_hold_what_it_should(face: Face, query: str) -> None:
    """`wait=0` is no mistake: it is the default, and means not to wait (protocol 8.2)."""
    answer = await face.call("GET", f"/v1/device/sync?{query}", token=face.token)
    assert answer.refused(422, "validation_failed")


@pytest.mark.parametrize("path", ["/v1/device/sync", "/v1/events"])
async def test_b080_an_unknown_parameter(face: Face, path: str) -> None:
    token = face.token if path.startswith("/v1/device") else None
    answer = await face.call("GET", f"{path}?sort=name%20DESC", token=token)
    assert answer.refused(400, "unknown_field")
    assert answer.pointers == ["?sort"]


async def test_b080_without_a_limit_there_is_a_default(face: Face) -> None:
    for n in range(3):
        await face.sent(body=n)
    assert [one["body"] for one in await face.inbox()] == [0, 1, 2]
    assert [one["body"] for one in (await face.sync(limit=2)).json["batches"][0]["entries"]] == [0, 1]


async def test_b081_of_four_parallel_polls_the_oldest_returns_empty(face: Face) -> None:
    cursor = await cursor_of(face)
    polls = []
    for n in range(4):
        async with asyncio.timeout(20):
            while face.of.relay.hub.waits < n:
                await asyncio.sleep(0.01)  # noqa: TID251 - the relay waits in real time
        polls.append(asyncio.create_task(face.sync(cursor=cursor, wait=30)))
    (first,), _ = await asyncio.wait(polls, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert first is polls[0]
    assert first.result().json["batches"][0]["entries"] == []
    sent = await face.sent()
    for poll in polls[1:]:
        assert [one["id"] for one in (await poll).json["batches"][0]["entries"]] == [sent]


# --- acks -------------------------------------------------------------------------------------------------------------

BAD_ACKS: dict[str, tuple[Any, int, str, str]] = {
    "B082-empty-list": ({"ids": []}, 422, "validation_failed", "/ids"),
    "B082-id-of-1-KiB": ({"ids": ["x" * KIB]}, 422, "validation_failed", "/ids/0"),
    "B082-id-null": ({"ids": [None]}, 422, "validation_failed", "/ids/0"),
    "B082-id-number": ({"ids": [1]}, 422, "validation_failed", "/ids/0"),
    "B082-id-empty": ({"ids": [""]}, 422, "validation_failed", "/ids/0"),
    "B082-ids-text": ({"ids": "x"}, 422, "validation_failed", "/ids"),
    "B082-nack-code": ({"nack": [{"id": "x", "code": "nope"}]}, 422, "validation_failed", "/nack/0/code"),
    "B082-receipt": ({"receipts": [{"id": "x", "what": "nope"}]}, 422, "validation_failed", "/receipts/0/what"),
    "B082-read-negative": (
        {"read": [{"conversation": "c", "read_seq": -1}]},
        422,
        "validation_failed",
        "/read/0/read_seq",
    ),
    "B082-state-of-the-relay": ({"acked_seq": 9}, 400, "unknown_field", "/acked_seq"),
}


@pytest.mark.parametrize(("body", "status", "code", "pointer"), BAD_ACKS.values(), ids=BAD_ACKS.keys())
async def test_an_ack_that_is_none(face: Face, body: Any, status: int, code: str, pointer: str) -> None:
    sent = await face.sent()
    answer = await ack(face, {"cursor": await cursor_of(face)} | body)  # the good part must not be taken alone
    assert answer.refused(status, code)
    assert answer.pointers == [pointer]
    assert [one["id"] for one in await face.inbox()] == [sent]


async def test_b082_an_ack_of_501_ids(face: Face) -> None:
    sent = await face.sent()
    answer = await ack(face, {"ids": [sent, *(f"m{n}" for n in range(500))]})
    assert answer.refused(413, "batch_too_large")
    assert (await ack(face, {"ids": [sent]})).json["results"] == {sent: "acked"}


async def test_b082_ids_that_are_not_this_devices(face: Face) -> None:
    """Unknown, another app's and another user's look alike; one named twice is acked once."""
    mine = await face.sent()
    await face.device(key=face.of.other_key)
    foreign = (await face.send(token=face.of.other_key)).json["id"]
    await face.device(f"{face.user}.bob")
    bobs = await face.sent(to={"users": [f"{face.user}.bob"]})
    answer = await ack(face, {"ids": [mine, mine, "unknown", foreign, bobs]})
    assert answer.json["results"] == {mine: "acked", "unknown": "unknown", foreign: "unknown", bobs: "unknown"}
    for app, message in ((face.of.other_key, foreign), (face.of.key, bobs)):
        trace = (await face.call("GET", f"/v1/messages/{message}", token=app)).json
        assert "acked" not in {one["state"] for one in trace["recipients"][0]["devices"]}


async def test_a_device_without_room_says_so_and_is_offered_the_message_again(face: Face) -> None:
    """Protocol 8.6: a full disk is no refusal of the message; nothing is acked, nothing is held."""
    sent = await face.sent()
    answer = await ack(face, {"nack": [{"id": sent, "code": "storage"}]})
    assert (answer.status, answer.json["acked"]) == (200, 0)
    assert [one["id"] for one in await face.inbox()] == [sent]
    assert (await ack(face, {"ids": [sent]})).json["results"] == {sent: "acked"}


async def test_b082_an_ack_of_what_came_through_the_vendor(face: Face) -> None:
    """It was never delivered by the relay itself, and is acked all the same."""
    sent = await face.sent()
    assert (await ack(face, {"ids": [sent]})).json["results"] == {sent: "acked"}


async def test_b083_acking_twice(face: Face) -> None:
    sent = await face.sent()
    cursor = await cursor_of(face)
    assert (await ack(face, {"ids": [sent]})).json["results"] == {sent: "acked"}
    assert (await ack(face, {"ids": [sent], "cursor": cursor})).json == {"acked": 1, "results": {sent: "already"}}
    assert (await ack(face, {"ids": [sent], "cursor": cursor})).json == {"acked": 1, "results": {sent: "already"}}


async def test_b083_acking_after_the_expiry(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.inbox.send.ZERO_TTL_MS", 100)
    sent = await face.sent(ttl_s=0)
    async with asyncio.timeout(20):
        while await face.inbox():
            await face.sync(wait=1)
    assert (await ack(face, {"ids": [sent]})).json["results"] == {sent: "expired"}
    async with asyncio.timeout(20):
        while await state_of(face, sent) != "expired":
            await face.sync(wait=1)


async def test_b083_a_cursor_that_was_never_handed_out(face: Face) -> None:
    sent = await face.sent()
    cursor = await cursor_of(face)
    assert (await ack(face, {"cursor": altered(cursor, 34)})).refused(400, "invalid_cursor")
    assert [one["id"] for one in await face.inbox()] == [sent]
