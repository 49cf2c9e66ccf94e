"""Who a message is for (protocol 12.4): the first of several to ack it, or only some devices. F89, F90."""

import asyncio
from typing import Any

import pytest
from house import House

from relay.model import Scope

CALLED = tuple(f"ann/{name}" for name in ("phone", "tablet", "desktop", "watch"))


async def ends(house: House, type_: str) -> list[str]:
    return [device for device, _ in await house.deliveries(type_)]


async def test_f89_the_first_to_answer_a_call_ends_it_for_the_others(house: House) -> None:
    for name in CALLED:
        await house.register(name)
        await house.hello(name)
    await house.send(scope=Scope(first_ack_wins=True), type="call")
    for name in CALLED:
        assert len((await house.page(name)).ids) == 1
    await house.ack("ann/tablet")
    assert await ends(house, "delivery.acked") == ["tablet"]
    assert await ends(house, "delivery.superseded") == ["desktop", "phone", "watch"]
    await house.ack("ann/phone")
    assert await ends(house, "delivery.acked") == ["tablet"], "it came too late, and changes nothing"
    await house.register("ann/late")
    await house.hello("ann/late")
    assert (await house.page("ann/late")).gaps == [(0, 1, "superseded")]


async def test_f89_of_answers_that_cross_the_first_to_commit_wins(house: House) -> None:
    for name in CALLED:
        await house.register(name)
        await house.hello(name)
    for _ in range(8):
        await house.send(scope=Scope(first_ack_wins=True))
        for name in CALLED:
            await house.page(name)
        await asyncio.gather(*[house.ack(name) for name in CALLED])
    assert len(await ends(house, "delivery.acked")) == 8
    assert len(await ends(house, "delivery.superseded")) == 8 * 3


async def test_f90_what_is_for_some_devices_is_a_gap_for_the_others_and_holds_nobody_up(house: House) -> None:
    for name, platform, version in (
        ("ann/old", "ios", "5.3.9"),
        ("ann/new", "ios", "5.4.0"),
        ("ann/other", "android", "5.4.0"),
    ):
        await house.register(name, platform=platform, app_version=version)
        await house.hello(name, app_version=version)
    only = await house.send(scope=Scope(platforms=("ios",)), min_app_version="5.4", hold=False)
    after = await house.send()
    for name, has, gaps in (
        ("ann/new", [only, after], []),
        ("ann/old", [after], [(0, 1, "scope")]),
        ("ann/other", [after], [(0, 1, "scope")]),
    ):
        page = await house.page(name)
        assert (page.ids, page.gaps) == ([one.message_id for one in has], gaps)
        assert (await house.ack(name)).acked_seq == 2


async def test_a_device_is_there_before_what_is_sent_to_it_whatever_the_clock_says(house: House, clock: Any) -> None:
    """It was set back since the device came, or another node's is behind: no order rests on a clock (protocol 6.7)."""
    await house.register("ann/phone", schema=1)
    await house.hello("ann/phone", schema=1)
    clock.forward(s=-30)
    named = await house.send(scope=Scope(devices=("phone",)), devices_named=True)
    held = await house.send(min_schema=2)
    assert await house.catch_up("ann/phone") == [named.message_id]
    await house.hello("ann/phone", schema=2)
    assert await house.catch_up("ann/phone") == [held.message_id]


async def test_what_is_for_devices_online_now_is_for_those_alone_and_each_is_told_of(house: House, clock: Any) -> None:
    for name in ("ann/here", "ann/away", "ann/back"):
        await house.register(name)
    for name in ("ann/here", "ann/back"):
        await house.hello(name)
    await house.bye("ann/back")
    await house.hello("ann/back")
    await house.send(scope=Scope(online=True), ttl_s=0)
    await house.bye("ann/back")
    for name in ("ann/away", "ann/back"):
        await house.hello(name)
    assert len((await house.page("ann/here")).ids) == 1
    assert len((await house.page("ann/back")).ids) == 1, "it was online, and is again in time"
    assert (await house.page("ann/away")).gaps == [(0, 1, "scope")]
    await house.ack("ann/here")
    clock.forward(s=31)
    await house.inbox.expire()
    assert await ends(house, "delivery.acked") == ["here"]
    assert await ends(house, "delivery.expired") == ["back"]


@pytest.mark.parametrize("first", ["released", "never held"])
async def test_first_ack_wins_also_where_it_comes_again_after_an_upgrade(house: House, first: str) -> None:
    """Each delivery has one end (I13): acked where it came first, superseded at the others."""
    phone, tablet = "ann/phone", "ann/tablet"
    for name, schema in ((phone, 1), (tablet, 1 if first == "released" else 5)):
        await house.register(name)
        await house.hello(name, schema=schema, app_version="1")
    call = await house.send(scope=Scope(first_ack_wins=True), type="call", min_schema=5)
    for name in (phone, tablet) if first == "released" else (phone,):
        await house.catch_up(name)
        await house.hello(name, schema=5, app_version="2")

    assert await house.catch_up(tablet) == [call.message_id]

    assert await house.catch_up(phone) == []
    assert await house.deliveries("delivery.acked") == [("tablet", call.message_id)]
    assert await house.deliveries("delivery.superseded") == [("phone", call.message_id)]
