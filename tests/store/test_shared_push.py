"""Pushes about shared timelines on both stores: whoever wants to be told of everything is told once, whatever it does
meanwhile (protocol 6.5, 12.5)."""

import dataclasses
from typing import Any

import pytest
from house import House
from msgspec.structs import replace

from providers.contract import Verdict
from relay.inbox.ack import AckRequest
from relay.inbox.preferences import Conversation, Level, Preferences
from relay.inbox.shared import Wanted
from relay.model import Facts, Policy
from relay.push.notes import summary_id
from relay.store.engine import Engine

PHONE = "ann/phone"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock, policy=Policy()).begin()
    for user in ("ann", "bob"):
        await house.register(f"{user}/phone", f"token-{user}")
    await house.inbox.groups.change("shop", "g", add=["ann"], remove=(), ultra=True, notify="all")
    await house.inbox.groups.change("shop", "g", add=["bob"], remove=())
    return house


async def post(house: House, count: int = 1, **more: Any) -> list[str]:
    ids = []
    for _ in range(count):
        sent = await house.inbox.accept(house.message(users=(), group="g", conversation_id="g", **more))
        ids.append(sent.message_id)
    await house.fan_out()
    return ids


async def read_in_the_inbox(house: House, **to: Any) -> None:
    """Three messages of the conversation `h`, up to the third number of the phone's inbox."""
    for _ in range(3):
        await house.inbox.accept(house.message(**to, conversation_type="group", conversation_id="h"))
    await house.hello(PHONE)
    await house.catch_up(PHONE)
    await house.ack(PHONE, reads=(("h", 3),))
    await house.catch_up(PHONE)
    await house.bye(PHONE)
    await house.told()


@pytest.mark.parametrize("grouped", [True, False], ids=["of a group", "of a list"])
async def test_what_was_read_before_a_group_became_ultra_is_nothing_of_its_timeline(
    house: House, clock: Any, grouped: bool
) -> None:
    """Until then the conversation's read markers are numbers of inboxes."""
    if grouped:
        await house.inbox.groups.change("shop", "h", add=["ann", "bob"], remove=())
    to: dict[str, Any] = {"users": (), "group": "h"} if grouped else {"users": ("ann", "bob")}
    await read_in_the_inbox(house, **to)

    await house.inbox.groups.change("shop", "h", add=["ann", "bob"], remove=(), ultra=True, notify="all")
    assert (await house.inbox.reader.read(house.key(PHONE), None, limit=10)).shared.ahead == ()
    await is_told_of_two(house, clock)
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=10, asked=Wanted(names=("h",)))
    assert reading.shared is not None
    (batch,) = reading.shared.batches
    assert (batch.entries, batch.to_seq - batch.from_seq) == (2, 2)


async def test_what_was_read_before_its_reader_joined_a_group_that_is_ultra_is_nothing_of_its_timeline(
    house: House, clock: Any
) -> None:
    """The others had a timeline by then, whose numbers its own of the inbox are above."""
    await read_in_the_inbox(house, users=("ann", "bob"), group=None)
    await house.inbox.groups.change("shop", "h", add=["bob"], remove=(), ultra=True)
    await house.inbox.accept(house.message(users=(), group="h", conversation_id="h"))
    await house.inbox.groups.change("shop", "h", add=["ann"], remove=(), notify="all")
    await is_told_of_two(house, clock)


async def is_told_of_two(house: House, clock: Any) -> None:
    """Of what is posted now: of a mention, and of what mentions nobody."""
    first = await house.inbox.accept(house.message(users=(), group="h", conversation_id="h", mentions=("ann",)))
    second = await house.inbox.accept(house.message(users=(), group="h", conversation_id="h"))
    await house.fan_out()
    clock.forward(s=1)
    (told,) = [one for one in await house.told() if one.device == house.key(PHONE)]
    assert {id_ for note in told.send.notes for id_ in note.ids} == {first.message_id, second.message_id}


async def later(house: House, *, s: float = 1) -> Any:
    house.clock.forward(s=s)
    return await house.told()


async def test_a_member_that_is_away_is_told_once_of_what_came(house: House) -> None:
    ids = await post(house, 3)
    (attempt,) = await later(house)
    assert attempt.device == house.key(PHONE)
    (note,) = attempt.send.notes
    assert (note.count, set(note.ids), note.shows.body) == (3, set(ids), "3 new messages")
    assert await later(house, s=7200) == [], "there is no second knock: nothing in it is owed"
    assert (await house.job(PHONE)).due_ms is None
    await post(house)
    assert len(await later(house)) == 1


async def test_who_wants_mentions_alone_is_told_of_mentions_alone(house: House) -> None:
    """F83: whom an ultra group's message is worth a push."""
    await post(house)
    assert [one.device.user_id for one in await later(house)] == ["ann"]
    await post(house, mentions=("bob",))
    attempts = await later(house)
    assert {one.device.user_id: one.send.shared for one in attempts}["bob"] == ()


async def test_of_a_mention_only_the_inbox_tells(house: House) -> None:
    (id_,) = await post(house, mentions=("ann",))
    attempts = await later(house)
    assert [(note.ids, one.send.shared) for one in attempts for note in one.send.notes] == [((id_,), ())]
    assert await later(house) == []


async def test_its_own_messages_are_no_news(house: House) -> None:
    await post(house, 30, sender_user="ann", sender_device="phone")
    assert await later(house) == []
    assert (await house.job(PHONE)).due_ms is None


async def test_an_ack_on_the_way_makes_it_moot(house: House) -> None:
    await post(house)
    await house.hello(PHONE)
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=200, asked=Wanted(names=("g",)))
    assert reading.shared is not None
    cursor = house.inbox.reader.unseal(reading.shared.batches[0].cursor, house.key(PHONE))
    await house.inbox.ack(AckRequest(device=house.key(PHONE), shared=(cursor,)))
    await house.bye(PHONE)
    assert await later(house) == []


async def read(house: House, inbox: str, place: str | None) -> str:
    """The cursor of the timeline's page for the store that holds these cursors, which it acks."""
    key, unseal = house.key(PHONE), house.inbox.reader.unseal
    wanted = Wanted(names=("g",)) if place is None else Wanted(cursors=(place,))
    reading = await house.inbox.reader.read(key, unseal(inbox, key), limit=200, asked=wanted)
    assert reading.shared is not None
    cursor = reading.shared.batches[0].cursor
    await house.inbox.ack(AckRequest(device=key, shared=(unseal(cursor, key),)))
    return cursor


async def test_what_an_older_version_reads_once_a_newer_one_has_shaken_hands_is_told_to_that(house: House) -> None:
    older = (await house.hello(PHONE, app_version="1")).cursor
    await post(house)
    place = await read(house, older, None)
    await house.hello(PHONE, app_version="2", cursor=older)
    await house.bye(PHONE)
    await post(house)
    await read(house, older, place)
    (attempt,) = await later(house)
    assert attempt.send.shared == (("g", 2),)


async def test_what_another_store_of_the_device_had_acked_is_not_told_again(house: House) -> None:
    inbox = (await house.hello(PHONE, app_version="1")).cursor
    await post(house)
    await read(house, inbox, None)
    house.stores.clear()
    await house.hello(PHONE, app_version="2", store_id="another")
    await house.bye(PHONE)
    assert await later(house) == [], "it comes silently"
    await post(house)
    (attempt,) = await later(house)
    assert [note.count for note in attempt.send.notes] == [1]


async def test_what_was_read_on_another_device_is_no_news(house: House) -> None:
    await house.register("ann/tablet")
    await post(house, 2)
    await house.ack("ann/tablet", reads=(("g", 2),))
    assert await later(house) == []


@pytest.mark.parametrize("job_first", [True, False])
async def test_a_member_going_offline_while_the_job_runs_is_told(house: House, job_first: bool) -> None:
    """F84: the job comes first and finds it online, or the goodbye comes first: either way it is due."""
    await house.hello(PHONE)
    await house.inbox.accept(house.message(users=(), group="g", conversation_id="g"))
    if job_first:
        assert await house.inbox.fan_out()
    await house.bye(PHONE)
    assert await house.inbox.fan_out() == (not job_first)
    assert len(await later(house)) == 1


async def test_an_online_member_that_does_not_read_is_told_after_the_wait_for_its_ack(house: House) -> None:
    await house.hello(PHONE)
    await post(house)
    assert await later(house) == []
    assert len(await later(house, s=10)) == 1


async def test_who_looks_at_the_conversation_is_not_told(house: House) -> None:
    welcome = await house.hello(PHONE)
    await house.inbox.said(house.key(PHONE), welcome.session, Facts(open_conversation="g"))
    await post(house)
    assert await later(house, s=60) == []


async def test_mutes_and_levels_of_the_user_count_on_top(house: House) -> None:
    user = house.key(PHONE).user
    await house.inbox.set_preferences(user, Preferences(conversations={"g": Conversation(level=Level.MENTIONS)}))
    await post(house)
    assert await later(house) == []
    assert (await house.job(PHONE)).reason == "muted"
    await house.inbox.set_preferences(user, None)
    assert len(await later(house)) == 1


async def test_who_has_left_is_told_nothing_more(house: House) -> None:
    await post(house)
    await house.inbox.groups.change("shop", "g", add=(), remove=["ann"])
    assert await later(house) == []


async def test_wanting_everything_begins_with_what_comes(house: House) -> None:
    bob = house.key("bob/phone").user
    await house.inbox.groups.set_notify(bob, "g", "all")
    await post(house)
    await house.inbox.groups.set_notify(bob, "g", "mentions")
    await post(house)
    await house.inbox.groups.set_notify(bob, "g", "all")
    assert [one.device.user_id for one in await later(house)] == ["ann"]
    await post(house)
    assert "bob" in [one.device.user_id for one in await later(house)]


async def test_inbox_and_timelines_are_told_together_and_each_by_itself(house: House) -> None:
    await house.inbox.groups.change("shop", "h", add=["ann"], remove=(), ultra=True, notify="all")
    await house.inbox.accept(house.message(users=(), group="h", conversation_id="h"))
    (direct,) = await house.sends(1, "ann")
    await post(house)
    (attempt,) = await later(house)
    assert [note.count for note in attempt.send.notes] == [1, 1, 1]
    assert direct in attempt.send.notes[0].ids
    assert dict(attempt.send.shared) == {"g": 1, "h": 1}
    assert (await house.device(PHONE)).pushed_seq == 1
    assert await later(house) == []


async def test_what_finds_no_room_comes_next(house: House) -> None:
    for n in range(4):
        await house.inbox.groups.change("shop", f"h{n}", add=["ann"], remove=(), ultra=True, notify="all")
        await house.inbox.accept(house.message(users=(), group=f"h{n}", conversation_id=f"h{n}"))
    await post(house)
    first, second = await later(house), await later(house)
    told = [place for attempt in first + second for place, _ in attempt.send.shared]
    assert (sorted(told), len(first[0].send.shared)) == (["g", "h0", "h1", "h2", "h3"], 3)


async def test_a_failed_push_is_tried_again_and_a_refused_one_goes_bare(house: House) -> None:
    await post(house)
    house.clock.forward(s=1)
    (attempt,) = await house.told(verdict=Verdict.RETRY)
    (again,) = await later(house, s=10)
    assert again.send.shared == attempt.send.shared
    await post(house)
    house.clock.forward(s=1)
    await house.told(verdict=Verdict.REFUSED)
    (bare,) = await later(house, s=10)
    assert [note.shows for note in bare.send.notes] == [None]
    assert await later(house) == []


async def test_what_all_of_a_device_s_vendors_refuse_goes_bare_too(house: House) -> None:
    await house.register(PHONE, "token-1", "token-2")
    await post(house)
    house.clock.forward(s=1)
    sent = [one for _ in range(3) for one in await house.told(verdict=Verdict.REFUSED)]
    assert [one.send.address.token_hash for one in sent] == [b"token-1", b"token-2", b"token-1"]
    assert [note.shows is not None for one in sent for note in one.send.notes] == [True, True, False]
    assert await later(house) == []


async def test_a_lost_claim_is_planned_again(house: House) -> None:
    await post(house)
    house.clock.forward(s=1)
    (lost,) = await house.plan()
    house.clock.forward(s=31)
    (again,) = await house.plan()
    assert (again.token, again.send.shared) == (lost.token + 1, lost.send.shared)


async def test_a_mention_is_told_however_far_the_timeline_was_read(house: House) -> None:
    """The marker counts by the timeline's numbers, the mention stands in the inbox."""
    await post(house, 3)
    await later(house)
    await house.register("ann/tablet")
    await house.ack("ann/tablet", reads=(("g", 3),))
    (id_,) = await post(house, mentions=("ann",))
    attempts = await later(house, s=60)
    assert [note.ids for one in attempts if one.device == house.key(PHONE) for note in one.send.notes] == [(id_,)]


async def test_a_mention_that_was_read_on_another_device_is_no_news(house: House) -> None:
    await house.register("ann/tablet")
    await house.sends(3, "ann", push=None)
    await post(house, mentions=("ann",))
    await house.ack("ann/tablet", reads=(("g", 1),))
    assert [one for one in await later(house, s=60) if one.device == house.key(PHONE)] == []


async def test_what_came_before_a_device_existed_is_no_news_to_it(house: House) -> None:
    """Protocol 5: it is read, and not told, as in the inbox."""
    await post(house, 2)
    await later(house)
    house.clock.forward(s=60)
    await house.register("ann/tablet", "token-tablet")
    assert await later(house) == []
    (id_,) = await post(house)
    assert {one.device: [note.ids for note in one.send.notes] for one in await later(house)}[
        house.key("ann/tablet")
    ] == [(id_,)]


@pytest.mark.parametrize("how", ["at its registration", "at its handshake"])
async def test_a_successor_is_told_of_what_the_device_before_it_had_not_read(house: House, how: str) -> None:
    """Protocol 5: the pushes of that one may have gone to a dead token."""
    await house.hello(PHONE)
    ids = await post(house, 2)
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=1, asked=Wanted(names=("g",)))
    assert reading.shared is not None
    cursor = house.inbox.reader.unseal(reading.shared.batches[0].cursor, house.key(PHONE))
    await house.inbox.ack(AckRequest(device=house.key(PHONE), shared=(cursor,)))
    await house.bye(PHONE)
    assert len(await later(house)) == 1
    if how == "at its registration":
        await house.register("ann/next", "token-next", replaces="phone")
    else:
        await house.register("ann/next", "token-next")
        await house.hello("ann/next", replaces="phone")
        await house.bye("ann/next")
    (attempt,) = await later(house)
    assert (attempt.device, [note.ids for note in attempt.send.notes]) == (house.key("ann/next"), [(ids[1],)])


async def test_what_only_a_dead_address_was_told_of_is_told_to_the_next(house: House) -> None:
    await house.register(PHONE, "token-1", "token-2")
    ids = await post(house, 2)
    (first,) = await later(house)
    assert first.send.address.token_hash == b"token-1"
    ids += await post(house)
    house.clock.forward(s=1)
    await house.told(verdict=Verdict.TOKEN_DEAD)
    (again,) = await later(house)
    assert again.send.address.token_hash == b"token-2"
    assert [set(note.ids) for note in again.send.notes] == [set(ids)]
    assert await later(house) == []


async def test_what_the_device_has_by_then_is_not_told_again(house: House) -> None:
    await house.register(PHONE, "token-1", "token-2")
    await post(house)
    await later(house)
    await house.hello(PHONE)
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=200, asked=Wanted(names=("g",)))
    assert reading.shared is not None
    cursor = house.inbox.reader.unseal(reading.shared.batches[0].cursor, house.key(PHONE))
    await house.inbox.ack(AckRequest(device=house.key(PHONE), shared=(cursor,)))
    await house.bye(PHONE)
    (id_,) = await post(house)
    house.clock.forward(s=1)
    await house.told(verdict=Verdict.TOKEN_DEAD)
    (attempt,) = await later(house)
    assert [note.ids for note in attempt.send.notes] == [(id_,)]


async def test_what_an_address_was_told_that_still_lives_is_not_told_again(house: House) -> None:
    await house.register(PHONE, "token-1", "token-2")
    (lost,) = [one for one in await _planned_after_a_post(house) if one.device == house.key(PHONE)]
    for _ in range(5):
        await house.settle(lost, Verdict.RETRY)
        house.clock.forward(s=10)
        (lost,) = await house.plan()
    assert lost.send.address.token_hash == b"token-2"
    await house.settle(lost, Verdict.ACCEPTED)
    await post(house)
    house.clock.forward(s=1)
    (attempt,) = await house.told(verdict=Verdict.TOKEN_DEAD)
    assert attempt.send.address.token_hash == b"token-1"
    (after,) = await later(house)
    assert [note.count for note in after.send.notes] == [1]


async def _planned_after_a_post(house: House) -> Any:
    await post(house)
    house.clock.forward(s=1)
    return await house.plan()


async def post_to(house: House, name: str) -> None:
    await house.inbox.groups.change("shop", name, add=["ann"], remove=(), ultra=True, notify="all")
    await house.inbox.accept(house.message(users=(), group=name, conversation_id=name))
    await house.fan_out()


def keeps_four(house: House) -> None:
    few = dataclasses.replace(house.views["v"].capabilities, collapse_keys_max=4)
    house.views = {"v": replace(house.views["v"], capabilities=few)}


async def test_groups_and_messages_that_wait_at_a_vendor_with_four_collapse_keys_take_no_fifth(house: House) -> None:
    keeps_four(house)
    keys = set()
    for n in range(6):
        await post_to(house, f"h{n}")
        await house.sends(1, "ann")
        for attempt in await later(house):
            keys |= {note.collapse_key for note in attempt.send.notes}
    assert len(keys) <= 4
    assert await later(house) == []


async def test_a_device_that_was_here_since_has_shown_them_though_nobody_opened_the_groups(house: House) -> None:
    keeps_four(house)
    for n in range(5):
        await post_to(house, f"h{n}")
        await later(house)
    house.clock.forward(s=60)
    await house.hello(PHONE)
    await house.bye(PHONE)
    house.clock.forward(s=60)
    await post_to(house, "h9")
    (attempt,) = await later(house)
    assert [note.collapse_key for note in attempt.send.notes] == [summary_id("phone", "h9")]
