"""The backend's Python client against a running relay: groups and webhooks. (Sends and devices are used by most other tests.)"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from running_relay import Face

from relay.client import Backend, Client, Problem

URL = "http://127.0.0.1:9/"  # nothing listens there


@pytest.fixture
async def backend(face: Face) -> AsyncIterator[Backend]:
    async with Backend(face.of.url, face.of.key) as backend:
        yield backend


async def test_groups_are_changed_listed_and_sent_to(face: Face, backend: Backend) -> None:
    group = f"{face.user}/friends & family"
    many = [f"{face.user}-{n:03}" for n in range(250)]
    made = await backend.change_group(group, add=[face.user, *many])
    assert (made["type"], made["members"]) == ("group", 251)
    assert [user async for user in backend.members(group)] == sorted([face.user, *many])
    assert (await backend.change_group(group, remove=many, type="ultra"))["members"] == 1
    sent = await backend.send_to_group(group, "hello", key="k", mentions=[face.user])
    assert sent["timeline"] == {"conversation": group, "seq": 1}
    assert await backend.send_to_group(group, "hello", key="k", mentions=[face.user]) == sent
    assert [entry["id"] for entry in await face.inbox()] == [sent["id"]]


async def test_webhooks_are_made_changed_and_taken_away(backend: Backend) -> None:
    made = await backend.create_webhook(URL, types=["delivery.acked"], description="orders")
    assert made["secret"].startswith("whsec_")
    rotated = await backend.rotate_webhook(made["id"], overlap_s=0)
    assert rotated["secret"] != made["secret"]
    time = {"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z"}
    assert await backend.replay_webhook(made["id"], **time) == {"count": 0, "next": None}
    changed = await backend.change_webhook(made["id"], enabled=False)
    assert (changed["types"], changed["state"]) == (["delivery.acked"], "disabled")
    assert made["id"] in [one["id"] for one in await backend.webhooks()]
    await backend.delete_webhook(made["id"])
    assert made["id"] not in [one["id"] for one in await backend.webhooks()]
    with pytest.raises(Problem) as refused:
        await backend.rotate_webhook(made["id"])
    assert refused.value.status == 404


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "localhost", "ws://relay.example", ""])
def test_what_is_no_url_is_told_at_once_and_not_tried_for_ever(tmp_path: Path, url: str) -> None:
    for make in (lambda: Backend(url, "rk_x"), lambda: Client(url, "rd_x", cache=tmp_path / "a.db")):
        with pytest.raises(ValueError, match="begins with http:// or https://"):
            make()
    assert list(tmp_path.iterdir()) == []
