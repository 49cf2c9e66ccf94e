"""Comparing caches on both stores: whatever a device has been through, what it counts is what the relay counts."""

import hashlib
import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from house import House, Store

from relay.clock import from_rfc3339, rfc3339
from relay.inbox.comparing import LISTED_MAX, Comparison, Item, Range, fingerprint
from relay.model import Scope
from relay.store.engine import Engine

PHONE = "ann/phone"
HOUR_S = 3600


@dataclass
class Ledger:
    """What a client keeps of what it received (protocol 8.7), written from the pages alone."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def store(self, batch: dict[str, Any]) -> None:
        for entry in batch["entries"]:
            if entry["kind"] == "recall":
                self._end(entry["of"], entry["seq"])
            if "h" not in entry:
                continue
            if entry["kind"] == "release":
                self._end([entry["id"]], entry["seq"])
            elif entry["collapse_key"] is not None:
                older = [one["id"] for one in self.rows.values() if one["collapse_key"] == entry["collapse_key"]]
                self._end([id_ for id_ in older if id_ != entry["id"]], entry["seq"])
            self.rows[entry["seq"]] = entry | {"ended_by": None}

    def _end(self, ids: list[str], by: int) -> None:
        for one in self.rows.values():
            if one["id"] in ids and one["ended_by"] is None and one["seq"] < by:
                one["ended_by"] = by

    def items(self, as_of_ms: int, *, after: int = 0) -> list[Item]:
        return [
            Item(one["seq"], one["id"], one["h"])
            for one in self.rows.values()
            if one["ended_by"] is None and from_rfc3339(one["expires_at"]) > as_of_ms and one["seq"] > after
        ]


def told(items: list[Item], low: int, high: int) -> Range:
    within = [item for item in items if low < item.seq <= high]
    return Range(low, high, len(within), sum(map(fingerprint, within)) % 2**128)


@dataclass
class Client:
    house: House
    ledger: Ledger = field(default_factory=Ledger)

    async def catch_up(self, *, ack: bool = True) -> None:
        while True:
            page = await self.house.page(PHONE)
            self.ledger.store(page.json)
            if page.caught_up:
                break
        if ack:
            await self.house.ack(PHONE)

    async def compare(self, *parts: tuple[int, int]) -> Comparison:
        """All at once, or these parts."""
        text = self.house.store(PHONE).cursor
        assert text is not None
        cursor = self.house.inbox.reader.unseal(text, self.house.key(PHONE))
        now_ms = self.house.clock.now_ms()
        spans = parts or ((0, cursor.seq),)
        items = self.ledger.items(now_ms)
        return await self.house.inbox.reader.compare(
            self.house.key(PHONE), [told(items, *span) for span in spans], cursor=cursor, as_of_ms=now_ms
        )


@pytest.fixture
async def client(engine: Engine, clock: Any) -> Client:
    house = await House(engine, clock).begin()
    await house.register(PHONE)
    await house.hello(PHONE, schema=1, app_version="1")
    return Client(house)


def h(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def test_a_fingerprint_is_made_as_the_protocol_says() -> None:
    digest = hashlib.sha256(b"7|0198c1c2|9f2c01d4aa31b77e").hexdigest()
    assert f"{fingerprint(Item(7, '0198c1c2', '9f2c01d4aa31b77e')):032x}" == digest[:32]


async def test_a_store_that_has_everything_is_the_same_and_one_that_lost_some_is_told_what(client: Client) -> None:
    sent = await client.house.sends(5)
    await client.catch_up()
    assert (await client.compare()).same
    lost = client.ledger.rows.pop(3)
    (one,) = (await client.compare()).ranges
    assert (one.same, one.lacking) == (False, 1)
    assert one.items is not None
    assert [item.message_id for item in one.items] == sent
    assert Item(3, lost["id"], lost["h"]) in one.items


async def test_a_rotten_row_differs_as_a_missing_one_does(client: Client) -> None:
    await client.house.sends(3)
    await client.catch_up()
    client.ledger.rows[2]["h"] = h("rotten")
    (one,) = (await client.compare()).ranges
    assert (one.same, one.n, one.lacking) == (False, 3, 1)


async def test_a_long_range_is_split_and_only_what_differs_is_listed(client: Client) -> None:
    await client.house.sends(2 * LISTED_MAX)
    await client.catch_up()
    del client.ledger.rows[100]
    whole = await client.compare()
    assert [(one.same, one.items) for one in whole.ranges] == [(False, None)]
    first, second = (await client.compare((0, LISTED_MAX), (LISTED_MAX, 2 * LISTED_MAX))).ranges
    assert (first.same, first.items) == (True, None)
    assert second.items is not None
    assert 100 in {item.seq for item in second.items}


async def test_parts_that_leave_something_out_are_not_the_whole(client: Client) -> None:
    await client.house.sends(4)
    await client.catch_up()
    assert (await client.compare((0, 2), (2, 4))).whole
    assert not (await client.compare((0, 2))).whole
    assert not (await client.compare((0, 2), (3, 4))).whole


async def test_what_is_found_lacking_comes_by_range_also_what_the_device_sent_itself(client: Client) -> None:
    house = client.house
    await house.register("bob/phone")
    await house.send("bob", sender_user="ann", sender_device="phone")
    await client.catch_up()
    (one,) = (await client.compare()).ranges
    assert one.items is not None
    (lacking,) = one.items
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=10, range_=(lacking.seq - 1, lacking.seq))
    assert reading.batch is not None
    client.ledger.store(json.loads(reading.batch.json))
    assert (await client.compare()).same


async def test_what_the_device_sent_itself_comes_by_range_in_a_form_that_its_version_can_show(client: Client) -> None:
    house = client.house
    await house.hello(PHONE, schema=1)
    await house.register("bob/phone")
    await house.send(
        "bob", sender_user="ann", sender_device="phone", min_schema=5, fallback='"old"', fallback_h=h("old")
    )
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=10, range_=(0, 9))
    assert reading.batch is not None
    (entry,) = json.loads(reading.batch.json)["entries"]
    assert (entry["kind"], entry["form"], entry["body"]) == ("own", "fallback", "old")


async def test_what_came_in_full_before_a_downgrade_still_counts_in_full(client: Client) -> None:
    house = client.house
    await house.hello(PHONE, schema=5)
    await house.send(min_schema=5, fallback='"old"', fallback_h=h("old"), h=h("new"))
    await house.send(min_schema=5, h=h("newer"))
    await client.catch_up()
    await house.hello(PHONE, schema=1)
    assert (await client.compare()).same


@pytest.mark.parametrize("form", ["fallback", "held"])
async def test_what_is_lost_after_a_downgrade_and_comes_again_as_the_old_version_can_have_it_is_whole(
    client: Client, form: str
) -> None:
    house = client.house
    await house.hello(PHONE, schema=5)
    fallback = {"fallback": '"old"', "fallback_h": h("old")} if form == "fallback" else {}
    for n in range(3):
        await house.send(min_schema=5, h=h(f"{n}"), **fallback)
    await client.catch_up()
    await house.hello(PHONE, schema=1)
    del client.ledger.rows[2]
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=10, range_=(1, 2))
    assert reading.batch is not None
    client.ledger.store(json.loads(reading.batch.json))
    assert (await client.compare()).same
    client.ledger.rows[3]["h"] = h("rotten")
    assert not (await client.compare()).same


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("form", ["fallback", "held"])
async def test_what_was_sent_in_the_devices_name_before_a_downgrade_is_lacking_in_neither_form(
    client: Client, itself: bool, form: str
) -> None:
    """The device has it in full if it sent it itself; if its backend did, a range gives what the old version can show."""
    house = client.house
    await house.hello(PHONE, schema=5)
    await house.register("bob/phone")
    fallback = {"fallback": '"old"', "fallback_h": h("old")} if form == "fallback" else {}
    for n in range(3):
        sent = await house.send("bob", sender_user="ann", sender_device="phone", min_schema=5, h=h(f"{n}"), **fallback)
        await client.catch_up()
        if itself and n != 1:
            expires_at = rfc3339(sent.expires_ms)
            own = {"seq": n + 1, "id": sent.message_id, "h": h(f"{n}"), "expires_at": expires_at, "collapse_key": None}
            client.ledger.rows[n + 1] = own | {"ended_by": None}
    await house.hello(PHONE, schema=1)
    for n in {0, 1, 2} - {seq - 1 for seq in client.ledger.rows}:
        reading = await house.inbox.reader.read(house.key(PHONE), None, limit=10, range_=(n, n + 1))
        assert reading.batch is not None
        client.ledger.store(json.loads(reading.batch.json))
    assert (await client.compare()).same
    (first, *_) = client.ledger.rows.values() if client.ledger.rows else (None,)
    if first is not None:
        first["h"] = h("rotten")
        assert not (await client.compare()).same


async def test_what_is_to_come_in_full_counts_until_then_as_it_came(client: Client) -> None:
    house = client.house
    await house.send(min_schema=5, fallback='"old"', fallback_h=h("old"), h=h("new"))
    await house.send(min_schema=5, h=h("newer"))
    await client.catch_up()
    await house.hello(PHONE, schema=5)
    assert (await client.compare()).same, "the full forms stand behind the cursor"
    await client.catch_up()
    assert (await client.compare()).same
    assert {item.h for item in client.ledger.items(house.clock.now_ms())} == {h("new"), h("newer")}


async def test_what_a_new_version_reads_anew_counts_as_it_sees_it_also_before_it_is_acked(client: Client) -> None:
    house = client.house
    await house.send(h=h("new"), min_schema=2, fallback='"lesser"', fallback_h=h("lesser"))
    await client.catch_up()
    house.stores[PHONE], client.ledger = Store(store_id="made by version 2"), Ledger()
    await house.hello(PHONE, schema=2, app_version="2")
    await client.catch_up(ack=False)
    assert (await client.compare()).same
    assert {item.h for item in client.ledger.items(house.clock.now_ms())} == {h("new")}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_both_sides_count_the_same(client: Client, seed: int) -> None:
    """Sends of all forms, taking back, replacing, expiring, upgrades, catching up in between: in any order."""
    rng, house = random.Random(seed), client.house
    schema, sent = 1, [await house.send()]
    for step in range(40):
        match rng.randrange(9):
            case 0 | 1:
                sent.append(await house.send(h=h(f"{step}")))
            case 2:
                sent.append(await house.send(h=h(f"{step}"), min_schema=rng.randint(1, 4)))
            case 3:
                lesser = {"fallback": '"x"', "fallback_h": h(f"less {step}")}
                sent.append(await house.send(h=h(f"{step}"), min_schema=rng.randint(1, 4), **lesser))
            case 4:
                sent.append(await house.send(h=h(f"{step}"), collapse_key=rng.choice("ab")))
            case 5:
                sent.append(await house.send(h=h(f"{step}"), ttl_s=rng.choice([HOUR_S, 50 * HOUR_S])))
            case 6:
                house.clock.forward(s=rng.randrange(HOUR_S))
                await house.inbox.expire()
            case 7:
                await client.catch_up(ack=rng.random() < 0.8)
                taken_back = rng.choice(sent).message_id  # whether the device has it, and has acked it, or not
                if await alive(house, taken_back):
                    await house.inbox.cancel("shop", taken_back)
            case 8:
                schema = max(schema, rng.randint(1, 4))
                await client.catch_up()
                await house.hello(PHONE, schema=schema)
                await client.catch_up()
                assert (await client.compare()).same, step
    await client.catch_up()
    assert (await client.compare()).same


async def alive(house: House, message: str) -> bool:
    rows = await house.rows(f"SELECT state, expires_ms FROM inbox_entry WHERE message_id = '{message}'")
    return any(row["state"] == "live" and row["expires_ms"] > house.clock.now_ms() for row in rows)


async def test_what_was_sent_in_a_devices_name_and_it_cannot_show_comes_as_anything_else_would(client: Client) -> None:
    """8.7, 12.3: it can't have sent that itself, so it gets what its version can show, and the rest with a newer one."""
    house = client.house
    await house.register("bob/phone")
    mine: dict[str, Any] = {"sender_user": "ann", "sender_device": "phone", "min_schema": 5}
    await house.send("bob", **mine, fallback='"old"', fallback_h=h("old"), h=h("new"))
    await house.send("bob", **mine, h=h("newer"))
    await client.catch_up()
    assert [(one["kind"], one["form"]) for one in client.ledger.rows.values()] == [("own", "fallback")]
    assert (await client.compare()).same
    await house.hello(PHONE, schema=5)
    await client.catch_up()
    assert (await client.compare()).same
    assert {item.h for item in client.ledger.items(house.clock.now_ms())} == {h("new"), h("newer")}


@pytest.mark.parametrize("count", [1, 3, 20])
async def test_what_an_older_version_was_never_to_get_is_no_loss_of_its_upgrade(client: Client, count: int) -> None:
    """`hold: false`: passed as out of scope by the version that could not show it, so the newer one need not have it."""
    house = client.house
    await house.hello(PHONE, schema=1, app_version="1")
    for n in range(count):
        await house.send(min_schema=5, hold=False, h=h(f"{n}"))
    kept = await house.send(h=h("kept"))
    await client.catch_up()
    await house.hello(PHONE, schema=5, app_version="2")
    compared = await client.compare()
    assert sum(one.lacking for one in compared.ranges) == 0
    assert compared.same or count > 10, "of so many, the cache is told what it may fetch"
    assert [item.message_id for item in client.ledger.items(house.clock.now_ms())] == [kept.message_id]
    client.ledger.rows.clear()
    compared = await client.compare()
    assert sum(one.lacking for one in compared.ranges) == 1


async def test_a_call_that_was_answered_counts_on_the_device_that_answered_and_on_no_other(client: Client) -> None:
    house = client.house
    await house.register("ann/tablet")
    await house.hello("ann/tablet")
    await house.send(scope=Scope(first_ack_wins=True), h=h("answered here"))
    await client.catch_up()
    await house.send(scope=Scope(first_ack_wins=True), h=h("answered there"))
    await house.catch_up("ann/tablet")
    await client.catch_up()
    assert [item.h for item in client.ledger.items(house.clock.now_ms())] == [h("answered here")]
    assert (await client.compare()).same
    client.ledger.rows.clear()
    house.stores[PHONE] = Store(store_id="another")
    await house.hello(PHONE)
    await client.catch_up()
    assert (await client.compare()).same, "it can't be had any more"
