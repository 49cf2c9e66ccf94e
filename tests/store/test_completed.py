"""When the last delivery of a message to one user has ended, its sender is told how each did (protocol 11.5)."""

from typing import Any

import pytest
from house import House

from relay.inbox.ack import Nack
from relay.inbox.ending import expire
from relay.store.engine import Engine

PHONE, TABLET = "ann/phone", "ann/tablet"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    for name in (PHONE, TABLET):
        await house.register(name)
        await house.hello(name, schema=1, app_version="1")
    return house


async def upgrade(house: House, name: str, version: str = "2") -> None:
    await house.hello(name, schema=5, app_version=version)


async def refuse(house: House, name: str, message: str) -> None:
    """Three versions of the app can't decode it."""
    for version in ("2", "3", "4"):
        await upgrade(house, name, version)
        await house.page(name)
        await house.ack(name, nacks=(Nack(message, "undecodable"),))


async def completed(house: House) -> list[dict[str, int]]:
    """The counts of what has been told."""
    told = [data["messages"] for kind, data in await house.events() if kind == "message.completed"]
    return [one["counts"] for messages in told for one in messages]


async def test_it_is_told_when_the_last_device_has_acked(house: House) -> None:
    await house.send()
    await house.catch_up(PHONE)
    assert await completed(house) == []
    await house.catch_up(TABLET)
    assert await completed(house) == [{"acked": 2}]


async def test_what_comes_again_after_an_upgrade_is_complete_when_the_last_device_has_it_in_full(house: House) -> None:
    await house.send(min_schema=5)
    for name in (PHONE, TABLET):
        await house.catch_up(name)
        await upgrade(house, name)
    await house.catch_up(PHONE)
    assert await completed(house) == []
    await house.catch_up(TABLET)
    assert await completed(house) == [{"acked": 2}]


async def test_a_device_that_still_holds_it_keeps_it_incomplete(house: House) -> None:
    await house.send(min_schema=5)
    for name in (PHONE, TABLET):
        await house.catch_up(name)
    await upgrade(house, PHONE)
    await house.catch_up(PHONE)
    assert await completed(house) == []


async def test_what_expires_while_it_comes_again_was_not_acked(house: House) -> None:
    await house.send(min_schema=5, ttl_s=60)
    for name in (PHONE, TABLET):
        await house.catch_up(name)
        await upgrade(house, name)
    await house.catch_up(PHONE)
    house.clock.forward(s=61)
    await house.inbox.expire()
    assert await completed(house) == [{"acked": 1, "expired": 1}]


async def test_a_delivery_that_failed_last_completes_it(house: House) -> None:
    sent = await house.send()
    await house.catch_up(TABLET)
    await refuse(house, PHONE, sent.message_id)
    assert await completed(house) == [{"acked": 1, "failed": 1}]


async def test_a_delivery_that_failed_first_is_not_counted_as_acked(house: House) -> None:
    sent = await house.send()
    await refuse(house, PHONE, sent.message_id)
    assert await completed(house) == []
    await house.catch_up(TABLET)
    assert await completed(house) == [{"acked": 1, "failed": 1}]


async def test_a_delivery_that_failed_has_no_second_end(house: House) -> None:
    """I13: neither by time, nor by the sender, nor because the device goes."""
    sent = await house.send(ttl_s=60)
    await refuse(house, PHONE, sent.message_id)
    await house.inbox.sign_out(house.key(PHONE))
    await house.inbox.cancel("shop", sent.message_id)
    assert await house.deliveries("delivery.failed") == [("phone", sent.message_id)]
    assert await house.deliveries("delivery.cancelled") == [("tablet", sent.message_id)]


async def test_what_expires_where_another_device_has_failed_tells_of_both_ends(house: House) -> None:
    sent = await house.send(ttl_s=60)
    await refuse(house, PHONE, sent.message_id)
    house.clock.forward(s=61)
    await house.inbox.expire()
    assert await completed(house) == [{"failed": 1, "expired": 1}]
    assert await house.deliveries("delivery.expired") == [("tablet", sent.message_id)]


async def test_an_ack_of_the_first_form_does_not_complete_what_another_device_is_about_to_get_in_full(
    house: House,
) -> None:
    await house.hello(TABLET, schema=5, app_version="2")
    await house.send(min_schema=5)
    await house.catch_up(PHONE)
    await upgrade(house, PHONE)  # its full form is on its way
    await house.catch_up(TABLET)
    assert await completed(house) == []
    await house.catch_up(PHONE)
    assert await completed(house) == [{"acked": 2}]


async def test_what_comes_in_full_at_last_is_told_of_once_whichever_part_of_it_is_swept_first(house: House) -> None:
    sent = await house.send(min_schema=5, ttl_s=60)
    await house.catch_up(PHONE)
    await upgrade(house, PHONE)
    await house.catch_up(TABLET)
    house.clock.forward(s=61)
    for _ in range(3):
        await house.engine.write(lambda conn, now_ms: expire(conn, now_ms, lambda _: house.policy, limit=1))
    assert await completed(house) == [{"expired": 2}]
    assert await house.deliveries("delivery.expired") == [("phone", sent.message_id), ("tablet", sent.message_id)]


async def test_the_last_device_that_lacked_it_goes_and_what_the_others_acked_is_complete(house: House) -> None:
    await house.send()
    await house.catch_up(TABLET)
    assert await completed(house) == []
    await house.inbox.sign_out(house.key(PHONE))
    assert await completed(house) == [{"acked": 1, "failed": 1}]


async def test_a_device_that_follows_the_one_that_went_keeps_it_incomplete(house: House) -> None:
    await house.send()
    await house.catch_up(TABLET)
    await house.register("ann/new", replaces="phone")
    assert await completed(house) == []
    await house.hello("ann/new")
    await house.catch_up("ann/new")
    assert await completed(house) == [{"acked": 2}]


async def test_the_only_device_goes_and_what_it_lacked_waits_for_the_next(house: House) -> None:
    await house.register("bob/phone")
    await house.send("bob")
    await house.inbox.sign_out(house.key("bob/phone"))
    assert await completed(house) == []


async def test_a_device_of_the_same_name_takes_over_neither_acks_nor_refusals(house: House) -> None:
    sent = await house.send()
    await refuse(house, PHONE, sent.message_id)
    await house.inbox.sign_out(house.key(PHONE))
    del house.stores[PHONE]
    house.clock.forward(s=1)
    await house.register(PHONE)
    await house.hello(PHONE, app_version="9")
    assert set(await house.catch_up(PHONE)) == {sent.message_id}
    assert await house.deliveries("delivery.acked") == [("phone", sent.message_id)]
