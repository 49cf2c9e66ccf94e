"""What a sender reads of a delivery that was over before the device had it, after the device's cursor has passed it."""

import pytest
from clocks import SetClock
from house import House

from relay.model import Scope
from relay.store.engine import Engine

PHONE, TABLET = "ann/phone", "ann/tablet"


@pytest.fixture
async def house(engine: Engine, clock: SetClock) -> House:
    house = await House(engine, clock).begin()
    await house.register(PHONE)
    await house.hello(PHONE)
    return house


async def states(house: House, id_: str) -> dict[str, str]:
    (recipient,) = (await house.inbox.reader.trace(house.app, id_)).recipients
    return {one["device"]: one["state"] for one in recipient["devices"]}


async def test_what_expired_first_was_not_acked_swept_or_not(house: House, clock: SetClock) -> None:
    had, swept = await house.sends(2, ttl_s=60)
    unswept = (await house.send(ttl_s=120)).message_id
    await house.page(PHONE, limit=1)
    await house.ack(PHONE)
    clock.forward(s=61)
    await house.inbox.expire()
    clock.forward(s=60)
    assert await house.catch_up(PHONE) == []
    assert [await states(house, id_) for id_ in (had, swept, unswept)] == [
        {"phone": "acked"},
        {"phone": "expired"},
        {"phone": "expired"},
    ]
    assert await house.deliveries("delivery.expired") == [("phone", swept), ("phone", unswept)]


async def test_a_late_ack_by_id_is_one_also_when_the_cursor_has_passed_it(house: House, clock: SetClock) -> None:
    sent = (await house.send(ttl_s=60)).message_id
    clock.forward(s=61)
    await house.catch_up(PHONE)
    assert (await house.ack(PHONE, ids=(sent,))).results == {sent: "expired"}
    assert await house.deliveries("delivery.late_ack") == [("phone", sent)]


async def test_what_was_taken_back_or_replaced_first_was_not_acked(house: House) -> None:
    cancelled, replaced = await house.sends(1) + await house.sends(1, collapse_key="score")
    await house.send(collapse_key="score")
    await house.inbox.cancel(house.app, cancelled)
    await house.catch_up(PHONE)
    assert await states(house, cancelled) == {"phone": "cancelled"}
    assert await states(house, replaced) == {"phone": "superseded"}


async def test_of_a_call_only_the_device_that_answered_has_acked(house: House) -> None:
    await house.register(TABLET)
    await house.hello(TABLET)
    call = (await house.send(scope=Scope(first_ack_wins=True))).message_id
    await house.catch_up(PHONE)
    await house.catch_up(TABLET)
    assert await states(house, call) == {"phone": "acked", "tablet": "superseded"}


async def test_what_was_held_until_it_expired_was_not_acked_whatever_version_comes_then(
    house: House, clock: SetClock
) -> None:
    await house.hello(PHONE, schema=6)
    held = (await house.send(ttl_s=60, min_schema=7)).message_id
    await house.catch_up(PHONE)
    clock.forward(s=61)
    await house.inbox.expire()
    await house.hello(PHONE, schema=7)
    await house.catch_up(PHONE)
    assert await states(house, held) == {"phone": "expired"}


async def test_what_was_acked_before_it_ended_stays_acked_after_the_device_lost_its_store(
    house: House, clock: SetClock
) -> None:
    sent = (await house.send(ttl_s=60)).message_id
    await house.catch_up(PHONE)
    house.store(PHONE).store_id = "another"
    clock.forward(s=61)
    await house.inbox.expire()
    await house.hello(PHONE)
    await house.catch_up(PHONE)
    assert await states(house, sent) == {"phone": "acked"}


async def test_of_many_stretches_that_were_missed_the_last_are_kept(house: House, clock: SetClock) -> None:
    """As of selective acks: the rows of a device stay few, whatever becomes of its messages."""
    for _ in range(70):
        await house.send(ttl_s=60)
        await house.send()
    clock.forward(s=61)
    await house.catch_up(PHONE)
    rows = await house.rows("SELECT from_seq FROM device_ack WHERE kind = 2 ORDER BY from_seq")
    assert (len(rows), rows[-1]) == (64, {"from_seq": 139})
