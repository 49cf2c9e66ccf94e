"""A device that says it has shown the newest notification is not reminded of it (protocol §7.5, §8.6)."""

from typing import Any

import pytest
from clocks import SetClock
from house import House

from relay.store.engine import Engine

HOUR_S = 3600


@pytest.fixture
async def house(engine: Engine, clock: SetClock) -> House:
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t1")
    return house


async def told(house: House, clock: SetClock) -> str:
    """A message whose push the vendor took."""
    sent = await house.send("ann", push='{"title":"hi"}')
    clock.forward(s=1)
    [attempt] = await house.told()
    assert not attempt.knock
    return sent.message_id


async def knocks(house: House, clock: SetClock, *, s: int = HOUR_S) -> list[bool]:
    clock.forward(s=s)
    return [attempt.knock for attempt in await house.told()]


async def shows(house: House, message: str, what: str = "shown") -> Any:
    return await house.ack("ann/phone", receipts=((message, what),))


@pytest.mark.parametrize("what", ["shown", "opened"])
async def test_what_the_user_has_seen_needs_no_reminder(house: House, clock: SetClock, what: str) -> None:
    await shows(house, await told(house, clock), what)
    job = await house.job("ann/phone")
    assert (job.due_ms, job.reason) == (None, "told")
    assert await knocks(house, clock, s=25 * HOUR_S) == []


async def test_a_receipt_that_overtakes_the_vendors_answer_counts_as_well(house: House, clock: SetClock) -> None:
    sent = await house.send("ann", push='{"title":"hi"}')
    clock.forward(s=1)
    await shows(house, sent.message_id)
    [attempt] = await house.told()
    assert not attempt.knock
    assert await knocks(house, clock) == []


async def test_an_older_one_that_was_shown_keeps_no_reminder_of_the_newest_back(house: House, clock: SetClock) -> None:
    first = await told(house, clock)
    await told(house, clock)
    await shows(house, first)
    assert await knocks(house, clock) == [True]


async def test_what_comes_after_it_is_told_and_reminded_of(house: House, clock: SetClock) -> None:
    await shows(house, await told(house, clock))
    await told(house, clock)
    assert await knocks(house, clock) == [True]
