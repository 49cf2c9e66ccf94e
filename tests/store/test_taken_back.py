"""A message is taken back (protocol 11): whoever may have it is told, also who has not acked it yet."""

import pytest
from house import House

from relay.store.engine import Engine

PHONE, TABLET = "ann/phone", "ann/tablet"


@pytest.fixture
async def house(engine: Engine, clock: object) -> House:
    house = await House(engine, clock).begin()
    for name in (PHONE, TABLET):
        await house.register(name)
    return house


async def told(house: House, device: str) -> list[list[str]]:
    """What the device is told was taken back, after what it has."""
    return [entry["of"] for entry in (await house.page(device)).json["entries"] if entry["kind"] == "recall"]


@pytest.mark.parametrize("leaves", [False, True])
async def test_who_was_handed_it_and_whose_ack_is_still_on_its_way_is_told(house: House, leaves: bool) -> None:
    await house.hello(PHONE)
    sent = (await house.send()).message_id
    assert (await house.page(PHONE)).ids == [sent]
    if leaves:
        house.clock.forward(s=1)
        await house.bye(PHONE)
    assert await house.inbox.cancel(house.app, sent) == "cancelled", "nobody has acked it"
    assert await told(house, PHONE) == [[sent]]
    cancelled = [event for type_, event in await house.events() if type_ == "delivery.cancelled"]
    details = {event["device"]: [one["detail"] for one in event["deliveries"]] for event in cancelled}
    assert details == {"phone": ["online_not_acked"], "tablet": ["no_address"]}


async def test_it_is_cancelled_and_not_recalled_whoever_may_have_it(house: House) -> None:
    await house.hello(PHONE)
    sent = (await house.send()).message_id
    await house.inbox.cancel(house.app, sent)
    (completed,) = [event for type_, event in await house.events() if type_ == "message.completed"]
    assert [one["counts"] for one in completed["messages"]] == [{"cancelled": 2}]
    assert (await house.page(TABLET)).gaps == [(0, 1, "cancelled")]


async def test_where_no_device_was_there_meanwhile_nobody_need_be_told(house: House) -> None:
    await house.hello(PHONE)
    await house.bye(PHONE)
    house.clock.forward(s=1)
    sent = (await house.send()).message_id
    await house.inbox.cancel(house.app, sent)
    page = await house.page(PHONE)
    assert (page.ids, page.gaps, page.json["entries"]) == ([], [(0, 1, "cancelled")], [])
