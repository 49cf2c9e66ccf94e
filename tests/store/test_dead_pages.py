"""The list of dead pushes page by page, on both stores."""

from house import House

from providers.contract import Verdict
from relay.push.accounts import Accounts
from relay.push.desk import PushDesk

PHONE, TABLET = "ann/phone", "ann/tablet"


def desk(house: House) -> PushDesk:
    return PushDesk(engine=house.engine, clock=house.clock, accounts=Accounts([]), policy_of=lambda _: house.policy)


async def is_refused_and_then_loses_its_address(house: House, name: str, token: str) -> None:
    await house.register(name, token)
    await house.hello(name)
    await house.bye(name)
    await house.send()
    for verdict in (
        Verdict.REFUSED,
        Verdict.REFUSED,
        Verdict.TOKEN_DEAD,
    ):  # as it is, as a bare wake-up, and the next one
        house.clock.forward(s=60)
        (attempt,) = await house.plan()
        await house.settle(attempt, verdict)
        await house.send()


async def test_a_device_that_is_there_for_two_reasons_is_listed_twice_wherever_a_page_ends(house: House) -> None:
    await is_refused_and_then_loses_its_address(house, PHONE, "t1")
    await is_refused_and_then_loses_its_address(house, TABLET, "t2")
    seen, cursor = [], None
    while not seen or cursor is not None:
        page = await desk(house).dead(house.app, why=None, cursor=cursor, limit=1)
        seen += [(one.device_id, one.why) for one in page.pushes]
        cursor = page.next
    both = ("no_address", "refused")
    assert seen == [(name, why) for name in ("phone", "tablet") for why in both]
