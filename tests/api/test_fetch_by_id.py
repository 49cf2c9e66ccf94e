"""A push names messages: the device asks for these alone, beside its cursor."""

import pytest
from running_relay import Face

NEVER = "01900000-0000-7000-8000-000000000000"


async def test_each_comes_as_a_page_of_its_own_and_moves_no_cursor(face: Face) -> None:
    sent = [await face.sent(body=n) for n in range(4)]
    answer = await face.call("GET", f"/v1/device/sync?ids={sent[3]}&ids={sent[1]}&ids={NEVER}", token=face.token)
    assert answer.status == 200, answer.text
    pages = answer.json["batches"]
    assert [(page["from"], page["to"]) for page in pages] == [(1, 2), (3, 4)]
    assert [page["entries"][0]["id"] for page in pages] == [sent[1], sent[3]]
    assert not any(page.get("cursor") for page in pages)
    assert "ETag" not in answer.headers
    assert (await face.call("POST", "/v1/device/ack", {"ids": [sent[3]]}, token=face.token)).json["acked"] == 0
    assert len(await face.inbox()) == 4, "what came so comes again with the pages, and is known by its id"


async def test_another_users_message_is_as_one_that_never_was(face: Face) -> None:
    sent = await face.sent()
    stranger = await face.device(f"{face.user}-other")
    answer = await face.call("GET", f"/v1/device/sync?ids={sent}", token=stranger)
    assert answer.json["batches"] == []


async def test_what_is_over_comes_as_a_gap(face: Face) -> None:
    sent = await face.sent()
    await face.call("DELETE", f"/v1/messages/{sent}")
    (page,) = (await face.call("GET", f"/v1/device/sync?ids={sent}", token=face.token)).json["batches"]
    assert (page["entries"], page["gaps"]) == ([], [{"from": 0, "to": 1, "why": "cancelled"}])


@pytest.mark.parametrize("more", ["wait=1", "range=0-1", "open=g", "&".join(f"ids={NEVER}" for _ in range(10))])
async def test_nothing_else_goes_with_it(face: Face, more: str) -> None:
    answer = await face.call("GET", f"/v1/device/sync?ids={NEVER}&{more}", token=face.token)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == ["?ids"]


@pytest.mark.parametrize(
    ("query", "pointer"), [("range=5-2", "?range"), ("range=x", "?range"), ("range=1-5&wait=3", "?wait")]
)
async def test_what_is_wrong_with_a_range_is_named(face: Face, query: str, pointer: str) -> None:
    answer = await face.call("GET", f"/v1/device/sync?{query}", token=face.token)
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == [pointer]
