"""Why a delivery ended without an ack, as its sender is told (protocol §11.5)."""

from clocks import SetClock
from house import House

from providers.contract import Verdict

DAY_S = 86_400


async def details(house: House, clock: SetClock) -> set[str | None]:
    clock.forward(s=8 * DAY_S)
    await house.inbox.expire()
    told = [data["deliveries"] for type_, data in await house.events() if type_ == "delivery.expired"]
    return {one.get("detail") for some in told for one in some}


async def test_the_vendors_word_is_told_if_its_push_came_to_nothing(house: House, clock: SetClock) -> None:
    await house.register("ann/phone", "t1")
    await house.send("ann", push='{"title":"hi"}')
    clock.forward(s=1)
    [attempt] = await house.plan()
    await house.settle(attempt, Verdict.RETRY, vendor_code="UNAVAILABLE")
    assert await details(house, clock) == {"UNAVAILABLE"}


async def test_a_push_that_the_vendor_took_explains_nothing(house: House, clock: SetClock) -> None:
    await house.register("ann/phone", "t1")
    await house.send("ann", push='{"title":"hi"}')
    clock.forward(s=1)
    await house.told()
    assert await details(house, clock) == {"never_online"}


async def test_a_device_without_an_address_says_so(house: House, clock: SetClock) -> None:
    await house.register("ann/phone")
    await house.send("ann")
    assert await details(house, clock) == {"no_address"}
