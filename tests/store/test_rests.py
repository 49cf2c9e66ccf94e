"""I25: a push job rests for a reason, and whatever ends that reason makes it due again. One row for each reason there is."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from house import House, address

from providers.contract import Scope as VendorScope
from providers.contract import Verdict
from relay.inbox.preferences import Level, Preferences
from relay.inbox.push_due import Rest
from relay.model import UserKey
from relay.push.mending import mend
from relay.store.engine import Engine

PHONE = "ann/phone"
ANN = UserKey("shop", "ann")
Does = Callable[[House], Awaitable[Any]]


async def plans(house: House) -> None:
    house.clock.forward(s=1)
    await house.told()


async def told_to_the_end(house: House) -> None:
    """Told, and knocked as often as the policy says."""
    await house.send()
    await plans(house)
    for knock_ms in house.policy.knocks_ms:
        house.clock.forward(ms=knock_ms)
        await house.told()


async def loses_its_address(house: House) -> None:
    await house.send()
    house.clock.forward(s=1)
    (attempt,) = await house.plan()
    await house.settle(attempt, Verdict.TOKEN_DEAD)


async def does_not_want_it(house: House) -> None:
    await house.inbox.set_preferences(ANN, Preferences(level=Level.NONE))
    await house.send()
    await plans(house)


async def is_parked(house: House) -> None:
    await house.send()
    house.clock.forward(s=1)
    (attempt,) = await house.plan()
    await house.settle(attempt, Verdict.MISCONFIGURED, scope=VendorScope.ACCOUNT, vendor_code="InvalidProviderToken")
    await house.plan()


async def is_mended(house: House) -> None:
    await mend(house.engine, house.app, ["v"])


async def is_broken(house: House) -> None:
    """Somebody has edited the row by hand, so that it cannot be planned."""
    await house.send()
    await edit(house, "UPDATE message SET push = '{\"title\":'")
    await plans(house)


async def is_put_right(house: House) -> None:
    await edit(house, 'UPDATE message SET push = \'{"title":"t"}\'')
    await house.send()  # as an operator's `requeue` does, it makes the job due


async def edit(house: House, statement: str) -> None:
    await house.engine.write(lambda conn, _: conn.exec_driver_sql(statement))


async def everything_again(house: House) -> None:
    await house.register(PHONE, "t2")
    await house.send()


ROWS: dict[Rest, tuple[Does, Does]] = {
    Rest.NOTHING_OWED: (lambda house: house.catch_up(PHONE), lambda house: house.send()),
    Rest.TOLD: (told_to_the_end, lambda house: house.hello(PHONE)),
    Rest.MUTED: (does_not_want_it, lambda house: house.inbox.set_preferences(ANN, None)),
    Rest.NO_ADDRESS: (
        loses_its_address,
        lambda house: house.inbox.replace_addresses(house.key(PHONE), [address("t2")]),
    ),
    Rest.ACCOUNT_PARKED: (is_parked, is_mended),
    Rest.QUARANTINED: (is_broken, is_put_right),
    Rest.GONE: (lambda house: house.inbox.sign_out(house.key(PHONE)), everything_again),
}


def test_every_reason_has_a_row() -> None:
    assert set(ROWS) == set(Rest)


@pytest.mark.parametrize("reason", Rest)
async def test_i25_what_ends_the_reason_makes_the_push_due(engine: Engine, clock: Any, reason: Rest) -> None:
    house = await House(engine, clock).begin()
    await house.register(PHONE, "t1")
    await house.hello(PHONE)
    await house.bye(PHONE)
    rests, wakes = ROWS[reason]
    await rests(house)
    job = await house.job(PHONE)
    assert (job.due_ms, job.reason) == (None, reason)
    await wakes(house)
    due_ms = (await house.job(PHONE)).due_ms
    assert due_ms is not None
    house.clock.ms = max(house.clock.ms, due_ms) + 1000
    assert [attempt.device for attempt in await house.plan()] == [house.key(PHONE)]
