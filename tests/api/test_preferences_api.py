"""What users want to be told of, over HTTP: set, read back, taken back, and refused where it makes no sense."""

from typing import Any

import pytest
from running_relay import Answer, Face

WANTED = {
    "tz": "Europe/Berlin",
    "quiet_hours": [
        {"from": "22:00", "to": "07:00", "days": ["mon", "fri"]},
        {"from": "12:00", "to": "13:00", "days": None},
    ],
    "urgent_breaks_quiet": False,
    "notify": "mentions",
    "elsewhere_s": 30,
    "conversations": {"c/81": {"notify": "all", "muted_until": "2026-05-03T09:12:44.000Z", "mute_mentions": True}},
}


async def put(face: Face, body: Any, user: str | None = None) -> Answer:
    return await face.call("PUT", f"/v1/users/{user or face.user}/preferences", body)


async def test_what_was_set_is_read_back_and_taken_back(face: Face) -> None:
    path = f"/v1/users/{face.user}/preferences"
    before = (await face.call("GET", path)).json
    assert (before["notify"], before["quiet_hours"], before["conversations"]) == ("all", [], {})
    assert (await put(face, WANTED)).json == WANTED
    assert (await face.call("GET", path)).json == WANTED
    assert (await face.call("DELETE", path)).status == 204
    assert (await face.call("GET", path)).json == before


async def test_of_an_unknown_user_nothing_is_kept(face: Face) -> None:
    assert (await put(face, {}, user="nobody")).refused(404, "not_found")


async def test_another_apps_user_is_unknown(face: Face) -> None:
    path = f"/v1/users/{face.user}/preferences"
    assert (await face.call("GET", path, token=face.of.other_key)).refused(404, "not_found")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no zone": ({"tz": "Mars/Olympus"}, "/tz"),
    "a path": ({"tz": "../../etc/passwd"}, "/tz"),
    "no time": ({"quiet_hours": [{"from": "25:00", "to": "07:00"}]}, "/quiet_hours/0/from"),
    "all day": ({"quiet_hours": [{"from": "07:00", "to": "07:00"}]}, "/quiet_hours/0"),
    "no day": ({"quiet_hours": [{"from": "22:00", "to": "07:00", "days": ["someday"]}]}, "/quiet_hours/0/days/0"),
    "too late": ({"elsewhere_s": 61}, "/elsewhere_s"),
    "no level": ({"notify": "loud"}, "/notify"),
    "no instant": ({"conversations": {"a/b": {"muted_until": "soon"}}}, "/conversations/a~1b/muted_until"),
    "too many": ({"conversations": {f"c{n}": {} for n in range(251)}}, "/conversations"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_makes_no_sense_is_named(face: Face, what: str) -> None:
    body, pointer = WRONG[what]
    answer = await put(face, body)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == [pointer]
