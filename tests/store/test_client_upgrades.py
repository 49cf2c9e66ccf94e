"""What an upgrade of the app can do to a client, and what comes of it: each row of protocol 10.5, on both stores."""

import json
from typing import Any

import pytest
from house import House, Store

from relay.inbox.comparing import Item, Range, fingerprint
from relay.inbox.handshake import Welcome
from relay.store.engine import Engine

PHONE = "ann/phone"
NEW = {"min_schema": 5, "h": "full"}


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """A phone with version 1 that has stored and acked three messages; two more have come since."""
    house = await House(engine, clock).begin()
    await house.register(PHONE)
    await house.hello(PHONE, app_version="1", schema=1)
    await house.sends(3)
    await house.catch_up(PHONE)
    await house.sends(2)
    return house


async def upgraded(house: House, **more: Any) -> Welcome:
    return await house.hello(PHONE, app_version="2", schema=5, **more)


async def all_ids(house: House) -> list[str]:
    return [row["message_id"] for row in await house.rows("SELECT message_id FROM inbox_entry ORDER BY seq")]


async def test_a_store_that_was_migrated_in_place_goes_on_where_it_was(house: House) -> None:
    welcome = await upgraded(house)
    assert (welcome.verdict, welcome.reason, welcome.missing) == ("delta", None, 2)
    assert await house.catch_up(PHONE) == (await all_ids(house))[3:]


async def test_a_store_that_was_dropped_while_its_cursor_was_kept_gets_everything_again(house: House) -> None:
    """F48, I35: the cursor was not made for this store, so it says nothing."""
    house.store(PHONE).store_id = "made by version 2"
    welcome = await upgraded(house)
    assert (welcome.verdict, welcome.reason) == ("resync", "store_changed")
    assert await house.catch_up(PHONE) == await all_ids(house)


async def test_a_store_that_was_dropped_with_its_cursor_gets_everything_again(house: House) -> None:
    house.stores[PHONE] = Store(store_id="made by version 2")
    assert (await upgraded(house)).reason == "no_cursor"
    assert await house.catch_up(PHONE) == await all_ids(house)


async def test_a_store_that_was_copied_and_checked_keeps_its_id_and_goes_on(house: House) -> None:
    copied = house.store(PHONE)
    house.stores[PHONE] = Store(store_id=copied.store_id, cursor=copied.cursor)
    assert (await upgraded(house)).verdict == "delta"


async def test_a_store_that_was_copied_without_a_check_is_another_one(house: House) -> None:
    copied = house.store(PHONE)
    house.stores[PHONE] = Store(store_id="the copy", cursor=copied.cursor)
    assert (await upgraded(house)).reason == "store_changed"
    assert await house.catch_up(PHONE) == await all_ids(house)


async def test_rows_that_a_migration_lost_are_found_and_fetched(house: House) -> None:
    welcome = await upgraded(house)
    await house.catch_up(PHONE)
    ids = await all_ids(house)
    kept = [Item(seq, id_, "00") for seq, id_ in enumerate(ids, 1) if seq != 2]
    key = house.key(PHONE)
    cursor = house.inbox.reader.unseal(house.store(PHONE).cursor or "", key)
    mine = Range(0, cursor.seq, len(kept), sum(map(fingerprint, kept)) % 2**128)
    compared = await house.inbox.reader.compare(key, [mine], cursor=cursor)
    (found,) = compared.ranges
    assert found.items is not None
    lost = set(found.items) - set(kept)
    assert [item.message_id for item in lost] == [ids[1]]
    assert welcome.upgrade is not None
    assert await house.inbox.upgrades.prove(key, welcome.upgrade["id"], compared, mended=False) == "repairing"
    reading = await house.inbox.reader.read(key, None, limit=10, range_=(1, 2))
    assert reading.batch is not None
    assert [one["id"] for one in json.loads(reading.batch.json)["entries"]] == [ids[1]]


async def test_a_page_that_was_half_stored_is_read_again(house: House) -> None:
    await house.page(PHONE, store=False)  # cursor and rows are one transaction of the client's: neither is there
    welcome = await upgraded(house)
    assert (welcome.verdict, welcome.missing) == ("delta", 2)
    assert len(await house.catch_up(PHONE)) == 2


async def test_a_send_that_was_cut_off_is_repeated_by_the_new_version_and_known(house: House) -> None:
    first = house.message(key="outbox-1", body_hash=b"x")
    sent = await house.inbox.accept(first)
    await upgraded(house)
    again = await house.inbox.accept(house.message(key="outbox-1", body_hash=b"x"))
    assert (again.replay, again.message_id) == (True, sent.message_id)
    assert (await house.catch_up(PHONE)).count(sent.message_id) == 1


async def test_an_older_store_that_was_restored_gets_back_what_it_had_acked_since(house: House) -> None:
    """F46, F49: rolled back within the session: the cursor is behind what was acked, so the relay rewinds."""
    old = house.store(PHONE).past[-1]
    await house.catch_up(PHONE)
    house.store(PHONE).cursor = old
    assert (await house.hello(PHONE, app_version="1")).verdict == "delta"
    ids = await all_ids(house)
    assert (await house.catch_up(PHONE))[-2:] == ids[-2:]


async def test_an_older_store_of_an_earlier_session_that_was_restored_begins_anew(house: House) -> None:
    old = Store(store_id=house.store(PHONE).store_id, cursor=house.store(PHONE).cursor)
    await upgraded(house)
    await house.catch_up(PHONE)
    house.stores[PHONE] = old
    welcome = await house.hello(PHONE, app_version="1")
    assert (welcome.verdict, welcome.reason) == ("resync", "store_rolled_back")
    assert await house.catch_up(PHONE) == await all_ids(house)


@pytest.fixture
async def both(house: House) -> House:
    """A message has come that version 1 can't show; it has passed it, and acked nothing yet."""
    await house.catch_up(PHONE)
    await house.send(**NEW)
    await house.page(PHONE)
    return house


async def test_an_ack_of_the_old_version_before_the_new_one_is_judged_by_the_old(both: House) -> None:
    await both.ack(PHONE)
    await upgraded(both)
    assert await both.catch_up(PHONE) == (await all_ids(both))[-1:]
    assert len(await both.deliveries("delivery.acked")) == 6


async def test_an_ack_of_the_old_version_after_the_new_one_changes_nothing(both: House) -> None:
    """Its cursor was sealed over what the old version could show; counted for the new one, the message would be lost."""
    passed, before = both.store(PHONE).cursor, both.store(PHONE).past[-1]
    await upgraded(both, cursor=before)
    assert (await both.ack(PHONE, passed)).acked_seq == 5
    assert await both.catch_up(PHONE) == (await all_ids(both))[-1:]
    assert len(await both.deliveries("delivery.acked")) == 6


async def test_a_store_of_the_old_version_that_comes_after_the_new_one_is_not_taken_at_its_word(both: House) -> None:
    """It has passed what it could not show; taken for the new version's word, that would count as received in full."""
    passed, before = both.store(PHONE).cursor, both.store(PHONE).past[-1]
    await upgraded(both, cursor=before)
    welcome = await both.hello(PHONE, app_version="1", schema=1, cursor=passed)
    assert (welcome.verdict, welcome.reason) == ("resync", "store_rolled_back")
    await both.catch_up(PHONE)
    await upgraded(both)
    assert await both.catch_up(PHONE) == (await all_ids(both))[-1:]
    assert len(await both.deliveries("delivery.acked")) == 6


async def test_pages_that_the_old_version_reads_after_the_new_one_came_do_not_make_its_word_count(both: House) -> None:
    """What it passed before stands behind each of its cursors: none of them is one of the new version's session."""
    passed, before = both.store(PHONE).cursor, both.store(PHONE).past[-1]
    await upgraded(both, cursor=before)
    await both.send()
    page = await both.page(PHONE, cursor=passed)
    assert (await both.ack(PHONE, page.json["cursor"])).acked_seq == 5
    welcome = await upgraded(both, cursor=page.json["cursor"])
    assert (welcome.verdict, welcome.reason) == ("resync", "store_rolled_back")
    assert (await both.catch_up(PHONE))[-2:] == (await all_ids(both))[-2:]
    assert len(await both.deliveries("delivery.acked")) == 7


async def test_an_upgrade_that_names_its_user_anew_begins_with_another_numbering(house: House) -> None:
    """The backend moves the inbox; the rest: test_renaming.py."""
    await house.inbox.rename(house.key(PHONE).user, "anna")
    store = house.stores.pop(PHONE)
    house.stores["anna/phone"] = store
    welcome = await house.hello("anna/phone", app_version="2")
    assert (welcome.verdict, welcome.reason) == ("resync", "epoch")
    assert await house.catch_up("anna/phone") == await all_ids(house)


# --- two phones of one identity (F51) -----------------------------------------------------------------------------------


async def come(house: House, phone: str, mine: Store) -> Welcome:
    """One of the phones that are this device shakes hands, catches up and goes."""
    house.stores[phone] = mine
    welcome = await house.hello(phone)
    await house.catch_up(phone)
    return welcome


def cloned(house: House) -> tuple[Store, Store]:
    mine = house.store(PHONE)
    return mine, Store(store_id=mine.store_id, cursor=mine.cursor, ids=list(mine.ids))


async def test_f51_two_phones_of_one_backup_are_told_to_part_once_they_have_taken_turns(house: House) -> None:
    first, second = cloned(house)
    welcomes = []
    for _ in range(3):
        for mine in (first, second):
            await house.send()
            welcomes.append(await come(house, PHONE, mine))
    assert [(one.reason, one.reidentify) for one in welcomes] == [
        (None, False),
        ("store_rolled_back", False),
        ("store_rolled_back", False),
        ("store_rolled_back", True),
        ("store_rolled_back", True),
        ("store_rolled_back", True),
    ]
    assert set(second.ids) == set(await all_ids(house)), "nothing is lost meanwhile"
    assert not (await come(house, PHONE, second)).reidentify, "it alone now"


async def test_f51_what_one_acked_by_number_alone_the_other_is_not_taken_to_have(both: House) -> None:
    """A socket's ack may say a number in place of a cursor: it speaks for the store of its own session."""
    older, newer = cloned(both)
    newer.cursor = older.past[-1]
    both.stores[PHONE] = newer
    welcome = await upgraded(both)
    await both.page(PHONE)
    await both.ack(PHONE, upto=6, session=welcome.session)
    both.stores[PHONE] = older
    assert (await upgraded(both)).reason == "store_rolled_back"
    assert (await both.catch_up(PHONE))[-1:] == (await all_ids(both))[-1:]


async def test_f51_one_that_parts_with_its_store_lacks_nothing_and_the_other_goes_on(house: House) -> None:
    first, second = cloned(house)
    for mine in (first, second, first, second):
        await come(house, PHONE, mine)
    await house.register("ann/phone-2")
    await house.send()
    welcome = await come(house, "ann/phone-2", second)
    assert (welcome.verdict, welcome.reason, welcome.reidentify) == ("resync", "bad_cursor", False)
    await come(house, PHONE, first)
    await house.send()
    for phone, mine in (("ann/phone-2", second), (PHONE, first)):
        welcome = await come(house, phone, mine)
        assert (welcome.verdict, welcome.reidentify) == ("delta", False)
        assert set(mine.ids) == set(await all_ids(house))


async def test_f51_a_phone_whose_answers_are_lost_is_not_taken_for_two(house: House) -> None:
    _, restored = cloned(house)
    await house.hello(PHONE)
    await house.catch_up(PHONE)
    lost = restored.cursor
    for _ in range(4):
        restored.cursor = lost
        house.stores[PHONE] = restored
        welcome = await house.hello(PHONE)
        assert (welcome.reason, welcome.reidentify) == ("store_rolled_back", False)


async def test_f51_a_phone_that_is_restored_now_and_then_is_not_taken_for_two(house: House, clock: Any) -> None:
    first, second = cloned(house)
    await come(house, PHONE, first)
    for mine in (second, first, second):
        clock.forward(ms=12 * 3_600_000)
        welcome = await come(house, PHONE, mine)
        assert (welcome.reason, welcome.reidentify) == ("store_rolled_back", False)
