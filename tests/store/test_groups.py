"""Groups on both stores: a message goes to whoever is a member when it is accepted, and to nobody else."""

import asyncio
from typing import Any

import pytest
from house import House

from relay.errors import Invalid, Missing
from relay.inbox import fanout, groups, send
from relay.store.engine import Engine


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    for user in ("ann", "bob", "cid"):
        await house.register(f"{user}/phone")
    return house


async def join(house: House, *users: str, leave: tuple[str, ...] = ()) -> tuple[int, int]:
    after = await house.inbox.groups.change("shop", "g", add=users, remove=leave)
    return after.version, after.members


async def members(house: House) -> list[str]:
    return (await house.inbox.groups.members("shop", "g", after="", limit=100))[0]


async def to_group(house: House, **more: Any) -> Any:
    return await house.inbox.accept(house.message(users=(), group="g", **more))


async def receivers(house: House, message: str) -> list[tuple[str, str]]:
    rows = await house.rows(f"SELECT user_id, kind FROM inbox_entry WHERE message_id = '{message}' ORDER BY user_id")
    return [(row["user_id"], row["kind"]) for row in rows]


async def test_each_change_is_a_version_and_what_changes_nothing_is_none(house: House) -> None:
    assert await join(house, "ann", "bob") == (1, 2)
    assert await join(house, "ann") == (1, 2)
    assert await join(house, "cid", leave=("bob",)) == (2, 2)
    assert await join(house, leave=("bob",)) == (2, 2)
    assert await members(house) == ["ann", "cid"]


async def test_a_message_goes_to_the_members_of_its_moment(house: House) -> None:
    await join(house, "ann", "bob")
    first = await to_group(house)
    await join(house, "cid", leave=("bob",))
    second = await to_group(house)
    assert await receivers(house, first.message_id) == [("ann", "message"), ("bob", "message")]
    assert await receivers(house, second.message_id) == [("ann", "message"), ("cid", "message")]


async def test_a_message_that_waits_goes_to_the_members_of_when_it_was_accepted(house: House, clock: Any) -> None:
    """F82: one has joined and one has left by the time that it goes out."""
    await join(house, "ann", "cid")
    waiting = await to_group(house, deliver_ms=clock.now_ms() + 1000)
    await join(house, "bob")
    await join(house, leave=("cid",))
    clock.forward(s=1)
    await house.fan_out()
    assert [user for user, _ in await receivers(house, waiting.message_id)] == ["ann", "cid"]


async def test_a_large_group_is_reached_in_parts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """F82: whoever joins or leaves between two chunks changes nothing of it."""
    for module in (send, fanout):
        monkeypatch.setattr(module, "AT_ONCE_MAX", 2)
    await house.register("dan/phone")
    await join(house, "ann", "bob", "cid")
    sent = await to_group(house)
    assert sent.job is not None
    assert await house.inbox.fan_out()
    assert len(await receivers(house, sent.message_id)) == 2
    await join(house, "dan", leave=("cid",))
    await house.fan_out()
    assert [user for user, _ in await receivers(house, sent.message_id)] == ["ann", "bob", "cid"]


async def test_the_sender_has_a_copy_of_its_own_and_is_no_receiver(house: House) -> None:
    await join(house, "ann", "bob")
    sent = await to_group(house, sender_user="ann", sender_device="phone")
    assert await receivers(house, sent.message_id) == [("ann", "own"), ("bob", "message")]


async def test_the_same_key_is_the_same_message_also_after_the_group_has_changed(house: House) -> None:
    await join(house, "ann")
    first = await to_group(house, key="k", body_hash=b"x")
    await join(house, "bob")
    again = await to_group(house, key="k", body_hash=b"x")
    assert (again.replay, again.message_id) == (True, first.message_id)
    assert await receivers(house, first.message_id) == [("ann", "message")]


async def test_a_group_without_anybody_to_receive_it_takes_nothing_and_keeps_no_key(house: House) -> None:
    with pytest.raises(Invalid):
        await to_group(house, key="k", body_hash=b"x")
    await join(house, "ann")
    with pytest.raises(Invalid):
        await to_group(house, sender_user="ann")
    assert not (await to_group(house, key="k", body_hash=b"x")).replay


async def test_who_comes_back_is_a_member_once(house: House) -> None:
    await join(house, "ann")
    await join(house, leave=("ann",))
    assert await join(house, "ann") == (3, 1)
    rows = await house.rows("SELECT joined_version, left_version FROM membership ORDER BY joined_version")
    assert [(row["joined_version"], row["left_version"]) for row in rows] == [(1, 2), (3, None)]


async def test_changes_at_once_are_one_after_the_other(house: House) -> None:
    await join(house, "ann")
    done = await asyncio.gather(*(join(house, f"u{n}") for n in range(6)))
    assert sorted(done) == [(version, version) for version in range(2, 8)]


async def test_a_group_has_a_bound(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MEMBERS_MAX", 2)
    await join(house, "ann", "bob")
    with pytest.raises(Invalid):
        await join(house, "cid")
    assert await join(house, "cid", leave=("bob",)) == (2, 2)


async def test_a_group_that_is_dissolved_has_nobody(house: House) -> None:
    await join(house, "ann", "bob")
    await house.inbox.groups.dissolve("shop", "g")
    assert await members(house) == []
    assert await join(house, "ann") == (3, 1)


async def test_an_unknown_group_is_missing(house: House) -> None:
    for what in (join(house, leave=("ann",)), members(house), house.inbox.groups.dissolve("shop", "g")):
        with pytest.raises(Missing):
            await what
