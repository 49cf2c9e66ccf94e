"""An app may have so many open deliveries and no more (safety §5): counted from the rows, and by what comes in between."""

from typing import Any

import pytest
from house import House

from relay.errors import Throttled
from relay.inbox.open_quota import OpenQuota
from relay.store.engine import Engine
from relay.store.open_deliveries import open_deliveries

PHONE, TABLET = "ann/phone", "ann/tablet"
MOST = 5


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    house.inbox.quota = OpenQuota(MOST)
    for name in (PHONE, TABLET, "bob/phone"):
        await house.register(name)
        await house.hello(name)
    return house


async def counted(house: House, most: int) -> int:
    return (await house.engine.read(lambda conn, now_ms: open_deliveries(conn, now_ms, most=most)))["shop"]


async def test_below_the_bound_it_is_how_far_the_slowest_devices_are_behind(house: House) -> None:
    await house.sends(3, "ann", "bob")
    await house.catch_up(PHONE)
    await house.catch_up("bob/phone")
    assert await counted(house, 100) == 3, "ann's tablet lacks them"
    await house.catch_up(TABLET)
    assert await counted(house, 100) == 0


async def test_above_it_only_what_neither_ended_nor_was_acked_everywhere_counts(house: House) -> None:
    await house.sends(2, ttl_s=60)
    acked, open_ = await house.send(), await house.send()
    await house.inbox.cancel("shop", (await house.send()).message_id)
    for name in (PHONE, TABLET):
        await house.ack(name, ids=(acked.message_id,))
    assert await counted(house, 3) == 3, "two that have not expired, and one more"
    house.clock.forward(s=61)
    assert await counted(house, 3) == 1, open_


async def test_who_has_as_many_as_allowed_is_refused_until_they_are_acked_and_counted(house: House) -> None:
    await house.inbox.count_open()
    await house.sends(MOST, "bob")
    for _ in range(2):
        with pytest.raises(Throttled) as refused:
            await house.send("bob")
        assert refused.value.code == "tenant_quota_exceeded"
        await house.inbox.count_open()
    await house.catch_up("bob/phone")
    await house.inbox.count_open()
    await house.send("bob")


async def test_each_receiver_counts_and_what_was_refused_to_one_or_answered_before_does_not(house: House) -> None:
    await house.inbox.accept(house.message("ann", "bob", key="k", body_hash=b"1"))
    await house.inbox.accept(house.message("ann", "bob", key="k", body_hash=b"1"))
    await house.send("ann", "nobody")
    assert house.inbox.quota.open("shop") == 3
    await house.inbox.count_open()
    assert house.inbox.quota.open("shop") == 3


async def test_what_comes_while_it_is_counted_is_not_forgotten(house: House) -> None:
    quota = house.inbox.quota
    begun = quota.begin()
    await house.sends(2, "bob")
    quota.counted({"shop": 1}, begun)
    assert quota.open("shop") == 3


async def test_another_app_has_a_quota_of_its_own(house: House) -> None:
    await house.sends(MOST, "bob")
    with pytest.raises(Throttled):
        house.inbox.quota.admit("shop")
    house.inbox.quota.admit("other")
