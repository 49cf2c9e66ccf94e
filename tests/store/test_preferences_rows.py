"""Preferences on both stores: what the user does not want to be told is not, and waits for nobody's restart to be right."""

from typing import Any

import pytest
from house import House

from relay.errors import Missing
from relay.inbox.preferences import Conversation, Level, Preferences, Quiet
from relay.inbox.push_due import Later, Rest
from relay.model import UserKey
from relay.store.engine import Engine

PHONE, DESKTOP = "ann/phone", "ann/desktop"
ANN = UserKey("shop", "ann")
MINUTE_MS = 60_000
ALL_DAY = Quiet(0, 24 * 60 - 1)


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """Ann's phone is offline; by its clock it is noon."""
    clock.ms -= clock.ms % 86_400_000 - 12 * 3_600_000
    house = await House(engine, clock).begin()
    await house.register(PHONE, "token")
    return house


async def told(house: House) -> int:
    house.clock.forward(s=1)
    return len(await house.told())


async def test_in_quiet_hours_a_push_waits_for_their_end(house: House, clock: Any) -> None:
    lunch = Quiet(12 * 60, 13 * 60)
    await house.inbox.set_preferences(ANN, Preferences(quiet=(lunch,)))
    await house.send()
    assert await told(house) == 0
    job = await house.job(PHONE)
    assert (job.reason, job.due_ms % 86_400_000) == (Later.QUIET_HOURS, 13 * 60 * MINUTE_MS)
    clock.ms = job.due_ms
    assert await told(house) == 1


async def test_f34_what_came_at_night_is_one_notification_in_the_morning(house: House, clock: Any) -> None:
    """Quiet from 22 to 7, messages from 23 on: at 7 by the device's own clock there is one summary of all, and then quiet."""
    await house.register("ann/tablet", "other", tz="Asia/Kathmandu")  # 5 h 45 min ahead
    await house.inbox.set_preferences(ANN, Preferences(quiet=(Quiet(22 * 60, 7 * 60),)))
    clock.forward(s=5.25 * 3600)  # 23 o'clock there, a quarter past five in the evening here
    for _ in range(5):
        await house.send(conversation_id="c")
        clock.forward(s=600)
    assert {attempt.device.device_id for attempt in await house.told()} == {"phone"}
    job = await house.job("ann/tablet")
    assert (job.reason, (job.due_ms + (5 * 60 + 45) * MINUTE_MS) % 86_400_000) == (
        Later.QUIET_HOURS,
        7 * 60 * MINUTE_MS,
    )
    clock.ms = job.due_ms
    (attempt,) = [one for one in await house.told() if one.device.device_id == "tablet"]
    (note,) = attempt.send.notes
    assert (note.count, note.shows.body) == (5, "5 new messages")


async def test_what_is_urgent_is_told_in_them_as_well_unless_the_user_says_no(house: House) -> None:
    for breaks in (False, True):
        await house.inbox.set_preferences(ANN, Preferences(quiet=(ALL_DAY,), urgent_breaks=breaks))
        await house.send(priority="urgent")
        assert await told(house) == int(breaks)


async def test_a_knock_waits_for_their_end(house: House, clock: Any) -> None:
    await house.send()
    assert await told(house) == 1
    await house.inbox.set_preferences(ANN, Preferences(quiet=(Quiet(12 * 60, 18 * 60),)))
    clock.forward(ms=house.policy.knocks_ms[0])
    assert await told(house) == 0
    job = await house.job(PHONE)
    assert job.reason == Later.QUIET_HOURS
    clock.ms = job.due_ms
    assert await told(house) == 1


async def test_taking_them_back_tells_at_once(house: House) -> None:
    await house.inbox.set_preferences(ANN, Preferences(quiet=(ALL_DAY,)))
    await house.send()
    assert await told(house) == 0
    await house.inbox.set_preferences(ANN, None)
    assert await told(house) == 1


async def test_by_the_clock_of_each_device(house: House) -> None:
    """At noon in UTC it is night in Auckland."""
    await house.register("ann/tablet", "other", tz="Pacific/Auckland")
    await house.inbox.set_preferences(ANN, Preferences(quiet=(Quiet(22 * 60, 7 * 60),)))
    await house.send()
    house.clock.forward(s=1)
    assert [attempt.device.device_id for attempt in await house.told()] == ["phone"]


async def test_a_muted_conversation_is_not_told_and_says_why_and_is_read_all_the_same(house: House, clock: Any) -> None:
    until_ms = clock.now_ms() + 3_600_000
    muted = Preferences(conversations={"c": Conversation(muted_until_ms=until_ms)})
    await house.inbox.set_preferences(ANN, muted)
    sent = (await house.send(conversation_id="c")).message_id
    assert await told(house) == 0
    assert (await house.job(PHONE)).reason == Rest.MUTED
    clock.ms = until_ms
    assert await told(house) == 0, "what came while it was muted is not told afterwards"
    later = (await house.send(conversation_id="c")).message_id
    assert await told(house) == 1
    await house.hello(PHONE)
    assert await house.catch_up(PHONE) == [sent, later]


async def test_other_conversations_are_told(house: House) -> None:
    await house.inbox.set_preferences(ANN, Preferences(conversations={"c": Conversation(level=Level.NONE)}))
    await house.send(conversation_id="c")
    await house.send(conversation_id="d")
    house.clock.forward(s=1)
    (attempt,) = await house.told()
    assert [len(note.ids) for note in attempt.send.notes] == [1]


async def test_a_user_who_wants_nothing_is_told_nothing_until_that_changes(house: House) -> None:
    await house.inbox.set_preferences(ANN, Preferences(level=Level.NONE))
    await house.send()
    assert await told(house) == 0
    await house.inbox.set_preferences(ANN, Preferences())
    assert await told(house) == 1


async def test_a_desktop_in_use_lets_the_phone_wait_a_little(house: House) -> None:
    """Protocol 7.1: once, and no longer than the policy says."""
    await house.register(DESKTOP)
    await house.hello(DESKTOP)
    await house.send()
    assert await told(house) == 0
    assert (await house.job(PHONE)).reason == Later.ELSEWHERE
    house.clock.forward(ms=house.policy.elsewhere_ms)
    assert await told(house) == 1


@pytest.mark.parametrize("wait_s", [0, 30])
async def test_how_long_is_for_the_user_to_say(house: House, wait_s: int) -> None:
    await house.register(DESKTOP)
    await house.hello(DESKTOP)
    await house.inbox.set_preferences(ANN, Preferences(elsewhere_ms=wait_s * 1000))
    await house.send()
    assert await told(house) == int(wait_s == 0)
    house.clock.forward(s=29)
    assert await told(house) == int(wait_s > 0)


async def test_a_phone_is_not_told_of_what_was_read_at_the_desktop(house: House) -> None:
    await house.register(DESKTOP)
    await house.hello(DESKTOP)
    sent = await house.send(conversation_id="c")
    await house.ack(DESKTOP, reads=(("c", sent.recipients[0].seq),))
    house.clock.forward(ms=house.policy.elsewhere_ms)
    assert await told(house) == 0


async def test_of_an_unknown_user_nothing_is_known(house: House) -> None:
    with pytest.raises(Missing):
        await house.inbox.reader.preferences(UserKey("shop", "nobody"))
    with pytest.raises(Missing):
        await house.inbox.set_preferences(UserKey("shop", "nobody"), None)


@pytest.mark.parametrize("later", [False, True])
async def test_who_wants_mentions_alone_is_told_of_those_in_groups_too(house: House, clock: Any, later: bool) -> None:
    """Whoever is mentioned, at once or by a job; a stranger who is mentioned gets nothing, and the answer says so."""
    for user in ("bob", "cid"):
        await house.register(f"{user}/phone", f"token-{user}")
    await house.inbox.groups.change("shop", "g", add=["ann", "bob", "cid"], remove=[])
    for user in ("ann", "bob"):
        await house.inbox.set_preferences(UserKey("shop", user), Preferences(level=Level.MENTIONS))

    async def told_of(**mentioned: Any) -> set[str]:
        when = {"deliver_ms": clock.now_ms() + 1_000} if later else {}
        sent = house.message(users=(), group="g", conversation_id="g", **mentioned, **when)
        answer = await house.inbox.accept(sent)
        clock.forward(s=2)
        await house.fan_out()
        refused.update(one.user_id for one in answer.recipients if one.refusal is not None)
        clock.forward(s=1)
        return {attempt.device.user_id for attempt in await house.told()}

    refused: set[str] = set()
    assert await told_of() == {"cid"}
    assert await told_of(mentions=("bob", "eve")) == {"bob", "cid"}
    assert refused == {"eve"}
    assert await told_of(everyone=True) == {"ann", "bob", "cid"}
