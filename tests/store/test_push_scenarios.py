"""Fault scenarios of pushes as the protocol tells them (§18), on both stores, with nothing but the clock to move them."""

from typing import Any

import pytest
from house import House

from providers.contract import Verdict
from relay.inbox import push_due
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
    assert (await house.job(PHONE)).reason == push_due.Rest.NOTHING_OWED
    await house.hello(PHONE)
    assert (await house.page(PHONE)).ids[0] == sent.message_id, "it is there all the same"


async def test_f24_what_nobody_reads_on_the_desktop_is_told_to_the_phone_after_ten_seconds(house: House) -> None:
    await house.hello(DESKTOP)
    await house.send(conversation_id="c1", conversation_type="direct")
    await house.catch_up(DESKTOP)
    seconds, _ = await plans_until(house, within_s=15)
    assert 10 <= seconds <= 11


async def test_f18_what_comes_while_the_job_is_claimed_makes_it_due_and_gives_it_no_second_sender(house: House) -> None:
    await house.send()
    house.clock.forward(s=1)
    (attempt,) = await house.plan(owner="n1")
    await house.send(priority="urgent")
    assert (await house.job(PHONE)).due_ms <= house.clock.now_ms()
    for _ in range(10):
        assert await house.plan(owner="n2") == [], "one sender at a time"
        house.clock.forward(s=1)
    await house.settle(attempt, Verdict.ACCEPTED)
    (after,) = await house.plan(owner="n2")
    assert (after.send.from_seq, after.send.upto_seq) == (2, 2)


async def test_f26_a_vendor_that_is_down_for_three_hours_gets_one_push_for_all_that_came_meanwhile(
    house: House,
) -> None:
    for sent in range(1, 19):
        await house.send()
        house.clock.forward(s=600)
        (attempt,) = await house.plan()
        assert attempt.send.upto_seq == sent, "what comes is told with what waits"
        await house.settle(attempt, Verdict.RETRY)
    _, attempt = await plans_until(house, within_s=60)
    assert (attempt.send.form, attempt.send.from_seq, attempt.send.upto_seq) == ("summary", 1, 18)
    await house.settle(attempt, Verdict.ACCEPTED)
    for _ in range(60):
        house.clock.forward(s=1)
        assert await house.plan() == []


async def test_f30_what_expires_while_it_waits_for_its_push_is_not_pushed_and_reported(house: House) -> None:
    sent = await house.send(ttl_s=1)
    house.clock.forward(s=2)
    assert await house.plan() == []
    await house.inbox.expire()
    assert await house.deliveries("delivery.expired") == [("desktop", sent.message_id), ("phone", sent.message_id)]


async def test_f68_a_version_that_crashes_at_its_start_is_pushed_for_and_the_mended_one_gets_everything(
    house: House,
) -> None:
    await house.hello(PHONE, app_version="5.3")
    await house.catch_up(PHONE)
    await house.hello(PHONE, app_version="5.4")  # and no ack of it, ever
    pushed, sent = 0, []
    for hour in range(48):
        if hour % 8 == 0:
            sent.append((await house.send()).message_id)
        if hour % 12 == 0:
            await house.hello(PHONE, app_version="5.4")
        house.clock.forward(s=3600)
        await house.bye(PHONE)
        house.clock.forward(s=60)
        pushed += len(await house.told())
    assert pushed >= len(sent)
    await house.hello(PHONE, app_version="5.4.1")
    assert await house.catch_up(PHONE) == sent


async def test_f72_after_another_user_has_signed_in_nothing_for_the_first_goes_to_the_phone(house: House) -> None:
    """A signed out while offline: the relay still knows the phone as A's, until B comes with the same token."""
    await house.register("ben/phone", "t1")
    await house.send()
    await house.send("ben")
    house.clock.forward(s=1)
    (attempt,) = await house.plan()
    assert attempt.device.user_id == "ben"
    assert (await house.job(PHONE)).due_ms is None
