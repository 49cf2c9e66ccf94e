"""Comparing caches over HTTP and on a socket: the wire form, the rounds, and what is refused (protocol 8.7)."""

import asyncio
import hashlib
from typing import Any

import pytest
from running_relay import Answer, Face

EMPTY = "0" * 32


def fp(entries: list[Any]) -> str:
    total = sum(
        int.from_bytes(hashlib.sha256(f"{e['seq']}|{e['id']}|{e['h']}".encode()).digest()[:16]) for e in entries
    )
    return f"{total % 2**128:032x}"


def part(entries: list[Any], low: int, high: int) -> dict[str, Any]:
    mine = [e for e in entries if low < e["seq"] <= high]
    return {"from": low, "to": high, "n": len(mine), "fp": fp(mine)}


async def filled(face: Face, count: int) -> tuple[str, list[Any]]:
    """So many messages, synced: the cursor and what came."""
    for n in range(count):
        await face.sent(body=n)
    batch = (await face.sync()).json["batches"][0]
    return batch["cursor"], batch["entries"]


async def verify(face: Face, cursor: str, *ranges: Any, **more: Any) -> Answer:
    return await face.call(
        "POST", "/v1/device/verify", {"cursor": cursor, "ranges": list(ranges)} | more, token=face.token
    )


async def test_equal_stores_take_one_round(face: Face) -> None:
    cursor, entries = await filled(face, 3)
    answer = (await verify(face, cursor, part(entries, 0, 3))).json
    assert answer["ranges"] == [{"from": 0, "to": 3, "result": "same"}]
    assert (answer["timeline"], answer["floor"], answer["state"]) == ("inbox", 0, None)


async def test_a_lost_message_is_found_in_a_few_rounds_of_the_same_instant(face: Face) -> None:
    cursor, entries = await filled(face, 70)
    kept = [one for one in entries if one["seq"] != 17]
    first = (await verify(face, cursor, part(kept, 0, 70))).json
    assert first["ranges"] == [{"from": 0, "to": 70, "result": "split"}]
    second = (await verify(face, cursor, part(kept, 0, 35), part(kept, 35, 70), as_of=first["as_of"])).json
    listed, same = second["ranges"]
    assert (listed["result"], same["result"]) == ("items", "same")
    assert second["as_of"] == first["as_of"]
    lost = [item for item in listed["items"] if item[1] not in {one["id"] for one in kept}]
    assert lost == [[17, entries[16]["id"], entries[16]["h"]]]
    fetched = (await face.sync(range="16-17")).json["batches"][0]["entries"]
    assert [one["id"] for one in fetched] == [entries[16]["id"]]


async def test_after_an_upgrade_the_handshake_compares_and_the_proof_is_told(face: Face) -> None:
    async def hello(**more: Any) -> Any:
        body = {"store": {"id": "s"}, "state": "foreground"} | more
        return (await face.call("PUT", "/v1/device", body, token=face.token)).json

    new = f"2-{face.user}"  # nobody else has it
    await hello(app_version="1")
    cursor, entries = await filled(face, 3)
    whole = part(entries, 0, 3)
    digest = {"n": whole["n"], "fp": whole["fp"]}
    welcome = await hello(app_version=new, cursors={"inbox": cursor}, digest=digest)
    assert welcome["upgrade"]["digest"] == "same"
    cursor = welcome["cursors"]["inbox"]
    answer = await verify(face, cursor, whole, purpose="upgrade", upgrade=welcome["upgrade"]["id"])
    assert answer.json["state"] == "ok"
    versions = (await face.call("GET", "/v1/app-versions")).json["versions"]
    assert [one["verified"] for one in versions if one["version"] == new] == [{"ok": 1}]
    repaired = await hello(cursors={"inbox": cursor}, store={"id": "s", "repair": True}, digest={"n": 1, "fp": "0"})
    assert repaired["digest"] == "differs"


async def test_a_socket_compares_as_well(face: Face) -> None:
    cursor, entries = await filled(face, 2)
    headers = {"Authorization": f"Bearer {face.token}"}
    url = f"{face.of.url}/v1/device/ws"
    async with face.http.ws_connect(url, headers=headers, protocols=["relay.v1.json"]) as ws:
        await ws.send_json({"type": "hello", "store": {"id": "s"}})
        await ws.send_json({"type": "verify", "ref": "7", "cursor": cursor, "ranges": [part(entries, 0, 2)]})
        while (frame := await ws.receive_json(timeout=10))["type"] != "verify":
            pass
    assert (frame["ref"], frame["ranges"]) == ("7", [{"from": 0, "to": 2, "result": "same"}])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "beyond the cursor": ({"ranges": [{"from": 0, "to": 9, "n": 0, "fp": EMPTY}]}, "/ranges/0/to"),
    "upside down": ({"ranges": [{"from": 2, "to": 1, "n": 0, "fp": EMPTY}]}, ""),
    "overlapping": (
        {"ranges": [{"from": 0, "to": 2, "n": 0, "fp": EMPTY}, {"from": 1, "to": 2, "n": 0, "fp": EMPTY}]},
        "",
    ),
    "too many": ({"ranges": [{"from": n, "to": n + 1, "n": 0, "fp": EMPTY} for n in range(257)]}, "/ranges"),
    "no hex": ({"ranges": [{"from": 0, "to": 2, "n": 0, "fp": "xyz"}]}, "/ranges/0/fp"),
    "no instant": ({"as_of": "yesterday"}, "/as_of"),
    "no zone": ({"as_of": "2026-05-03T09:12:44"}, "/as_of"),
    "in the future": ({"as_of": "2099-05-03T09:12:44Z"}, "/as_of"),
    "an upgrade that never was": ({"purpose": "upgrade", "upgrade": "up_none"}, "/upgrade"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_makes_no_sense_is_named(face: Face, what: str) -> None:
    cursor, entries = await filled(face, 2)
    change, pointer = WRONG[what]
    body = {"cursor": cursor, "ranges": [part(entries, 0, 2)]} | change
    answer = await face.call("POST", "/v1/device/verify", body, token=face.token)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == [pointer]


async def test_what_is_no_cursor_of_this_device_is_refused(face: Face) -> None:
    assert (await verify(face, "garbage", part([], 0, 1))).refused(400, "invalid_cursor")


async def test_a_device_begins_six_times_an_hour_and_goes_on_more_often(face: Face) -> None:
    cursor, entries = await filled(face, 1)
    for _ in range(6):
        as_of = (await verify(face, cursor, part(entries, 0, 1))).json["as_of"]
    assert (await verify(face, cursor, part(entries, 0, 1))).refused(429, "rate_limited")
    assert (await verify(face, cursor, part(entries, 0, 1), as_of=as_of)).status == 200


async def test_an_upgrade_of_a_device_that_has_nothing_is_proved_without_ranges(face: Face) -> None:
    for version in ("1", "2"):
        said = {"app_version": version, "store": {"id": "s"}}
        welcome = (await face.call("PUT", "/v1/device", said, token=face.token)).json
    about = {"purpose": "upgrade", "upgrade": welcome["upgrade"]["id"]}
    answer = await verify(face, welcome["cursors"]["inbox"], **about)
    assert (answer.json["state"], answer.json["ranges"]) == ("ok", [])


async def test_no_ranges_prove_nothing_of_a_device_that_has_something(face: Face) -> None:
    cursor, _ = await filled(face, 2)
    for version in ("1", "2"):
        said = {"app_version": version, "store": {"id": "s"}, "cursors": {"inbox": cursor}}
        welcome = (await face.call("PUT", "/v1/device", said, token=face.token)).json
    about = {"purpose": "upgrade", "upgrade": welcome["upgrade"]["id"]}
    assert (await verify(face, cursor, **about)).json["state"] is None


async def extras(face: Face, count: int) -> list[Any]:
    """So many events of it: they have numbers soon after their commit."""
    async with asyncio.timeout(10):
        while True:
            events = (await face.call("GET", "/v1/events?types=device.extra")).json["events"]
            mine = [one["data"] for one in events if one["data"]["user"] == face.user]
            if len(mine) >= count:
                return [(one["device"], one["messages"]) for one in mine]
            await asyncio.sleep(0.02)  # noqa: TID251 - looks again


async def test_what_only_the_device_has_is_told_to_the_backend(face: Face) -> None:
    cursor, entries = await filled(face, 3)
    first = (await verify(face, cursor, part(entries, 0, 3))).json
    assert (await verify(face, cursor, as_of=first["as_of"], extra=2)).status == 200
    assert await extras(face, 1) == [("phone", 2)]


@pytest.mark.parametrize("extra", [-1, 1_000_001, "1", 1.5])
async def test_a_number_of_extra_messages_that_is_none_is_named(face: Face, extra: Any) -> None:
    cursor, entries = await filled(face, 1)
    answer = await verify(face, cursor, part(entries, 0, 1), extra=extra)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == ["/extra"]


async def test_what_the_backend_sends_in_a_devices_name_counts_once_the_device_has_fetched_it(face: Face) -> None:
    """8.7, 12.3: the number came as a gap `own`; nothing was lost, so the upgrade is `ok`."""
    for user in (face.user, "bob"):
        await face.device(user)
    hello = {"app_version": "1", "store": {"id": "s"}}
    await face.call("PUT", "/v1/device", hello, token=face.token)
    await face.sent()
    await face.sent(to={"users": ["bob"]}, sender={"user": face.user, "device": "phone"})
    (page,) = (await face.sync()).json["batches"]
    assert page["gaps"] == [{"from": 1, "to": 2, "why": "own"}]
    welcome = await face.call(
        "PUT", "/v1/device", hello | {"app_version": "2", "cursors": {"inbox": page["cursor"]}}, token=face.token
    )
    (fetched,) = (await face.sync(range="1-2")).json["batches"]
    whole = part(page["entries"] + fetched["entries"], 0, 2)
    about = {"purpose": "upgrade", "upgrade": welcome.json["upgrade"]["id"]}
    answer = await verify(face, welcome.json["cursors"]["inbox"], whole, **about)
    assert answer.json["state"] == "ok"


async def test_a_first_question_that_is_repeated_gives_one_verdict(face: Face) -> None:
    """10.4: the answer to it was lost. Only a comparison that says that all was fetched can fail."""
    said = {"app_version": "1", "store": {"id": "s"}}
    await face.call("PUT", "/v1/device", said, token=face.token)
    cursor, entries = await filled(face, 3)
    said |= {"app_version": "2", "cursors": {"inbox": cursor}}
    welcome = (await face.call("PUT", "/v1/device", said, token=face.token)).json
    about = {"purpose": "upgrade", "upgrade": welcome["upgrade"]["id"]}
    damaged, whole = part(entries[1:], 0, 3), part(entries, 0, 3)
    asked = [(damaged, False), (damaged, False), (damaged, True), (whole, True)]
    states = [(await verify(face, cursor, one, mended=mended, **about)).json["state"] for one, mended in asked]
    assert states == ["repairing", "repairing", "failed", "repaired"]


async def test_f47_the_digest_finds_a_client_that_saved_its_cursor_before_its_messages(face: Face) -> None:
    cursor, entries = await filled(face, 3)
    kept = entries[:1]  # it crashed in between
    whole = part(kept, 0, 3)
    said = {
        "store": {"id": "s", "repair": True},
        "cursors": {"inbox": cursor},
        "digest": {"n": whole["n"], "fp": whole["fp"]},
    }
    welcome = (await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)).json
    said["cursors"] = {"inbox": (await face.sync(cursor=welcome["cursors"]["inbox"])).json["batches"][0]["cursor"]}
    welcome = (await face.call("PUT", "/v1/device", said, token=face.token)).json
    assert (welcome["verdict"], welcome["digest"]) == ("resume", "differs")
    (found,) = (await verify(face, welcome["cursors"]["inbox"], whole)).json["ranges"]
    lacking = [seq for seq, id_, _ in found["items"] if id_ not in {one["id"] for one in kept}]
    assert lacking == [2, 3]
    (page,) = (await face.sync(range="1-3")).json["batches"]
    assert [one["id"] for one in page["entries"]] == [one["id"] for one in entries[1:]]
