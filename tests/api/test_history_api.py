"""Looking back over HTTP: history by user, conversation and time, and a device's own; what is refused."""

import gzip
import json
from typing import Any

import pytest
from running_relay import Face


async def history(face: Face, **query: Any) -> dict[str, Any]:
    words = "&".join(f"{name}={value}" for name, value in query.items())
    answer = await face.call("GET", f"/v1/messages?{words}")
    assert answer.status == 200, answer.text
    return dict(answer.json)


def ids(page: dict[str, Any]) -> list[str]:
    return [one["id"] for one in page["messages"]]


async def test_a_users_messages_come_newest_first_page_by_page(face: Face) -> None:
    sent = [await face.sent(body=n) for n in range(5)]
    first = await history(face, user=face.user, limit=3)
    assert ids(first) == sent[:1:-1]
    assert [one["body"] for one in first["messages"]] == [4, 3, 2]
    assert (first["messages"][0]["seq"], first["messages"][0]["state"]) == (5, "live")
    second = await history(face, user=face.user, limit=3, cursor=first["cursor"])
    assert ids(second) == [sent[1], sent[0]]
    assert second["cursor"] is None


async def test_they_are_found_by_conversation_sender_state_and_time(face: Face) -> None:
    plain = await face.sent()
    talk = await face.sent(conversation={"type": "group", "id": "c"}, sender={"user": "bob"})
    gone = await face.sent()
    await face.call("DELETE", f"/v1/messages/{gone}")
    assert ids(await history(face, user=face.user, conversation="c")) == [talk]
    assert ids(await history(face, user=face.user, sender="bob")) == [talk]
    assert ids(await history(face, user=face.user, state="cancelled")) == [gone]
    assert ids(await history(face, user=face.user, until="2020-01-01T00:00:00Z")) == []
    assert ids(await history(face, user=face.user, since="2020-01-01T00:00:00Z")) == [gone, talk, plain]
    assert ids(await history(face, conversation="c", limit=1)) == [talk], "and over the whole app"


async def test_the_whole_app_is_walked_by_time(face: Face) -> None:
    sent = [await face.sent() for _ in range(3)]
    first = await history(face, limit=2)
    assert ids(first) == [sent[2], sent[1]]
    assert ids(await history(face, limit=1, cursor=first["cursor"])) == [sent[0]]


async def test_another_app_sees_none_of_it(face: Face) -> None:
    await face.sent()
    for query in ("", f"?user={face.user}"):
        assert (await face.call("GET", f"/v1/messages{query}", token=face.of.other_key)).json["messages"] == []


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("cursor=nonsense", 400, "invalid_cursor"),
        ("user=u&cursor=1.x", 400, "invalid_cursor"),
        ("since=yesterday", 422, "validation_failed"),
        ("state=live", 422, "validation_failed"),
        ("state=odd&user=u", 422, "validation_failed"),
        ("limit=0", 422, "validation_failed"),
        ("colour=red", 400, "unknown_field"),
    ],
)
async def test_what_makes_no_sense_is_refused(face: Face, query: str, status: int, code: str) -> None:
    assert (await face.call("GET", f"/v1/messages?{query}")).refused(status, code)


async def test_a_device_looks_back_at_a_conversation_in_its_own_view(face: Face) -> None:
    talk = {"conversation": {"type": "group", "id": "c"}}
    first = await face.sent(**talk, body=1)
    await face.sent(body="elsewhere")
    await face.sent(**talk, min_schema=99)
    lesser = await face.sent(**talk, body="new", min_schema=99, fallback="old")
    page = (await face.call("GET", "/v1/device/history?conversation=c&limit=1", token=face.token)).json
    assert [(one["id"], one["body"], one["form"]) for one in page["entries"]] == [(lesser, "old", "fallback")]
    rest = f"/v1/device/history?conversation=c&before={page['before']}"
    older = (await face.call("GET", rest, token=face.token)).json
    assert ([one["id"] for one in older["entries"]], older["before"]) == ([first], None)


async def test_a_device_looks_back_at_what_was_released_to_it_once_and_where_it_came(face: Face) -> None:
    """A release is the same message once more: after an upgrade nothing of it stands there twice."""
    held = await face.sent(body="held", min_schema=7)
    lesser = await face.sent(body="new", min_schema=7, fallback="old")
    between = await face.sent(body="between")
    old = await face.call("PUT", "/v1/device", {"schema": 6, "store": {"id": "s"}}, token=face.token)
    page = (await face.call("GET", f"/v1/device/sync?cursor={old.json['cursors']['inbox']}", token=face.token)).json
    cursor = page["batches"][0]["cursor"]
    await face.call("POST", "/v1/device/ack", {"cursor": cursor}, token=face.token)
    hello = {"schema": 7, "store": {"id": "s"}, "cursors": {"inbox": cursor}}
    assert (await face.call("PUT", "/v1/device", hello, token=face.token)).json["missing"] == 2
    seen = (await face.call("GET", "/v1/device/history", token=face.token)).json["entries"]
    assert [(one["id"], one["body"]) for one in seen] == [(between, "between"), (lesser, "new"), (held, "held")]


async def test_a_log_of_an_hour_that_is_not_closed_or_never_was_is_refused(face: Face) -> None:
    listed = (await face.call("GET", "/v1/logs")).json["logs"]
    assert len(listed) in {71, 72}
    assert (await face.call("GET", "/v1/logs/2020-01-01T00")).refused(404, "not_found")
    assert (await face.call("GET", "/v1/logs/nonsense")).refused(404, "not_found")
    assert (await face.call("GET", "/v1/logs/2099-01-01T00")).refused(409, "state_conflict")


async def test_a_log_is_downloaded_in_parts(face: Face) -> None:
    path = (await face.call("GET", "/v1/logs")).json["logs"][0]["path"]
    headers = {"Authorization": f"Bearer {face.of.key}"}
    async with face.http.get(face.of.url + path, headers=headers) as answer:
        whole = await answer.read()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/gzip")
        assert "Content-Encoding" not in answer.headers
    (trailer,) = gzip.decompress(whole).splitlines()
    assert json.loads(trailer)["trailer"]["messages"] == 0
    async with face.http.get(face.of.url + path, headers=headers | {"Range": "bytes=10-"}) as answer:
        assert (answer.status, await answer.read()) == (206, whole[10:])


async def test_every_answer_to_who_downloads_a_log_is_documented(face: Face) -> None:
    path = (await face.call("GET", "/v1/logs")).json["logs"][0]["path"]
    headers = {"Authorization": f"Bearer {face.of.key}"}
    async with face.http.get(face.of.url + path, headers=headers) as answer:
        etag = answer.headers["ETag"]
    documented = (await face.call("GET", "/v1/openapi.json")).json["paths"]["/v1/logs/{hour}"]["get"]
    named = {one["name"] for one in documented["parameters"] if one["in"] == "header"}
    for status, asked in (
        (304, {"If-None-Match": etag}),
        (206, {"If-Match": etag, "Range": "bytes=10-"}),
        (412, {"If-Match": '"another"', "Range": "bytes=10-"}),
        (416, {"Range": "bytes=1000000-"}),
    ):
        async with face.http.get(face.of.url + path, headers=headers | asked) as answer:
            assert answer.status == status
            assert asked.keys() <= named
            assert str(status) in documented["responses"]


async def test_a_device_has_no_business_with_logs(face: Face) -> None:
    assert (await face.call("GET", "/v1/logs", token=face.token)).refused(403, "forbidden")


# --- of an ultra group ------------------------------------------------------------------------------------------------


async def looked_back(face: Face, conversation: str, *, limit: int = 50) -> list[tuple[str, str]]:
    """(kind, body) of everything that a device can see of it, page by page."""
    found: list[tuple[str, str]] = []
    path = f"/v1/device/history?conversation={conversation}&limit={limit}"
    before = ""
    while True:
        page = (await face.call("GET", path + before, token=face.token)).json
        assert len(page["entries"]) <= limit
        found += [(one["kind"], one["body"]) for one in page["entries"]]
        if page["before"] is None:
            return found
        before = f"&before={page['before']}"


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_a_device_looks_back_over_an_ultra_group_and_what_came_before_it_was_one(face: Face, limit: int) -> None:
    group = f"{face.user}-town{limit}"
    members = f"/v1/groups/{group}/members"
    await face.call("PUT", members, {"add": [face.user, "bob"]})
    await face.sent(to={"group": group}, body="small")
    await face.call("PUT", members, {"type": "ultra", "add": ["carl"]})
    await face.sent(to={"group": group}, body="big")
    await face.sent(body="elsewhere")
    await face.sent(to={"group": group}, body="you", mentions=[face.user])
    await face.sent(to={"group": group}, body="mine", sender={"user": face.user})
    assert await looked_back(face, group, limit=limit) == [
        ("own", "mine"),
        ("message", "you"),
        ("message", "big"),
        ("message", "small"),
    ]


async def test_a_device_sees_of_an_ultra_group_the_time_of_its_users_stay_alone(face: Face) -> None:
    group = f"{face.user}-stay"
    members = f"/v1/groups/{group}/members"
    await face.call("PUT", members, {"add": ["bob"], "type": "ultra"})
    await face.sent(to={"group": group}, body="before")
    assert await looked_back(face, group) == []
    await face.call("PUT", members, {"add": [face.user]})
    await face.sent(to={"group": group}, body="with her")
    await face.call("PUT", members, {"remove": [face.user]})
    await face.sent(to={"group": group}, body="after")
    assert await looked_back(face, group) == [("message", "with her")]


async def test_a_place_that_no_answer_gave_is_refused(face: Face) -> None:
    for odd in ("x7", "s", "-1", "s-1", "1" * 17):
        answer = await face.call("GET", f"/v1/device/history?before={odd}", token=face.token)
        assert answer.refused(422, "validation_failed")
