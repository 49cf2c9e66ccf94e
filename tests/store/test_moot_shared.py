"""What a device may still show of shared timelines and need not (protocol 7.4, 12.5), as the rows tell it."""

import dataclasses
from typing import Any

import pytest
from house import House
from msgspec.structs import replace

from providers.contract import Capabilities
from relay.inbox.ack import AckRequest
from relay.inbox.shared import Wanted
from relay.model import Policy, UserKey
from relay.push.moot import WITHDRAWN, Moot, find_moot
from relay.push.notes import summary_id
from relay.store import receipts
from relay.store.engine import Engine

RECALLS = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400, recall=True)
PHONE = "ann/phone"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """A phone that was told of three messages of an ultra group, by one notification, and a tablet beside it."""
    house = await House(engine, clock, policy=Policy()).begin()
    await house.register(PHONE, "t1")
    await house.register("ann/tablet")
    await house.inbox.groups.change("shop", "g", add=["ann"], remove=(), ultra=True, notify="all")
    await post(house, 3)
    assert len(await house.told()) == 1
    return house


async def post(house: House, count: int = 1) -> list[str]:
    ids = []
    for _ in range(count):
        sent = await house.inbox.accept(house.message(users=(), group="g", conversation_id="g"))
        ids.append(sent.message_id)
    await house.fan_out()
    house.clock.forward(s=1)
    return ids


async def moot(house: House) -> list[Moot]:
    user = house.key(PHONE).user
    return await house.engine.read(
        lambda conn, now_ms: find_moot(conn, now_ms, [user], lambda _: house.policy, lambda _app, _account: RECALLS)
    )


async def test_nothing_while_some_of_it_is_unread(house: House) -> None:
    assert await moot(house) == []
    await house.ack("ann/tablet", reads=(("g", 2),))
    assert await moot(house) == []


async def test_its_one_notification_once_all_of_it_was_read_elsewhere(house: House) -> None:
    await house.ack("ann/tablet", reads=(("g", 3),))
    (one,) = await moot(house)
    (note,) = one.notes
    assert note.push_id == note.collapse_key == summary_id("phone", "g")
    assert len(one.messages) == 3, "an app that is told silently knows it by them"
    said = {
        "push_id": note.push_id, "fact": WITHDRAWN, "code": "", "reason": None, "at_ms": None, "taken_ms": 1,
    }  # fmt: skip
    await house.engine.write(lambda conn, _: receipts.add(conn, one.device, note.claim_token, said))
    assert await moot(house) == [], "once"

    await post(house)
    assert len(await house.told()) == 1
    assert await moot(house) == [], "it stands there anew, and is unread"
    await house.ack("ann/tablet", reads=(("g", 4),))
    assert len(await moot(house)) == 1


async def test_what_came_after_the_telling_and_is_unread_leaves_it_to_the_next(house: House) -> None:
    await house.ack("ann/tablet", reads=(("g", 3),))
    await post(house)
    assert len(await moot(house)) == 1, "the phone shows nothing but what was read"


async def test_not_what_the_device_has_itself(house: House) -> None:
    await house.hello(PHONE)
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=200, asked=Wanted(names=("g",)))
    assert reading.shared is not None
    cursor = house.inbox.reader.unseal(reading.shared.batches[0].cursor, house.key(PHONE))
    await house.inbox.ack(AckRequest(device=house.key(PHONE), shared=(cursor,)))
    await house.bye(PHONE)
    await house.ack("ann/tablet", reads=(("g", 3),))
    assert await moot(house) == [], "the app sees to what it has"


async def test_it_goes_beside_what_is_moot_of_the_inbox_in_one_go(house: House) -> None:
    await house.send("ann", conversation_id="c", conversation_type="direct")
    house.clock.forward(s=1)
    (attempt,) = await house.told()
    await house.ack("ann/tablet", reads=(("g", 3), ("c", attempt.send.upto_seq)))
    (one,) = await moot(house)
    assert len(one.notes) == 2
    assert len(one.messages) == 4


async def test_each_of_several_groups_that_one_push_told_of(house: House) -> None:
    for name in ("h", "i"):
        await house.inbox.groups.change("shop", name, add=["ann"], remove=(), ultra=True, notify="all")
        await house.inbox.accept(house.message(users=(), group=name, conversation_id=name))
    await house.fan_out()
    house.clock.forward(s=1)
    (attempt,) = await house.told()
    assert dict(attempt.send.shared) == {"h": 1, "i": 1}
    for name in ("h", "i"):
        await house.ack("ann/tablet", reads=((name, 1),))
        (one,) = await moot(house)
        assert summary_id("phone", name) in {note.push_id for note in one.notes}
        assert {note.claim_token for note in one.notes} == {attempt.token}


async def test_what_was_taken_back_is_looked_for_where_it_was_told(house: House) -> None:
    """Whoever was told of it through a vendor is looked at, though nothing of it stands in an inbox."""
    await house.register("bob/phone", "t2")
    await house.inbox.groups.change("shop", "g", add=["bob"], remove=())
    looked: list[UserKey] = []
    house.inbox.moot = looked.extend
    await house.ack("ann/tablet", reads=(("g", 2),))
    looked.clear()
    newest = (await house.rows("SELECT message_id FROM timeline_entry ORDER BY seq DESC"))[0]["message_id"]
    assert await house.inbox.cancel("shop", newest) == "recalled"
    assert looked == [house.key(PHONE).user], "not bob, who was told nothing"
    (one,) = await moot(house)
    assert [note.push_id for note in one.notes] == [summary_id("phone", "g")]
    assert newest in one.messages, "an app that is told silently has to know it by its name"


async def test_what_was_taken_back_leaves_the_notification_to_what_is_unread_beside_it(house: House) -> None:
    newest = (await house.rows("SELECT message_id FROM timeline_entry ORDER BY seq DESC"))[0]["message_id"]
    await house.inbox.cancel("shop", newest)
    assert await moot(house) == []


async def summed_up(house: House, *names: str) -> None:
    """A vendor that keeps few is told of these groups, and of what is in the inbox, by one notification."""
    few = dataclasses.replace(house.views["v"].capabilities, collapse_keys_max=2)
    house.views = {"v": replace(house.views["v"], capabilities=few)}
    for name in names:
        await house.inbox.groups.change("shop", name, add=["ann"], remove=(), ultra=True, notify="all")
        await house.inbox.accept(house.message(users=(), group=name, conversation_id=name))
    await house.fan_out()
    house.clock.forward(s=1)
    (attempt,) = await house.told()
    assert [note.push_id for note in attempt.send.notes] == [summary_id("phone", None)]


async def test_one_notification_of_several_groups_goes_when_all_of_them_were_read(house: House) -> None:
    await summed_up(house, "h", "i")
    await house.ack("ann/tablet", reads=(("h", 1),))
    assert await moot(house) == []
    await house.ack("ann/tablet", reads=(("i", 1),))
    (one,) = await moot(house)
    assert [note.push_id for note in one.notes] == [summary_id("phone", None)]
    assert len(one.messages) == 2


async def test_one_notification_of_groups_and_messages_stays_while_a_group_is_unread(house: House) -> None:
    await house.send("ann", conversation_id="c", conversation_type="direct")
    await summed_up(house, "h")
    whole = summary_id("phone", None)
    await house.ack("ann/tablet", reads=(("c", 1),))
    assert whole not in {note.push_id for one in await moot(house) for note in one.notes}
    await house.ack("ann/tablet", reads=(("h", 1),))
    assert whole in {note.push_id for one in await moot(house) for note in one.notes}
