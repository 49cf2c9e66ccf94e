"""When the last delivery of a message to one user has ended, its sender is told how each did (protocol 11.5)."""

from typing import Any

import pytest
from house import House

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
        await house.ack(name, nacks=((message, "undecodable"),))


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
