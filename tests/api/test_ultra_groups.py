"""Ultra groups over HTTP and on sockets: one timeline that all members read (protocol 12.5)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
from running_relay import Face

WITHIN_S = 20


@pytest.fixture
def group(face: Face) -> str:
    return f"{face.user}-everybody"


@pytest.fixture
async def path(face: Face, group: str) -> str:
    path = f"/v1/groups/{group}/members"
    made = await face.call("PUT", path, {"add": [face.user, "stranger"], "type": "ultra"})
    assert made.json == {"version": 1, "members": 2, "type": "ultra"}
    return path


async def post(face: Face, group: str, **fields: Any) -> dict[str, Any]:
    answer = await face.send(to={"group": group}, **fields)
    assert answer.status == 202, answer.text
    return dict(answer.json)


async def shared(face: Face, group: str, **query: Any) -> dict[str, Any]:
    """The page of the group's timeline, opened anew unless a cursor of it is given."""
    answer = await face.sync(**(({} if "shared" in query else {"open": group}) | query))
    assert answer.status == 200, answer.text
    return dict(next(batch for batch in answer.json["batches"] if batch["timeline"] == group))


def bodies(batch: dict[str, Any]) -> list[Any]:
    return [entry["body"] for entry in batch["entries"]]


@asynccontextmanager
async def socket(face: Face, **hello: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {face.token}"}
    async with face.http.ws_connect(face.of.url + "/v1/device/ws", headers=headers, protocols=["relay.v1.json"]) as ws:
        await ws.send_json({"type": "hello", "ref": "1"} | hello)
        yield ws


async def hear(ws: aiohttp.ClientWebSocketResponse, type_: str, **fields: Any) -> dict[str, Any]:
    """The next frame of this type with these fields; others are passed over."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            frame = await ws.receive_json()
            if frame["type"] == type_ and fields.items() <= frame.items():
                return dict(frame)


# --- the backend ------------------------------------------------------------------------------------------------------


async def test_a_message_is_answered_with_its_place_and_counted_not_reported(face: Face, group: str, path: str) -> None:
    answer = await post(face, group, body="all")
    assert answer["timeline"] == {"conversation": group, "seq": 1}
    assert answer["recipients"] == []
    batch = await shared(face, group)
    assert bodies(batch) == ["all"]
    assert batch["entries"][0]["conversation"] == {"type": "ultra", "id": group}
    before = (await face.call("GET", f"/v1/messages/{answer['id']}")).json["timeline"]
    assert before == {"conversation": group, "seq": 1, "state": "live", "acked": 0}
    acked = await face.call("POST", "/v1/device/ack", {"shared": [batch["cursor"]]}, token=face.token)
    assert acked.json["shared"] == {group: 1}
    assert (await face.call("GET", f"/v1/messages/{answer['id']}")).json["timeline"]["acked"] == 1


async def test_the_same_key_is_answered_the_same(face: Face, group: str, path: str) -> None:
    first = await face.send(key=f"{group}-k", to={"group": group}, mentions=[face.user])
    again = await face.send(key=f"{group}-k", to={"group": group}, mentions=[face.user])
    assert (first.status, again.status) == (202, 200)
    assert again.json == first.json


async def test_who_is_mentioned_has_it_in_the_inbox(face: Face, group: str, path: str) -> None:
    answer = await post(face, group, body="you", mentions=[face.user, "nobody"])
    assert {one["user"]: one["status"] for one in answer["recipients"]} == {
        face.user: "accepted",
        "nobody": "rejected",
    }
    (entry,) = await face.inbox()
    assert (entry["kind"], entry["id"], entry["body"]) == ("pointer", answer["id"], "you")


async def test_everybody_is_mentioned_by_a_job(face: Face, group: str, path: str) -> None:
    answer = await post(face, group, body="all of you", mention_everyone=True)
    assert "total" not in answer["fanout"] or answer["fanout"]["total"] is None
    entries = (await face.sync(wait=20)).json["batches"][0]["entries"]
    assert [(entry["kind"], entry["body"]) for entry in entries] == [("pointer", "all of you")]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({}, "/deliver_at"),
        ({"scope": {"devices": ["phone"]}}, "/scope/devices"),
        ({"scope": {"first_ack_wins": True}}, "/scope/first_ack_wins"),
        ({"scope": {"state": "online"}, "ttl_s": 0}, "/scope/state"),
        ({"conversation": {"type": "group", "id": "another"}}, "/conversation/id"),
    ],
)
async def test_what_only_inboxes_can_do_is_refused_by_name(
    face: Face, group: str, path: str, fields: dict[str, Any], pointer: str
) -> None:
    if pointer == "/deliver_at":
        fields = {"deliver_at": await _soon(face)}
    answer = await face.send(to={"group": group}, **fields)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == [pointer]


async def _soon(face: Face) -> str:
    """An instant within the next days by the relay's clock."""
    now = datetime.fromisoformat((await face.sync()).json["now"])
    return (now + timedelta(days=1)).isoformat()


async def test_levels_are_for_ultra_groups_and_mentions_for_groups(face: Face, group: str) -> None:
    plain = f"/v1/groups/{group}-plain/members"
    assert (await face.call("PUT", plain, {"add": [face.user], "notify": "all"})).refused(422, "validation_failed")
    assert (await face.call("PUT", plain, {"add": [face.user]})).json["type"] == "group"
    answer = await face.send(to={"group": f"{group}-plain"}, mentions=[face.user, "nobody"])
    assert [one["status"] for one in answer.json["recipients"]] == ["accepted", "rejected"]
    assert (await face.send(mentions=[face.user])).refused(422, "validation_failed")
    level = await face.call("PUT", f"{plain}/{face.user}", {"notify": "all"})
    assert level.refused(422, "validation_failed")
    assert (await face.call("PUT", f"{plain}/nobody", {"notify": "all"})).refused(404, "not_found")


async def test_a_timeline_cannot_have_the_inboxs_name(face: Face) -> None:
    answer = await face.call("PUT", "/v1/groups/inbox/members", {"add": [face.user], "type": "ultra"})
    assert answer.refused(422, "validation_failed")


async def test_a_group_becomes_ultra_also_where_nobody_joins_or_leaves(face: Face, group: str) -> None:
    path = f"/v1/groups/{group}/members"
    assert (await face.call("PUT", path, {"type": "ultra"})).refused(404, "not_found")
    await face.call("PUT", path, {"add": [face.user, "bob"]})
    for _ in range(2):
        assert (await face.call("PUT", path, {"type": "ultra"})).json["type"] == "ultra"
    assert (await post(face, group))["timeline"]["seq"] == 1
    assert (await face.call("PUT", path, {})).refused(422, "validation_failed")


async def test_a_group_grows_beyond_a_thousand_as_an_ultra_one_alone(face: Face, group: str, path: str) -> None:
    users = [f"u{n:04}" for n in range(1000)]
    assert (await face.call("PUT", path, {"add": users})).json["members"] == 1002
    plain = f"/v1/groups/{group}-plain/members"
    await face.call("PUT", plain, {"add": users})
    answer = await face.call("PUT", plain, {"add": ["one-more"]})
    assert answer.refused(422, "too_many_recipients")
    assert answer.pointers == ["/add"]
    after = await face.call("PUT", plain, {"add": ["one-more"], "type": "ultra"})
    assert after.json == {"version": 2, "members": 1001, "type": "ultra"}
    assert (await face.call("DELETE", f"/v1/groups/{group}-plain")).status == 204
    assert (await face.call("GET", plain)).json["members"] == []


# --- a device that polls ----------------------------------------------------------------------------------------------


async def test_a_page_of_each_timeline_that_is_asked_for_and_the_heads_of_others(
    face: Face, group: str, path: str
) -> None:
    await post(face, group)
    listed = (await face.sync()).json["shared"]
    assert listed == [{"conversation": group, "head": 1, "floor": 0, "mentions": 0}]
    answer = (await face.sync(open=group)).json
    assert [batch["timeline"] for batch in answer["batches"]] == ["inbox", group]
    assert (answer["shared"], answer["caught_up"], answer["more"]) == ([], True, False)


async def test_a_removed_member_sees_nothing_more(face: Face, group: str, path: str) -> None:
    await post(face, group, body=1)
    batch = await shared(face, group)
    assert (await face.call("DELETE", f"{path}/{face.user}")).status == 204
    await post(face, group, body=2)
    after = await face.sync(shared=batch["cursor"])
    assert [bodies(one) for one in after.json["batches"] if one["timeline"] == group] == [[]]
    filled = await face.sync(range="0-2", timeline=group)
    assert bodies(filled.json["batches"][0]) == [1]


async def test_what_is_none_of_its_timelines_is_named_and_spoils_nothing(face: Face, path: str) -> None:
    await face.sent(body="in the inbox")
    answer = (await face.sync(open="elsewhere", shared="x")).json
    assert answer["refused"] == [
        {"cursor": "x", "code": "invalid_cursor"},
        {"conversation": "elsewhere", "code": "not_found"},
    ]
    assert [entry["body"] for entry in answer["batches"][0]["entries"]] == ["in the inbox"]
    assert (await face.sync(range="0-2", timeline="elsewhere")).refused(404, "not_found")


async def test_nothing_newer_is_a_304_and_a_post_ends_the_wait(face: Face, group: str, path: str) -> None:
    await post(face, group)
    batch = await shared(face, group)
    first = await face.sync(shared=batch["cursor"])
    inbox = first.json["batches"][0]["cursor"]
    query = f"/v1/device/sync?cursor={inbox}&shared={batch['cursor']}"
    tag = {"If-None-Match": first.headers["ETag"]}
    assert (await face.call("GET", query, token=face.token, headers=tag)).status == 304
    waiting = face.call("GET", query + "&wait=20", token=face.token, headers=tag)
    answer, _ = await asyncio.gather(waiting, post(face, group, body="at last"))
    assert bodies(answer.json["batches"][1]) == ["at last"]


# --- a device with a socket -------------------------------------------------------------------------------------------


async def test_a_followed_timeline_comes_live_and_is_acked_by_number(face: Face, group: str, path: str) -> None:
    await post(face, group, body=1)
    async with socket(face) as ws:
        heads = await hear(ws, "heads")
        assert heads["shared"] == [{"conversation": group, "head": 1, "floor": 0, "mentions": 0}]
        await ws.send_json({"type": "follow", "ref": "2", "open": [group]})
        assert (await hear(ws, "follow"))["following"] == [group]
        assert bodies(await hear(ws, "batch", timeline=group)) == [1]
        await post(face, group, body=2)
        live = await hear(ws, "batch", timeline=group)
        assert (bodies(live), live["from"], live["to"]) == ([2], 1, 2)
        await ws.send_json({"type": "ack", "ref": "3", "timeline": group, "upto": 3})
        assert (await hear(ws, "error", ref="3"))["code"] == "invalid_cursor"
        await ws.send_json({"type": "ack", "ref": "4", "timeline": group, "upto": 2})
        assert (await hear(ws, "ack", ref="4"))["shared"] == {group: 2}
        await ws.send_json({"type": "fill", "ref": "5", "timeline": group, "from": 0, "to": 1})
        assert bodies(await hear(ws, "batch", ref="5")) == [1]
        await ws.send_json({"type": "follow", "ref": "6", "unfollow": [group]})
        assert (await hear(ws, "follow", ref="6"))["following"] == []
        await post(face, group, body=3)
        await ws.send_json({"type": "follow", "ref": "7", "shared": [live["cursor"]]})
        assert bodies(await hear(ws, "batch", timeline=group)) == [3]


async def test_the_window_counts_all_timelines_together(face: Face, group: str, path: str) -> None:
    for n in range(4):
        await post(face, group, body=n)
    async with socket(face, window={"entries": 2, "bytes": 100_000}) as ws:
        await ws.send_json({"type": "follow", "open": [group]})
        assert bodies(await hear(ws, "batch", timeline=group)) == [0, 1]
        await face.sent(body="behind the window")
        await ws.send_json({"type": "ack", "timeline": group, "upto": 2})
        seen: list[Any] = []
        while len(seen) < 2:
            seen += bodies(await hear(ws, "batch"))
        assert set(seen) <= {2, 3, "behind the window"}


async def test_a_handshake_judges_shared_cursors_and_takes_them_as_acks(face: Face, group: str, path: str) -> None:
    sent = await post(face, group)
    batch = await shared(face, group)
    async with socket(face, cursors={group: batch["cursor"], "elsewhere": "x"}) as ws:
        welcome = await hear(ws, "welcome")
    verdicts = {one["conversation"]: one["verdict"] for one in welcome["shared"]}
    assert verdicts == {group: "resume", "elsewhere": "unknown"}
    assert set(welcome["cursors"]) == {"inbox", group}
    assert (await face.call("GET", f"/v1/messages/{sent['id']}")).json["timeline"]["acked"] == 1
    async with socket(face, cursors={group: welcome["cursors"][group]}, store={"id": "another"}) as ws:
        again = await hear(ws, "welcome")
    assert [(one["verdict"], one["reason"]) for one in again["shared"]] == [("resync", "store_changed")]


# --- two installations with one identity ------------------------------------------------------------------------------


async def greeted(face: Face, version: str, **cursors: str) -> dict[str, Any]:
    said = {"store": {"id": "copied"}, "app_version": version, "cursors": cursors}
    answer = await face.call("PUT", "/v1/device", said, token=face.token)
    assert answer.status == 200, answer.text
    return dict(answer.json)


async def acked(face: Face, *cursors: str) -> dict[str, int]:
    answer = await face.call("POST", "/v1/device/ack", {"shared": list(cursors)}, token=face.token)
    return dict(answer.json.get("shared", {}))


async def ahead(face: Face, cursor: str) -> list[tuple[str, int]]:
    """Which timelines the holder of this inbox cursor is told of, as ones that it lacks something of."""
    return [(one["conversation"], one["head"]) for one in (await face.sync(cursor=cursor)).json["shared"]]


async def test_what_an_older_version_reads_after_a_newer_one_came_is_not_taken_for_the_newer_ones(
    face: Face, group: str, path: str
) -> None:
    older = (await greeted(face, "1.0"))["cursors"]["inbox"]
    await post(face, group)
    place = (await shared(face, group, cursor=older))["cursor"]
    assert await acked(face, place) == {group: 1}
    newer = (await greeted(face, "2.0", inbox=older))["cursors"]["inbox"]
    await post(face, group)
    for query in ({"shared": place}, {}):
        batch = await shared(face, group, cursor=older, **query)
        assert batch["to"] == 2, "pages come as ever"
        assert await acked(face, batch["cursor"]) == {}, "but their cursors ack nothing"
    assert await ahead(face, newer) == [(group, 2)]
    batch = await shared(face, group, cursor=newer, shared=place)
    assert await acked(face, batch["cursor"]) == {group: 2}, (
        "a store that was upgraded where it lies goes on from its place"
    )


async def test_what_one_acked_the_other_is_not_told_to_have(face: Face, group: str, path: str) -> None:
    older = (await greeted(face, "1.0"))["cursors"]["inbox"]
    sent = await post(face, group)
    newer = (await greeted(face, "2.0", inbox=older))["cursors"]["inbox"]
    assert await acked(face, (await shared(face, group, cursor=newer))["cursor"]) == {group: 1}
    assert await ahead(face, newer) == []
    back = (await greeted(face, "1.0", inbox=older))["cursors"]["inbox"]
    assert await ahead(face, back) == [(group, 1)]
    assert (await face.call("GET", f"/v1/messages/{sent['id']}")).json["timeline"]["acked"] == 1, (
        "an ack is not taken back"
    )


async def test_a_handshake_that_names_an_earlier_place_is_believed(face: Face, group: str, path: str) -> None:
    """As after a restored backup, with an inbox in which nothing has happened since."""
    inbox = (await greeted(face, "1.0"))["cursors"]["inbox"]
    await post(face, group)
    before = (await shared(face, group, cursor=inbox))["cursor"]
    await post(face, group)
    now = (await shared(face, group, cursor=inbox))["cursor"]
    assert await acked(face, now) == {group: 2}
    again = await greeted(face, "1.0", inbox=inbox, **{group: before})
    assert [(one["verdict"], one["missing"]) for one in again["shared"]] == [("delta", 1)]
    assert await ahead(face, again["cursors"]["inbox"]) == [(group, 2)]
    batch = await shared(face, group, cursor=again["cursors"]["inbox"], shared=again["cursors"][group])
    assert (batch["from"], await acked(face, batch["cursor"])) == (1, {group: 2})
    assert await ahead(face, again["cursors"]["inbox"]) == []


async def test_a_store_that_begins_anew_is_told_of_every_timeline(face: Face, group: str, path: str) -> None:
    inbox = (await greeted(face, "1.0"))["cursors"]["inbox"]
    await post(face, group)
    assert await acked(face, (await shared(face, group, cursor=inbox))["cursor"]) == {group: 1}
    assert await ahead(face, (await greeted(face, "1.0"))["cursors"]["inbox"]) == [(group, 1)]
