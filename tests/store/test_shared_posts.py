"""Posting to shared timelines on both stores: one entry for a message, pointers for who is mentioned, and a wake job that
covers it (protocol 12.5)."""

import asyncio
from typing import Any

import pytest
from house import House
from sqlalchemy import text

from relay.errors import Invalid
from relay.inbox import fanout, send, waking
from relay.model import Policy
from relay.store.engine import Engine


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock, policy=Policy()).begin()
    for user in ("ann", "bob", "cid", "dee", "eve"):
        await house.register(f"{user}/phone", f"token-{user}")
    await house.inbox.groups.change("shop", "g", add=["ann", "bob", "cid"], remove=(), ultra=True)
    return house


async def post(house: House, **more: Any) -> Any:
    return await house.inbox.accept(house.message(users=(), group="g", conversation_id="g", **more))


async def entries(house: House) -> list[tuple[int, str, str]]:
    rows = await house.rows("SELECT seq, message_id, state FROM timeline_entry ORDER BY seq")
    return [(row["seq"], row["message_id"], row["state"]) for row in rows]


async def pointers(house: House) -> list[tuple[str, str]]:
    rows = await house.rows("SELECT user_id, message_id FROM inbox_entry WHERE kind = 'pointer' ORDER BY user_id, seq")
    return [(row["user_id"], row["message_id"]) for row in rows]


async def test_a_message_is_one_entry_however_many_read_it(house: House) -> None:
    """F83: and nothing in any member's inbox."""
    first, second = await post(house), await post(house)
    assert await entries(house) == [(1, first.message_id, "live"), (2, second.message_id, "live")]
    assert (first.posted[1], second.posted[1], first.recipients) == (1, 2, ())
    assert await house.rows("SELECT * FROM inbox_entry") == []


async def test_many_writers_at_once_leave_no_hole(house: House) -> None:
    """I1, I2 for a shared timeline."""
    sent = await asyncio.gather(*(post(house) for _ in range(20)))
    assert sorted(one.posted[1] for one in sent) == list(range(1, 21))
    assert [seq for seq, _, _ in await entries(house)] == list(range(1, 21))
    assert (await house.rows("SELECT head_seq FROM conversation"))[0]["head_seq"] == 20


async def test_the_same_key_is_the_same_number(house: House) -> None:
    first = await post(house, key="k", body_hash=b"x")
    again = await post(house, key="k", body_hash=b"x")
    assert (again.replay, again.message_id, again.posted) == (True, first.message_id, first.posted)
    assert len(await entries(house)) == 1


async def test_who_is_mentioned_has_it_in_the_inbox_too(house: House) -> None:
    sent = await post(house, mentions=("ann", "dee", "nobody"), sender_user="bob")
    assert {one.user_id: (one.seq, one.refusal) for one in sent.recipients} == {
        "ann": (1, None),
        "dee": (None, "recipient_unknown"),
        "nobody": (None, "recipient_unknown"),
    }
    assert await pointers(house) == [("ann", sent.message_id)]
    assert len(await entries(house)) == 1


async def test_many_mentions_and_everybody_go_by_a_job(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (send, fanout):
        monkeypatch.setattr(module, "AT_ONCE_MAX", 2)
    named = await post(house, mentions=("ann", "bob", "cid"))
    assert named.job is not None
    await house.fan_out()
    assert await pointers(house) == [(user, named.message_id) for user in ("ann", "bob", "cid")]
    everyone = await post(house, everyone=True, sender_user="bob")
    await house.inbox.groups.change("shop", "g", add=["dee"], remove=["cid"])
    await house.fan_out()
    later = [who for who, message in await pointers(house) if message == everyone.message_id]
    assert later == ["ann", "cid"], "members of its moment, without the sender"
    assert await house.rows("SELECT * FROM fanout_job") == []


async def test_many_who_are_named_beside_everybody_have_it_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (send, fanout):
        monkeypatch.setattr(module, "AT_ONCE_MAX", 2)
    await house.inbox.groups.change("shop", "g", add=["dee"], remove=())
    sent = await post(house, everyone=True, mentions=("ann", "bob", "cid"), sender_user="bob")
    await house.fan_out()
    assert await pointers(house) == [(user, sent.message_id) for user in ("ann", "bob", "cid", "dee")]
    (row,) = await house.rows("SELECT recipients FROM message")
    assert row["recipients"] == '[["ann",1,null],["bob",1,null],["cid",1,null]]'


async def test_the_sender_has_a_copy_only_if_it_does_not_read_the_timeline(house: House) -> None:
    await post(house, sender_user="ann", sender_device="phone")
    await post(house, sender_user="dee", sender_device="phone")
    rows = await house.rows("SELECT user_id, kind FROM inbox_entry")
    assert [(row["user_id"], row["kind"]) for row in rows] == [("dee", "own")]


async def test_what_collapses_is_superseded(house: House) -> None:
    for _ in range(3):
        await post(house, collapse_key="score")
    assert [state for _, _, state in await entries(house)] == ["superseded", "superseded", "live"]


@pytest.mark.parametrize(
    "more",
    [
        {"deliver_ms": 2**50},
        {"conversation_id": "another"},
    ],
)
async def test_what_only_inboxes_can_do_is_refused_and_keeps_no_key(house: House, more: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await house.inbox.accept(
            house.message(users=(), group="g", **({"conversation_id": "g", "key": "k", "body_hash": b"x"} | more))
        )
    assert await entries(house) == []
    assert not (await post(house, key="k", body_hash=b"x")).replay


async def test_a_group_becomes_ultra_and_those_in_it_are_told_of_everything_as_before(house: House) -> None:
    await house.inbox.groups.change("shop", "h", add=["ann", "bob"], remove=())
    await house.inbox.accept(house.message(users=(), group="h"))
    after = await house.inbox.groups.change("shop", "h", add=["cid"], remove=(), ultra=True)
    assert (after.type, after.members) == ("ultra", 3)
    sent = await house.inbox.accept(house.message(users=(), group="h", conversation_id="h"))
    assert sent.posted[1] == 1
    rows = await house.rows("SELECT user_id, notify FROM membership WHERE conversation_id = 'h' ORDER BY user_id")
    assert [row["notify"] for row in rows] == ["all", "all", "mentions"]


# --- waking -----------------------------------------------------------------------------------------------------------


async def wakes(house: House) -> dict[str, int]:
    rows = await house.rows("SELECT user_id, wake_seq FROM membership WHERE conversation_id = 'g'")
    return {row["user_id"]: row["wake_seq"] for row in rows}


async def want(house: House, *users: str, level: str = "all") -> None:
    for user in users:
        await house.inbox.groups.set_notify(house.key(f"{user}/phone").user, "g", level)


async def test_each_entry_is_covered_by_a_wake_job_of_the_same_transaction(house: House) -> None:
    """I40; an append while it has not begun joins it."""
    await post(house)
    await post(house)
    (job,) = await house.rows("SELECT from_seq, upto_seq FROM fanout_job")
    assert (job["from_seq"], job["upto_seq"]) == (1, 2)


async def test_only_who_wants_everything_is_woken(house: House) -> None:
    """F83: inboxes of the others are untouched."""
    await want(house, "ann")
    await post(house)
    await house.fan_out()
    assert await wakes(house) == {"ann": 1, "bob": 0, "cid": 0}
    assert [row["user_id"] for row in await house.rows("SELECT user_id FROM inbox WHERE woken = 1")] == ["ann"]
    due = await house.rows("SELECT user_id FROM push_job WHERE due_ms IS NOT NULL")
    assert [row["user_id"] for row in due] == ["ann"]


async def test_a_job_that_is_cut_off_goes_on_and_one_that_has_begun_gets_a_successor(
    house: House, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F84."""
    monkeypatch.setattr(waking, "MEMBERS_AT_ONCE", 1)
    await want(house, "ann", "bob", "cid")
    await post(house)
    assert await house.inbox.fan_out()
    await post(house)
    jobs = await house.rows("SELECT next_user, upto_seq FROM fanout_job ORDER BY from_seq")
    assert [(job["next_user"], job["upto_seq"]) for job in jobs] == [("ann", 1), ("", 2)]
    await house.engine.write(
        lambda conn, _: conn.execute(text("UPDATE fanout_job SET due_ms = 1 WHERE next_user = ''"))
    )
    await house.fan_out()
    assert set((await wakes(house)).values()) == {1}, "one at a time walks the members"
    clock.forward(ms=waking.AFTER_ANOTHER_MS)
    await house.fan_out()
    assert set((await wakes(house)).values()) == {2}
    assert await house.rows("SELECT * FROM fanout_job") == []


async def test_what_shows_nothing_wakes_nobody(house: House) -> None:
    await want(house, "ann")
    await post(house, push=None)
    assert await house.fan_out() == 1
    assert await wakes(house) == {"ann": 0, "bob": 0, "cid": 0}


async def test_several_workers_at_once_wake_everybody_once_and_lock_nobody_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "MEMBERS_AT_ONCE", 1)
    await want(house, "ann", "bob", "cid")
    await asyncio.gather(
        *(post(house, mentions=("ann", "cid")) for _ in range(6)), *(house.fan_out() for _ in range(3))
    )
    house.clock.forward(ms=waking.AFTER_ANOTHER_MS)
    await house.fan_out()
    assert set((await wakes(house)).values()) == {6}
