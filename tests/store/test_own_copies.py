"""I38, F87, F88: a user's own message reaches each of her devices, also the one that sent it, once it has lost its store."""

from typing import Any

import pytest
from clocks import SetClock
from house import House
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.store.engine import Engine
from relay.store.inline import InlineEngine
from relay.store.schema import metadata

PHONE, TABLET, DESKTOP = "ann/phone", "ann/tablet", "ann/desktop"


async def house_of(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    for name in (PHONE, TABLET, DESKTOP, "bob/phone"):
        await house.register(name, f"token of {name}")
    await house.hello(PHONE)
    return house


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    return await house_of(engine, clock)


async def says(house: House, body: str = "1") -> str:
    return (await house.send("bob", sender_user="ann", sender_device="phone", body=body)).message_id


async def test_f87_the_others_get_a_copy_without_a_push_and_the_sending_one_a_gap(house: House, clock: Any) -> None:
    await house.hello(TABLET)
    sent = await says(house)
    page = await house.page(PHONE)
    assert (page.ids, page.gaps) == ([], [(0, 1, "own")])
    assert await house.catch_up(TABLET) == [sent]
    clock.forward(s=60)
    assert {attempt.device.user_id for attempt in await house.told()} == {"bob"}
    await house.hello(DESKTOP)
    assert await house.catch_up(DESKTOP) == [sent]


async def test_f88_a_sender_that_loses_its_store_gets_its_own_message(house: House) -> None:
    sent = await says(house)
    await house.catch_up(PHONE)
    house.stores[PHONE].store_id, house.stores[PHONE].cursor = "another", None
    await house.hello(PHONE)
    assert await house.catch_up(PHONE) == [sent]


@pytest.mark.parametrize("wiped", [False, True])
async def test_f88_what_is_sent_for_later_is_the_sessions_that_sent_it(house: House, clock: Any, wiped: bool) -> None:
    """However many it has had until then: the copy comes to a store that does not have it from sending it."""
    later = clock.now_ms() + 1000
    sent = await house.send("bob", sender_user="ann", sender_device="phone", deliver_ms=later)
    if wiped:
        house.stores[PHONE].store_id, house.stores[PHONE].cursor = "another", None
        await house.hello(PHONE)
    clock.forward(s=1)
    assert await house.inbox.fan_out()
    page = await house.page(PHONE)
    assert (page.ids, page.gaps) == (([sent.message_id], []) if wiped else ([], [(0, 1, "own")]))


async def test_what_is_taken_back_before_anybody_has_it_leaves_the_screen_of_the_device_that_sent_it(
    house: House,
) -> None:
    sent = await says(house)
    assert await house.inbox.cancel(house.app, sent) == "cancelled", "nobody has acked it"
    recalls = [entry for entry in (await house.page(PHONE)).json["entries"] if entry["kind"] == "recall"]
    assert [entry["of"] for entry in recalls] == [[sent]]
    await house.hello("bob/phone")
    page = await house.page("bob/phone")
    assert (page.ids, page.gaps) == ([], [(0, 1, "cancelled")])


async def test_a_copy_neither_replaces_nor_is_replaced_by_what_others_send_under_the_same_key(house: House) -> None:
    await house.hello(TABLET)
    await house.send("bob", sender_user="ann", sender_device="phone", collapse_key="score")
    await house.send("ann", collapse_key="score")
    keys = [(entry["kind"], entry["collapse_key"]) for entry in (await house.page(TABLET)).json["entries"]]
    assert keys == [("own", None), ("message", "score")]


STEPS = st.lists(st.sampled_from(["says", "reads", "reconnects", "wiped", "set back"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(STEPS)
async def test_i38_whatever_becomes_of_the_sending_devices_store_it_ends_with_all_its_messages(
    steps: list[str],
) -> None:
    """What the store holds of its own: what it wrote itself when it sent, and what came. Both may be lost with the store."""
    clock = SetClock()
    engine = InlineEngine(clock)
    await engine.write(lambda conn, _: metadata.create_all(conn))
    house = await house_of(engine, clock)
    sent: list[str] = []
    has: set[str] = set()
    backup: tuple[set[str], str | None, str] = (set(), None, "another-0")
    mine = house.store(PHONE)
    for n, step in enumerate([*steps, "reconnects"]):
        match step:
            case "says":
                sent.append(await says(house, str(n)))
                has.add(sent[-1])
            case "reads":
                has |= set(await house.catch_up(PHONE))
                backup = (set(has), mine.cursor, mine.store_id)
            case "wiped":
                has, mine.cursor, mine.store_id = set(), None, f"store-{n}"
                await house.hello(PHONE)
            case "set back":
                has, mine.cursor, mine.store_id = set(backup[0]), backup[1], backup[2]
                await house.hello(PHONE)
            case "reconnects":
                await house.hello(PHONE)
    has |= set(await house.catch_up(PHONE))
    assert set(sent) <= has
    await engine.close()
