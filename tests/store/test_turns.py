"""What waits for one vendor, or hangs there, holds nothing up that goes to the others."""

import asyncio
from typing import Any

import pytest
from house import House, address
from msgspec.structs import replace

from providers.contract import Capabilities, Outcome, Push, Verdict
from relay.inbox.push_due import Later
from relay.push import worker
from relay.push.accounts import Account, Accounts, Terms
from relay.push.desk import PushDesk
from relay.push.limits import CALLS_MIN, PROBE_MS, Bucket
from relay.push.situation import Wait
from relay.push.worker import PushWorker
from relay.store.engine import Engine

USERS = ("ann", "bob", "cleo", "dan")


class Vendor:
    """Takes the push of the one who waits longest, and then the relay is to stop."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop

    async def send(self, push: Push) -> Outcome:
        self.stop.set()
        return Outcome(verdict=Verdict.ACCEPTED)


def dispatcher(house: House, *accounts: Account) -> PushWorker:
    return house.worker(Accounts(accounts), drain_s=0)


async def test_devices_of_a_vendor_that_is_away_have_their_turns_one_after_the_other(
    engine: Engine, clock: Any
) -> None:
    house = await House(engine, clock).begin()
    stop = asyncio.Event()
    away = Account(app_id="shop", name="v", provider=Vendor(stop), bucket=Bucket(2, 2))  # type: ignore[arg-type]
    well = Account(app_id="shop", name="w", provider=Vendor(stop), bucket=Bucket(9, 9))  # type: ignore[arg-type]
    for user in USERS:
        await house.register(f"{user}/phone", f"token-{user}")
    await house.register("zoe/phone")
    await house.inbox.replace_addresses(house.key("zoe/phone"), [address("token-zoe", account="w")])
    await house.send(*USERS)
    await house.send("zoe")
    house.clock.forward(s=60)
    now_ms = house.clock.now_ms()
    for _ in range(CALLS_MIN):
        away.circuit.failed(now_ms)

    await dispatcher(house, away, well).run(stop)

    jobs = [await house.job(f"{user}/phone") for user in USERS]
    assert {job.reason for job in jobs} == {Later.CIRCUIT}
    dues = sorted(job.due_ms - now_ms for job in jobs)
    assert dues == [PROBE_MS, PROBE_MS + 500, PROBE_MS + 1_000, PROBE_MS + 1_500], "at two a second, the account's rate"


async def test_of_what_an_account_can_take_now_whoever_waits_longest_has_it(engine: Engine, clock: Any) -> None:
    """Whatever their names are: who comes last in them would else find nothing left again and again."""
    house = await House(engine, clock).begin()
    for user in USERS:
        await house.register(f"{user}/phone", f"token-{user}")
    for user in reversed(USERS):
        await house.send(user)
        house.clock.forward(s=1)
    house.clock.forward(s=60)
    house.views = {"v": replace(house.views["v"], free=2)}
    assert [attempt.device.user_id for attempt in await house.plan()] == ["dan", "cleo"]


@pytest.mark.parametrize("urgent", [False, True])
async def test_whoever_is_hurried_as_an_account_is_mended_finds_no_turns_taken(
    engine: Engine, clock: Any, urgent: bool
) -> None:
    """Those who had them are due now, also at the app's other accounts."""
    house = await House(engine, clock).begin()
    now_ms = house.clock.now_ms()
    wait = Wait(at_ms=now_ms, reason=Later.RATE, urgent=urgent)
    vendor: Any = Vendor(asyncio.Event())
    accounts = Accounts(Account(app_id="shop", name=name, provider=vendor, bucket=Bucket(1, 1)) for name in "vw")
    for name in "vw" * 20:
        accounts.turn("shop", name, wait)
    desk = PushDesk(engine=house.engine, clock=house.clock, accounts=accounts, policy_of=lambda _: house.policy)
    await desk.unpark("shop", "v")
    assert [accounts.turn("shop", name, wait) for name in "vw"] == [now_ms, now_ms]


class Hanging(Vendor):
    """Answers nobody."""

    async def send(self, push: Push) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError


async def test_calls_that_hang_at_many_vendors_leave_the_others_their_places(
    engine: Engine, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "IN_FLIGHT_MAX", 2)
    house = await House(engine, clock).begin()
    stop = asyncio.Event()
    accounts = []
    for name, vendor in (("v", Hanging(stop)), ("w", Hanging(stop)), ("x", Vendor(stop))):
        one: Any = vendor
        accounts.append(
            Account(app_id="shop", name=name, provider=one, bucket=Bucket(9, 9), terms=Terms(concurrency=1))
        )
        await house.register(f"user-{name}/phone")
        phone = house.key(f"user-{name}/phone")
        await house.inbox.replace_addresses(phone, [address(f"token-{name}", account=name)])
        await house.send(f"user-{name}")
        house.clock.forward(s=1)
    house.clock.forward(s=60)

    async with asyncio.timeout(10):
        await dispatcher(house, *accounts).run(stop)  # ends when the third vendor is called
