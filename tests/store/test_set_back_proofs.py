"""F75: a store that was set back and whose witness is lost as well. Only the devices' cursors prove it (protocol §4.1)."""

from dataclasses import replace
from typing import Any

import pytest
from house import House

from relay.errors import CursorRefused
from relay.inbox.cursor import seal, tail8
from relay.inbox.judging import Reason
from relay.store import apps
from relay.store.engine import Engine
from relay.store.scope import of_app

USERS = ("ann", "bob", "cid", "dan")


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """Four phones that are up to date."""
    house = await House(engine, clock).begin()
    await engine.write(lambda conn, now_ms: apps.create_app(conn, now_ms, app_id=house.app, id_secret=bytes(32)))
    for user in USERS:
        await house.register(f"{user}/phone")
        await house.hello(f"{user}/phone")
        await house.send(user)
        await house.catch_up(f"{user}/phone")
    return house


async def comes_back_from_the_future(house: House, user: str) -> str | None:
    """Shakes hands with a cursor that the relay sealed for a number which the store does not know any more."""
    ahead(house, user)
    return (await house.hello(f"{user}/phone")).reason


def ahead(house: House, user: str) -> None:
    name = f"{user}/phone"
    mine = house.inbox.reader.unseal(house.store(name).cursor or "", house.key(name))
    house.store(name).cursor = seal(replace(mine, seq=mine.seq + 7), house.key(name), house.keys)


async def epoch(house: House) -> str:
    (row,) = await house.rows("SELECT epoch FROM store_meta")
    return str(row["epoch"])


async def told(house: House) -> list[str]:
    return [type_ for type_, _ in await house.events() if type_ == "store.rolled_back"]


async def test_f75_one_proof_voids_its_inbox_and_the_third_voids_the_store(house: House) -> None:
    began = await epoch(house)
    for user in USERS[:2]:
        assert await comes_back_from_the_future(house, user) == Reason.FORKED
    assert await epoch(house) == began
    assert await house.page("dan/phone")  # nobody else is troubled yet
    assert await comes_back_from_the_future(house, "cid") == Reason.FORKED
    assert await epoch(house) != began
    assert await told(house) == ["store.rolled_back"]
    assert await house.page("cid/phone", cursor=house.store("cid/phone").cursor)  # its welcome is of the new epoch
    assert (await house.hello("dan/phone")).reason == Reason.EPOCH  # whose cursor alone would have proved nothing
    for user in USERS:
        await house.hello(f"{user}/phone")
        await house.send(user)
        assert len(await house.catch_up(f"{user}/phone")) >= 1


async def test_f75_who_shakes_hands_beside_the_third_proof_is_judged_by_the_new_epoch(house: House) -> None:
    """I43: numbers were lost, so the epoch is new before the next answer, be it of the same transaction."""
    for user in USERS[:3]:
        ahead(house, user)
    hellos = [house.said(f"{user}/phone") for user in USERS]
    *forked, last = await house.engine.write(lambda conn, now_ms: house.inbox._hello(conn, now_ms, hellos))
    assert [one.reason for one in forked] == [Reason.FORKED] * 3
    assert last.reason == Reason.EPOCH
    assert await house.page("dan/phone", cursor=last.cursor)


async def test_f75_an_ack_of_another_message_proves_it_too_and_acks_nothing(house: House) -> None:
    began = await epoch(house)
    for user in USERS[:3]:
        await house.send(user)
        name = f"{user}/phone"
        mine = house.inbox.reader.unseal((await house.page(name)).json["cursor"], house.key(name))
        other = seal(replace(mine, tail8=tail8("another")), house.key(name), house.keys)
        with pytest.raises(CursorRefused) as refused:
            await house.ack(name, other)
        assert await house.page(name, cursor=refused.value.extra["resync"]["cursor"])
        assert (await house.device(name)).acked_seq == 1
    assert await epoch(house) != began
    assert await told(house) == ["store.rolled_back"]


async def test_f75_every_app_is_told_whichever_apps_devices_have_proved_it(house: House, engine: Engine) -> None:
    await engine.write(lambda conn, now_ms: apps.create_app(conn, now_ms, app_id="another", id_secret=bytes(32)))
    with of_app(house.app):
        for user in USERS[:3]:
            await comes_back_from_the_future(house, user)
    rows = await house.rows("SELECT app_id FROM event WHERE type = 'store.rolled_back' ORDER BY app_id")
    assert [row["app_id"] for row in rows] == ["another", house.app]


async def test_f75_proofs_of_one_inbox_are_one_proof(house: House) -> None:
    began = await epoch(house)
    for _ in range(4):
        await comes_back_from_the_future(house, "ann")
    assert await epoch(house) == began


async def test_f75_proofs_that_are_far_apart_do_not_add_up(house: House, clock: Any) -> None:
    began = await epoch(house)
    for user in USERS:
        await comes_back_from_the_future(house, user)
        clock.forward(s=301)
    assert await epoch(house) == began
