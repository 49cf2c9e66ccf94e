"""Tokens that nobody has refreshed for 30 days (protocol §5): still tried once a week, and nothing is given up for that."""

from typing import Any

import pytest
from house import FREE, House, address
from law import pushes

from providers.contract import Capabilities, Verdict
from relay.inbox.registry import Registration
from relay.model import DeviceState
from relay.push.mending import mend
from relay.push.moot import find_moot
from relay.store.engine import Engine
from relay.store.parked import park_account

DAY_S = 86_400
MONTH_S, WEEK_S = 30 * DAY_S, 7 * DAY_S


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """Ann's phone, which was not heard of for a month, and waits for a first message."""
    one = await House(engine, clock).begin()
    one.views = {"v": FREE, "w": FREE}
    await one.register("ann/phone", "t")
    clock.forward(s=MONTH_S)
    before_ms = clock.now_ms() - one.policy.dormant_ms
    await one.inbox.silence(DeviceState.ACTIVE, before_ms=before_ms, limit=10)
    assert (await one.device("ann/phone")).state is DeviceState.DORMANT
    return one


async def pushed(house: House) -> list[tuple[str, int]]:
    """Account of each push that goes now, and of how many messages it tells."""
    return [(one.send.address.account, sum(n.count for n in one.send.notes)) for one in await house.told()]


async def test_one_push_a_week_tells_of_all_that_came_meanwhile(house: House, clock: Any) -> None:
    await house.send()
    clock.forward(s=1)
    assert await pushed(house) == [("v", 1)]
    first_ms = clock.now_ms()
    for _ in range(2):
        clock.forward(s=DAY_S)
        await house.send(ttl_s=28 * DAY_S)
        clock.forward(s=1)
        assert await pushed(house) == []
        job = await house.job("ann/phone")
        assert (job.reason, job.due_ms) == ("stale", first_ms + WEEK_S * 1000)
    await house.checked(lambda conn, now_ms: pushes(conn, now_ms, "shop", house.policy))
    clock.ms = first_ms + WEEK_S * 1000 - 1
    assert await pushed(house) == []
    clock.forward(ms=1)
    attempts = await house.told()
    assert [len(one.send.notes) for one in attempts] == [1], "it is one push, however many messages"
    assert attempts[0].send.notes[0].count == 2


async def test_an_address_that_had_its_push_keeps_none_of_an_account_that_is_mended(house: House, clock: Any) -> None:
    """F32: what waited while the chain's first account was parked goes once that is mended, and not when the week is over."""
    await house.inbox.register(
        Registration(device=house.key("ann/phone"), addresses=(address("t"), address("u", account="w")))
    )
    clock.forward(s=MONTH_S)
    await house.engine.write(lambda conn, now_ms: park_account(conn, now_ms, app_id="shop", account="v", code="403"))
    for _ in range(2):
        await house.send(ttl_s=28 * DAY_S)
        clock.forward(s=1)
        await house.told()
    assert (await house.job("ann/phone")).reason == "stale"
    await mend(house.engine, "shop", ["v"])
    assert [account for account, _ in await pushed(house)] == ["v"]


async def test_nothing_ends_or_fails_by_waiting(house: House, clock: Any) -> None:
    for _ in range(2):
        await house.send()
        clock.forward(s=1)
        await house.told()
    kinds = {kind for kind, _ in await house.events()}
    assert not kinds & {"delivery.failed", "delivery.expired", "device.unreachable"}
    await house.hello("ann/phone")
    assert len(await house.catch_up("ann/phone")) == 2


async def test_a_contact_makes_it_fresh(house: House, clock: Any) -> None:
    await house.send()
    clock.forward(s=1)
    await house.told()
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    await house.bye("ann/phone")
    for _ in range(2):
        await house.send()
        clock.forward(s=1)
        assert await pushed(house) == [("v", 1)]


async def test_a_token_that_its_backend_brings_again_is_fresh(house: House, clock: Any) -> None:
    for _ in range(2):
        await house.register("ann/phone", "t")
        await house.send()
        clock.forward(s=1)
        assert await pushed(house) == [("v", 1)]


async def test_each_address_has_its_own_week(house: House, clock: Any) -> None:
    both = (address("t"), address("u", account="w"))
    await house.inbox.register(Registration(device=house.key("ann/phone"), addresses=both))
    clock.forward(s=MONTH_S)
    for went in (["v"], ["w"], []):
        await house.send()
        clock.forward(s=1)
        assert [account for account, _ in await pushed(house)] == went


async def test_a_try_that_the_vendor_did_not_take_is_repeated(house: House, clock: Any) -> None:
    await house.send()
    clock.forward(s=1)
    (attempt,) = await house.plan()
    await house.settle(attempt, Verdict.RETRY)
    clock.forward(s=6)
    assert await pushed(house) == [("v", 1)]


async def test_the_week_holds_although_the_message_that_was_told_is_gone(house: House, clock: Any) -> None:
    await house.send(ttl_s=60)
    clock.forward(s=1)
    await house.told()
    clock.forward(s=DAY_S)
    await house.inbox.expire()
    assert await house.inbox.prune([house.key("ann/phone").user]) == 1
    await house.send()
    clock.forward(s=1)
    assert await pushed(house) == []


async def test_nothing_is_taken_off_a_screen_that_nobody_has_looked_at_for_so_long(house: House, clock: Any) -> None:
    able = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400, recall=True)
    message = (await house.send()).message_id
    clock.forward(s=1)
    await house.told()
    await house.inbox.cancel("shop", message)

    async def moot() -> int:
        users = [house.key("ann/phone").user]
        return len(
            await house.engine.read(
                lambda conn, now: find_moot(conn, now, users, lambda _: house.policy, lambda *_: able)
            )
        )

    assert await moot() == 0
    await house.register("ann/phone", "t")
    assert await moot() == 1
