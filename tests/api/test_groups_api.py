"""Groups over HTTP: joining, leaving, sending to one, and what is refused."""

from typing import Any

import pytest
from running_relay import Face


@pytest.fixture
def path(face: Face) -> str:
    return f"/v1/groups/{face.user}-friends/members"


async def test_members_join_and_leave_and_are_listed_page_by_page(face: Face, path: str) -> None:
    assert (await face.call("PUT", path, {"add": ["ann", "bob", "cid"]})).json == {
        "version": 1,
        "members": 3,
        "type": "group",
    }
    assert (await face.call("GET", f"{path}?limit=2")).json == {"members": ["ann", "bob"], "after": "bob"}
    assert (await face.call("GET", f"{path}?after=bob")).json == {"members": ["cid"], "after": None}
    assert (await face.call("DELETE", f"{path}/bob")).status == 204
    assert (await face.call("PUT", path, {"add": ["dee"], "remove": ["ann"]})).json == {
        "version": 3,
        "members": 2,
        "type": "group",
    }
    assert (await face.call("DELETE", path.removesuffix("/members"))).status == 204
    assert (await face.call("GET", path)).json["members"] == []


async def test_a_send_to_a_group_reaches_its_members_and_says_who_they_were(face: Face, path: str) -> None:
    await face.call("PUT", path, {"add": [face.user, "stranger"]})
    answer = await face.send(to={"group": f"{face.user}-friends"}, body="all")
    assert {one["user"]: one["status"] for one in answer.json["recipients"]} == {
        face.user: "accepted",
        "stranger": "rejected",
    }
    (entry,) = await face.inbox()
    assert entry["conversation"] == {"type": "group", "id": f"{face.user}-friends"}


async def test_a_send_to_a_group_of_nobody_is_refused(face: Face) -> None:
    answer = await face.send(to={"group": "nowhere"})
    assert answer.refused(422, "recipient_unknown")
    assert answer.pointers == ["/to/group"]


async def test_a_send_to_a_stranger_alone_names_the_receivers(face: Face) -> None:
    answer = await face.send(to={"users": ["a-stranger"]})
    assert answer.refused(422, "recipient_unknown")
    assert answer.pointers == ["/to"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "both": ({"add": ["ann"], "remove": ["ann"]}, ""),
    "too many": ({"add": [f"u{n}" for n in range(1001)]}, "/add"),
    "no name": ({"add": [""]}, "/add/0"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_makes_no_sense_is_named(face: Face, path: str, what: str) -> None:
    body, pointer = WRONG[what]
    answer = await face.call("PUT", path, body)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == [pointer]


async def test_receivers_are_said_in_one_way(face: Face) -> None:
    answer = await face.send(to={"users": [face.user], "group": "g"})
    assert answer.refused(422, "validation_failed")
