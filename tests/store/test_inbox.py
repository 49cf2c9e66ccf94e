"""The inbox on both stores: what was accepted is numbered without gaps, read in full, acked once, and told."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from house import House, sending

from relay.errors import Conflict, CursorRefused, Invalid, Malformed, Throttled
from relay.inbox.ack import AckRequest
from relay.inbox.addresses import NewAddress
from relay.inbox.handshake import Hello, Welcome
from relay.inbox.registry import Registration
from relay.inbox.send import Accepted, Send
from relay.inbox.service import InboxService
from relay.model import DeviceKey, Policy, UserKey
from relay.store import meta
from relay.store.engine import Engine

ANN = UserKey("shop", "ann")
PHONE = DeviceKey("shop", "ann", "phone")
TABLET = DeviceKey("shop", "ann", "tablet")


@pytest.fixture
async def inbox(engine: Engine, clock: Any) -> InboxService:
    house = House(engine, clock, policy=Policy(inbox_max=20, system_reserve=2))
    return (await house.begin()).inbox


_numbers: Iterator[int] = iter(range(1, 10**9))


def send(
    *, key: str | None = None, body: str = '{"text":"hi"}', users: tuple[str, ...] = ("ann",), **more: object
) -> Send:
    values: dict[str, object] = {"key": key, "body": body, "body_hash": body.encode(), "users": users, "ttl_s": 3600}
    return sending(next(_numbers), **(values | more))


async def registered(inbox: InboxService, *devices: DeviceKey) -> None:
    for device in devices:
        await inbox.register(Registration(device=device))


async def events(inbox: InboxService) -> Counter[tuple[str, str, str]]:
    """(type, device, message id) of all deliveries that were told."""
    rows = await inbox.engine.read(lambda conn, _: conn.exec_driver_sql("SELECT type, data FROM event").all())
    told: Counter[tuple[str, str, str]] = Counter()
    for type_, data in rows:
        for one in json.loads(data).get("deliveries", ()):
            told[type_, json.loads(data)["device"], one["message_id"]] += 1
    return told


def covered(batch: bytes) -> list[int]:
    """The numbers that a page names, entries and gaps together."""
    page = json.loads(batch)
    numbers = [entry["seq"] for entry in page["entries"]]
    for gap in page["gaps"]:
        numbers += range(gap["from"] + 1, gap["to"] + 1)
    return sorted(numbers)


async def everything(inbox: InboxService, device: DeviceKey, cursor: str, *, limit: int = 3) -> tuple[list[str], str]:
    """Ids of all entries after the cursor, page by page, and the cursor at their end; each page covers its range."""
    ids: list[str] = []
    while True:
        reading = await inbox.reader.read(device, inbox.reader.unseal(cursor, device), limit=limit)
        assert reading.batch is not None
        batch = reading.batch
        assert covered(batch.json) == list(range(batch.from_seq + 1, batch.to_seq + 1))
        ids += [entry["id"] for entry in json.loads(batch.json)["entries"]]
        cursor = batch.cursor
        if not batch.more:
            assert batch.caught_up
            return ids, cursor


async def hello(inbox: InboxService, device: DeviceKey, cursor: str | None = None, **more: object) -> Welcome:
    values: dict[str, object] = {"device": device, "node_id": "n1", "cursor": cursor, "store_id": "store-1"}
    return await inbox.hello(Hello(**(values | more)))  # type: ignore[arg-type]


async def test_64_equal_sends_are_one_message_and_63_replays(inbox: InboxService) -> None:
    """F91: at once, under one key."""
    await registered(inbox, PHONE)
    answers = await asyncio.gather(*(inbox.accept(send(key="same")) for _ in range(64)))
    assert Counter(answer.replay for answer in answers) == {False: 1, True: 63}
    assert len({(answer.message_id, answer.recipients) for answer in answers}) == 1
    assert (await inbox.reader.heads([ANN])) == {ANN: 1}


async def test_a_repeat_long_after_is_answered_as_the_first_time(inbox: InboxService, clock: Any) -> None:
    """The key's record decides, not the id, which differs when it was made of the time."""
    await registered(inbox, PHONE)
    first = await inbox.accept(send(key="same"))
    clock.forward(s=3600)
    again = await inbox.accept(send(key="same"))
    assert again.replay
    assert (again.message_id, again.recipients) == (first.message_id, first.recipients)
    assert (await inbox.reader.heads([ANN])) == {ANN: 1}


async def test_nothing_is_acked_beyond_what_there_is(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    await inbox.accept(send())
    with pytest.raises(Malformed):
        await inbox.ack(AckRequest(device=PHONE, upto=2))
    device, _ = await inbox.reader.device(PHONE)
    assert (device.acked_seq, device.acked_high) == (0, 0)


async def test_the_same_key_with_another_body_is_a_conflict_and_stores_nothing(inbox: InboxService) -> None:
    """F92: a key is one message's."""
    await registered(inbox, PHONE)
    await inbox.accept(send(key="same"))
    with pytest.raises(Conflict):
        await inbox.accept(send(key="same", body='{"text":"ho"}'))
    assert (await inbox.reader.heads([ANN])) == {ANN: 1}


async def test_a_refused_send_leaves_its_key_free(inbox: InboxService) -> None:
    with pytest.raises(Invalid):
        await inbox.accept(send(key="early"))
    await registered(inbox, PHONE)
    assert not (await inbox.accept(send(key="early"))).replay


async def test_numbers_are_dense_whatever_the_writers_do(inbox: InboxService) -> None:
    users = ("ann", "bob", "cid")
    await registered(inbox, *(DeviceKey("shop", user, "d") for user in users))
    order = [tuple(random.Random(n).sample(users, 2)) for n in range(24)]
    answers = await asyncio.gather(*(inbox.accept(send(users=pair)) for pair in order))
    for user in users:
        numbers = sorted(r.seq for a in answers for r in a.recipients if r.user_id == user and r.seq is not None)
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_full_inbox_refuses_the_new_and_keeps_the_old(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    for _ in range(20):
        await inbox.accept(send())
    with pytest.raises(Throttled):
        await inbox.accept(send())
    assert (await inbox.accept(send(conversation_type="system"))).recipients[0].seq == 21
    ids, _ = await everything(inbox, PHONE, (await hello(inbox, PHONE)).cursor)
    assert len(ids) == 21


async def test_a_device_gets_each_message_once_and_every_ack_is_told_once(inbox: InboxService) -> None:
    await registered(inbox, PHONE, TABLET)
    sent = [(await inbox.accept(send())).message_id for _ in range(7)]
    ids, cursor = await everything(inbox, PHONE, (await hello(inbox, PHONE)).cursor)
    assert ids == sent
    for _ in range(2):  # an ack may be repeated
        answer = await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(cursor, PHONE)))
        assert answer.acked_seq == 7
    assert await events(inbox) == {("delivery.acked", "phone", id_): 1 for id_ in sent}


async def test_selective_acks_never_move_the_cursor_and_are_told_once(inbox: InboxService) -> None:
    """F57: an extension acks by id what a push named; the app's pages bring it again, and it is reported once."""
    await registered(inbox, PHONE)
    sent = [(await inbox.accept(send())).message_id for _ in range(3)]
    welcome = await hello(inbox, PHONE)
    answer = await inbox.ack(AckRequest(device=PHONE, ids=(sent[0], sent[2], "nobody-knows")))
    assert answer.acked_seq == 0
    assert answer.results == {sent[0]: "acked", sent[2]: "acked", "nobody-knows": "unknown"}
    ids, cursor = await everything(inbox, PHONE, welcome.cursor)
    assert ids == sent
    await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(cursor, PHONE)))
    assert await events(inbox) == {("delivery.acked", "phone", id_): 1 for id_ in sent}


async def test_an_upgrade_with_the_old_cursor_gets_exactly_what_is_missing(inbox: InboxService) -> None:
    """F45: stored, and the ack was lost: the next handshake's cursor says so."""
    await registered(inbox, PHONE)
    welcome = await hello(inbox, PHONE, app_version="5.3")
    await inbox.accept(send())
    _, stored = await everything(inbox, PHONE, welcome.cursor)  # stored, but the ack was lost
    missing = [(await inbox.accept(send())).message_id for _ in range(3)]
    upgraded = await hello(inbox, PHONE, stored, app_version="5.4")
    assert (upgraded.verdict, upgraded.missing, upgraded.acked_seq) == ("delta", 3, 1)
    assert upgraded.upgrade is not None
    ids, _ = await everything(inbox, PHONE, upgraded.cursor)
    assert ids == missing


async def test_a_cursor_that_outlived_its_store_gets_everything_again(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    sent = [(await inbox.accept(send())).message_id for _ in range(3)]
    _, cursor = await everything(inbox, PHONE, (await hello(inbox, PHONE)).cursor)
    await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(cursor, PHONE)))
    again = await hello(inbox, PHONE, cursor, store_id="store-2")
    assert (again.verdict, again.reason) == ("resync", "store_changed")
    ids, cursor = await everything(inbox, PHONE, again.cursor)
    assert ids == sent
    await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(cursor, PHONE)))
    assert await events(inbox) == {("delivery.acked", "phone", id_): 1 for id_ in sent}


async def test_a_cursor_whose_store_has_no_name_proves_nothing(inbox: InboxService) -> None:
    """A client that keeps its cursor elsewhere and says no store could lose that one without anybody's noticing."""
    await registered(inbox, PHONE)
    sent = (await inbox.accept(send())).message_id
    _, cursor = await everything(inbox, PHONE, (await hello(inbox, PHONE, store_id=None)).cursor)
    again = await hello(inbox, PHONE, cursor, store_id=None)
    assert (again.verdict, again.reason, again.acked_seq) == ("resync", "store_changed", 0)
    assert (await everything(inbox, PHONE, again.cursor))[0] == [sent]


async def test_an_ack_of_a_past_lineage_changes_nothing(inbox: InboxService) -> None:
    """F58: a page was on its way when the client lost its store: the cursor of that page must not ack for the new store."""
    await registered(inbox, PHONE)
    sent = [(await inbox.accept(send())).message_id for _ in range(3)]
    _, before = await everything(inbox, PHONE, (await hello(inbox, PHONE)).cursor)
    again = await hello(inbox, PHONE, before, store_id="store-2")
    answer = await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(before, PHONE)))
    assert answer.acked_seq == 0
    assert await events(inbox) == {}
    ids, _ = await everything(inbox, PHONE, again.cursor)
    assert ids == sent


async def test_held_and_fallback_messages_come_in_full_after_the_upgrade(inbox: InboxService) -> None:
    """F64, F65: two releases under their own ids, by an implied ack that is judged by what the old version could show."""
    await registered(inbox, PHONE)
    welcome = await hello(inbox, PHONE, schema=6)
    held = (await inbox.accept(send(min_schema=7))).message_id
    lesser = (await inbox.accept(send(min_schema=7, fallback='"old"', fallback_h="11"))).message_id
    ids, cursor = await everything(inbox, PHONE, welcome.cursor)
    assert ids == [lesser]
    upgraded = await hello(inbox, PHONE, cursor, schema=7)  # the ack was lost: implied, under the old schema
    ids, cursor = await everything(inbox, PHONE, upgraded.cursor)
    assert sorted(ids) == sorted([held, lesser])
    await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(cursor, PHONE)))
    told = await events(inbox)
    assert told["delivery.acked", "phone", held] == 1
    assert told["delivery.acked", "phone", lesser] == 1


async def test_expiry_ends_what_nobody_acked_and_nothing_else(inbox: InboxService, clock: Any) -> None:
    await registered(inbox, PHONE)
    welcome = await hello(inbox, PHONE)
    acked = (await inbox.accept(send(ttl_s=60))).message_id
    _, cursor = await everything(inbox, PHONE, welcome.cursor)
    await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(cursor, PHONE)))
    missed = (await inbox.accept(send(ttl_s=60))).message_id
    clock.forward(s=61)
    assert await inbox.expire() == 2
    ids, _ = await everything(inbox, PHONE, cursor)
    assert ids == []
    told = await events(inbox)
    assert told == {("delivery.acked", "phone", acked): 1, ("delivery.expired", "phone", missed): 1}
    late = await inbox.ack(AckRequest(device=PHONE, ids=(missed,)))
    assert late.results == {missed: "expired"}


async def test_a_newer_message_of_the_same_key_supersedes_the_older(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    welcome = await hello(inbox, PHONE)
    old = (await inbox.accept(send(collapse_key="score"))).message_id
    new = (await inbox.accept(send(collapse_key="score"))).message_id
    ids, _ = await everything(inbox, PHONE, welcome.cursor)
    assert ids == [new]
    assert (await events(inbox))["delivery.superseded", "phone", old] == 1


async def test_a_cursor_of_another_device_or_epoch_is_refused(inbox: InboxService, engine: Engine) -> None:
    await registered(inbox, PHONE, TABLET)
    cursor = (await hello(inbox, PHONE)).cursor
    with pytest.raises(Malformed):
        inbox.reader.unseal(cursor, TABLET)
    await engine.write(lambda conn, now_ms: meta.begin_epoch(conn, now_ms, random.Random(2)))
    with pytest.raises(CursorRefused) as refused:
        await inbox.reader.read(PHONE, inbox.reader.unseal(cursor, PHONE), limit=10)
    fresh = refused.value.extra["resync"]["cursor"]
    assert (await everything(inbox, PHONE, fresh))[0] == []


async def test_not_modified_means_that_the_page_would_have_been_empty(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    _, cursor = await everything(inbox, PHONE, (await hello(inbox, PHONE)).cursor)
    at_head = inbox.reader.unseal(cursor, PHONE)
    etag = (await inbox.reader.read(PHONE, at_head, limit=5)).snap.etag
    assert (await inbox.reader.read(PHONE, at_head, limit=5, etag=etag)).batch is None
    await inbox.accept(send())
    reading = await inbox.reader.read(PHONE, at_head, limit=5, etag=etag)
    assert reading.batch is not None
    assert reading.batch.entries == 1


async def test_a_token_moves_to_its_newest_owner(inbox: InboxService) -> None:
    address = NewAddress(account="fcm", kind="token", token_sealed=b"s", token_hash=b"h")
    bobs = DeviceKey("shop", "bob", "phone")
    await inbox.register(Registration(device=PHONE, addresses=(address,)))
    await inbox.register(Registration(device=bobs, addresses=(address,)))
    assert (await inbox.reader.device(PHONE))[0].has_address == 0
    assert (await inbox.reader.device(bobs))[0].has_address == 1


async def test_signing_out_fails_what_was_open_and_a_new_life_never_reuses_a_session(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    first = await hello(inbox, PHONE)
    lost = (await inbox.accept(send())).message_id
    await inbox.sign_out(PHONE)
    assert (await events(inbox))["delivery.failed", "phone", lost] == 1
    await registered(inbox, PHONE)
    assert (await hello(inbox, PHONE)).session > first.session


async def test_a_batch_answers_each_item(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    results = await inbox.accept_many([send(), send(users=("nobody",)), send()])
    assert [isinstance(one, Accepted) for one in results] == [True, False, True]
    assert (await inbox.reader.heads([ANN])) == {ANN: 2}


async def test_f58_an_ack_that_is_said_twice_late_or_by_an_old_session_changes_nothing(inbox: InboxService) -> None:
    await registered(inbox, PHONE)
    sent = [(await inbox.accept(send())).message_id for _ in range(4)]
    welcome = await hello(inbox, PHONE)
    (early, late) = [
        (await inbox.reader.read(PHONE, inbox.reader.unseal(welcome.cursor, PHONE), limit=limit)).batch
        for limit in (2, 4)
    ]
    assert early is not None
    assert late is not None
    for cursor, acked in ((late.cursor, 4), (late.cursor, 4), (early.cursor, 4)):
        said = AckRequest(device=PHONE, cursor=inbox.reader.unseal(cursor, PHONE), session=welcome.session)
        assert (await inbox.ack(said)).acked_seq == acked
    again = await hello(inbox, PHONE, late.cursor)
    rows = await _device_rows(inbox)
    with pytest.raises(Conflict):
        await inbox.ack(AckRequest(device=PHONE, upto=2, session=welcome.session))
    assert again.session > welcome.session
    assert await _device_rows(inbox) == rows
    assert await events(inbox) == {("delivery.acked", "phone", id_): 1 for id_ in sent}


async def _device_rows(inbox: InboxService) -> list[tuple[object, ...]]:
    return await inbox.engine.read(lambda conn, _: [tuple(row) for row in conn.exec_driver_sql("SELECT * FROM device")])
