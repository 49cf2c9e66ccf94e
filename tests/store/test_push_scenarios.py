"""F17 and F21 to F24 as the protocol tells them (§18), on both stores, with nothing but the clock to move them."""

from typing import Any

import pytest
from house import House

from providers.contract import Verdict
from relay.inbox import rules
from relay.store.engine import Engine

PHONE, DESKTOP = "ann/phone", "ann/desktop"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    await house.register(PHONE, "t1")
    await house.register(DESKTOP)
    return house


async def plans_until(house: House, *, within_s: int) -> tuple[int, Any]:
    """Second after second, until a push is planned; when that was, and which."""
    for second in range(within_s + 1):
        if attempts := await house.plan():
            (attempt,) = attempts
            return second, attempt
        house.clock.forward(s=1)
    raise AssertionError(f"nothing was pushed within {within_s} s")


async def test_f17_what_comes_while_a_push_is_in_flight_is_told_by_the_next_one(house: House) -> None:
    first = await house.send()
    house.clock.forward(s=1)
    (attempt,) = await house.plan()
    second = await house.send()
    house.clock.forward(s=1)
    assert await house.plan() == [], "one push of a device at a time"
    await house.settle(attempt, Verdict.ACCEPTED)
    house.clock.forward(s=1)
    (after,) = await house.plan()
    assert [note.ids for one in (attempt, after) for note in one.send.notes] == [
        (first.message_id,),
        (second.message_id,),
    ]
    await house.settle(after, Verdict.ACCEPTED)
    assert (await house.device(PHONE)).pushed_seq == 2


async def test_f21_a_device_that_falls_silent_in_the_middle_of_its_backlog_is_told_of_the_rest_within_a_minute(
    house: House,
) -> None:
    ids = await house.sends(40)
    while attempts := await house.plan():
        for one in attempts:
            await house.settle(one, Verdict.RETRY)  # whatever was tried before it came
    await house.hello(PHONE)
    page = await house.page(PHONE, limit=1)
    await house.ack(PHONE)
    assert page.ids == ids[:1]
    seconds, attempt = await plans_until(house, within_s=60)
    assert seconds >= 1, "it is given its time first"
    assert (attempt.send.form, attempt.send.from_seq, attempt.send.upto_seq) == ("summary", 2, 40)
    (note,) = attempt.send.notes
    assert note.count == 39
    await house.settle(attempt, Verdict.ACCEPTED)
    house.clock.forward(s=60)
    assert await house.plan() == [], "one summary, not one push each"
    assert await house.catch_up(PHONE) == ids[1:]


async def test_f22_a_device_that_acks_one_every_nine_seconds_is_pushed_all_the_same_and_loses_nothing(
    house: House,
) -> None:
    await house.hello(PHONE)
    ids = await house.sends(100)
    pushed_s = None
    for step in range(100):
        house.clock.forward(s=9)
        if pushed_s is None and (attempts := await house.plan()):
            pushed_s = 9 * (step + 1)
            await house.settle(attempts[0], Verdict.ACCEPTED)
        await house.page(PHONE, limit=1)
        await house.ack(PHONE)
    assert pushed_s is not None
    assert pushed_s <= 60 + 9, "its progress puts it off, but not for ever"
    assert house.store(PHONE).ids == ids


async def test_f23_what_is_read_on_the_desktop_within_its_time_is_not_pushed_to_the_phone(house: House) -> None:
    await house.hello(DESKTOP)
    sent = await house.send(conversation_id="c1", conversation_type="direct")
    for _ in range(4):
        house.clock.forward(s=1)
        assert await house.plan() == []
    await house.catch_up(DESKTOP)
    await house.ack(DESKTOP, reads=(("c1", 1),))
    for _ in range(120):
        house.clock.forward(s=1)
        assert await house.plan() == []
    assert (await house.job(PHONE)).reason == rules.Rest.NOTHING_OWED
    await house.hello(PHONE)
    assert (await house.page(PHONE)).ids[0] == sent.message_id, "it is there all the same"


async def test_f24_what_nobody_reads_on_the_desktop_is_told_to_the_phone_after_ten_seconds(house: House) -> None:
    await house.hello(DESKTOP)
    await house.send(conversation_id="c1", conversation_type="direct")
    await house.catch_up(DESKTOP)
    seconds, _ = await plans_until(house, within_s=15)
    assert 10 <= seconds <= 11
