"""How what stands in a shared timeline ends, on both stores: recalled, too old, or without its sender's name
(protocol 12.5, 11)."""

import json
from typing import Any

import pytest
from house import House

from relay.errors import Conflict, Missing
from relay.inbox.ack import AckRequest
from relay.inbox.shared import Wanted
from relay.model import Policy
from relay.store import meta
from relay.store.engine import Engine

DAY_S = 86_400
PHONE = "ann/phone"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock, policy=Policy()).begin()
    for user in ("ann", "bob", "cid"):
        await house.register(f"{user}/phone")
    await house.inbox.groups.change("shop", "g", add=["ann", "bob", "cid"], remove=(), ultra=True)
    return house


async def post(house: House, **more: Any) -> str:
    sent = await house.inbox.accept(house.message(users=(), group="g", conversation_id="g", **more))
    await work(house)
    return sent.message_id


async def work(house: House) -> None:
    await house.fan_out()


async def page(house: House, name: str = PHONE) -> dict[str, Any]:
    reading = await house.inbox.reader.read(house.key(name), None, limit=200, asked=Wanted(names=("g",)))
    assert reading.shared is not None
    return dict(json.loads(reading.shared.batches[0].json))


async def ack(house: House, name: str) -> None:
    cursor = house.inbox.reader.unseal((await page(house, name))["cursor"], house.key(name))
    await house.inbox.ack(AckRequest(device=house.key(name), shared=(cursor,)))


# --- recall -----------------------------------------------------------------------------------------------------------


async def test_a_recall_ends_the_entry_and_tells_the_readers(house: House) -> None:
    id_ = await post(house)
    assert await house.inbox.cancel("shop", id_) == "recalled"
    found = await page(house)
    assert found["gaps"] == [{"from": 0, "to": 1, "why": "recalled"}]
    assert [(entry["kind"], entry["of"]) for entry in found["entries"]] == [("recall", [id_])]
    with pytest.raises(Conflict):
        await house.inbox.cancel("shop", id_)


async def test_a_recall_takes_pointers_back_too(house: House) -> None:
    named = await post(house, mentions=("ann",))
    everyone = await post(house, everyone=True, sender_user="cid")
    for id_ in (named, everyone):
        await house.inbox.cancel("shop", id_)
        await work(house)
    rows = await house.rows("SELECT user_id, state FROM inbox_entry WHERE kind = 'pointer' ORDER BY user_id, seq")
    assert [(row["user_id"], row["state"]) for row in rows] == [
        ("ann", "cancelled"),
        ("ann", "cancelled"),
        ("bob", "cancelled"),
    ]
    assert await house.rows("SELECT * FROM fanout_job") == []


async def test_what_has_expired_is_a_gap_and_cannot_be_recalled(house: House) -> None:
    id_ = await post(house, ttl_s=60)
    house.clock.forward(s=60)
    assert (await page(house))["gaps"] == [{"from": 0, "to": 1, "why": "expired"}]
    with pytest.raises(Conflict):
        await house.inbox.cancel("shop", id_)


# --- age --------------------------------------------------------------------------------------------------------------


async def test_what_is_older_than_is_kept_goes_with_a_count_and_no_reader_holds_it(house: House) -> None:
    old = [await post(house), await post(house)]
    await ack(house, "ann/phone")
    await post(house)
    await ack(house, "bob/phone")
    house.clock.forward(s=6 * DAY_S)
    new = await post(house)
    house.clock.forward(s=2 * DAY_S)
    await house.inbox.shared.prune()
    found = await page(house)
    assert (found["from"], [entry["id"] for entry in found["entries"]]) == (3, [new])
    (data,) = [data for kind, data in await house.events() if kind == "message.completed"]
    assert data["conversation"] == "g"
    assert [(one["message_id"], one["counts"]["acked"]) for one in data["messages"][:2]] == [(id_, 2) for id_ in old]
    assert [one["counts"]["acked"] for one in data["messages"]] == [2, 2, 1]


async def test_who_was_no_member_then_counts_for_nothing(house: House) -> None:
    """Neither who joined later, nor who had left: they read beyond it, and it was never theirs."""
    await house.register("eve/phone")
    await house.inbox.groups.change("shop", "g", add=(), remove=["bob"], ultra=True)
    between = await post(house)
    await house.inbox.groups.change("shop", "g", add=["bob", "eve"], remove=(), ultra=True)
    after = await post(house)
    for phone in ("ann/phone", "bob/phone", "eve/phone"):
        await house.hello(phone)
        await ack(house, phone)
    counts = [(await house.inbox.reader.trace("shop", id_)).message["timeline"]["acked"] for id_ in (between, after)]
    assert counts == [1, 3]
    house.clock.forward(s=8 * DAY_S)
    await house.inbox.shared.prune()
    (data,) = [data for kind, data in await house.events() if kind == "message.completed"]
    assert [one["counts"]["acked"] for one in data["messages"]] == counts


async def test_a_cursor_below_the_floor_goes_on_over_a_gap(house: House) -> None:
    await post(house)
    before = await page(house)
    await post(house)
    house.clock.forward(s=8 * DAY_S)
    await house.inbox.shared.prune()
    await post(house)
    asked = Wanted(cursors=(before["cursor"],))
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=200, asked=asked)
    assert reading.shared is not None
    after = json.loads(reading.shared.batches[0].json)
    assert (after["from"], after["gaps"]) == (1, [{"from": 1, "to": 2, "why": "pruned"}])


async def test_nothing_goes_while_pruning_is_frozen(house: House) -> None:
    await post(house)
    house.clock.forward(s=8 * DAY_S)
    await house.engine.write(lambda conn, now_ms: meta.begin_epoch(conn, now_ms, house.rng))
    await house.inbox.shared.prune()
    assert len((await page(house))["entries"]) + len((await page(house))["gaps"]) == 1


# --- users ------------------------------------------------------------------------------------------------------------


async def test_an_erased_user_leaves_no_name_and_takes_nothing_from_others(house: House) -> None:
    id_ = await post(house, sender_user="ann", sender_device="phone", mentions=("ann", "bob"))
    alone = await post(house, mentions=("ann",))
    await ack(house, "ann/phone")
    await house.inbox.erase(house.key(PHONE).user)
    found = await page(house, "bob/phone")
    assert [(entry["id"], entry["sender"]) for entry in found["entries"]] == [(id_, None), (alone, None)]
    for table in ("membership", "device_shared"):
        assert await house.rows(f"SELECT * FROM {table} WHERE user_id = 'ann'") == []


async def test_a_renamed_user_is_the_same_member(house: House) -> None:
    await post(house, sender_user="ann", sender_device="phone")
    theirs = await post(house, sender_user="bob")
    await house.inbox.rename(house.key(PHONE).user, "anna")
    found = await page(house, "bob/phone")
    assert found["entries"][0]["sender"]["user"] == "anna"
    assert theirs in [entry["id"] for entry in (await page(house, "anna/phone"))["entries"]]


async def test_the_trace_counts_readers_and_does_not_name_them(house: House) -> None:
    id_ = await post(house)
    await ack(house, "ann/phone")
    await ack(house, "cid/phone")
    found = await house.inbox.reader.trace("shop", id_)
    assert found.message["timeline"] == {"conversation": "g", "seq": 1, "state": "live", "acked": 2}
    assert found.recipients == []
    with pytest.raises(Missing):
        await house.inbox.reader.trace("shop", "01900000-0000-7000-8000-999999999999")
