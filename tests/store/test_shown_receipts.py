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


async def receipts(house: House) -> list[tuple[str, str]]:
    """(message id, what) of each that the sender was told, in order."""
    events = [data for kind, data in await house.events() if kind == "delivery.receipt"]
    return [(one["message_id"], one["detail"]) for data in events for one in data["deliveries"]]


async def test_the_sender_is_told_that_it_was_shown_and_later_that_it_was_opened_each_once(house: House) -> None:
    sent = (await house.send("ann")).message_id
    for what in ("shown", "opened", "shown", "opened"):
        await shows(house, sent, what)
    assert await receipts(house) == [(sent, "shown"), (sent, "opened")]


async def test_both_may_be_said_in_one_word(house: House) -> None:
    one, other = [(await house.send("ann")).message_id for _ in range(2)]
    said = ((one, "shown"), (other, "shown"), (one, "opened"), (one, "opened"))
    await house.ack("ann/phone", receipts=said)
    assert sorted(await receipts(house)) == sorted({(one, "shown"), (one, "opened"), (other, "shown")})


async def test_of_a_message_that_came_in_two_forms_it_is_told_once(house: House) -> None:
    await house.hello("ann/phone", schema=1, app_version="1")
    sent = (await house.send("ann", min_schema=2, fallback='"old"')).message_id
    await house.catch_up("ann/phone")
    await house.hello("ann/phone", schema=2, app_version="2")
    await house.catch_up("ann/phone")
    await shows(house, sent)
    assert await receipts(house) == [(sent, "shown")]
