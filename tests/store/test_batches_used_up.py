"""A vendor that takes no more calls for many today is not asked again, neither by the next push nor after a restart."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from house import House

from providers.contract import Capabilities, Outcome, Push, Verdict
from relay.push.accounts import Account, Accounts
from relay.push.held import load_held
from relay.push.limits import Bucket
from relay.push.together import Together
from relay.push.worker import PushWorker
from relay.store.engine import Engine

DAY_S = 86_400


class Vendor:
    """Takes single pushes; the dispatcher is to stop when it was asked so often."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400, batch_max=10)

    def __init__(self, stop: asyncio.Event, asked: int) -> None:
        self.stop, self.asked = stop, asked
        self.calls: list[int] = []

    def _called(self, tokens: int) -> None:
        self.calls.append(tokens)
        self.asked -= tokens
        if self.asked == 0:
            self.stop.set()

    async def send(self, push: Push) -> Outcome:
        self._called(1)
        return Outcome(verdict=Verdict.ACCEPTED)

    async def send_many(self, pushes: Sequence[Push]) -> list[Outcome]:
        self._called(len(pushes))
        return [Outcome(verdict=Verdict.RETRY, batch_spent=True, vendor_code="used_up")] * len(pushes)


@pytest.fixture
async def shop(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    for user in ("ann", "bob"):
        await house.register(f"{user}/phone", f"token-{user}")
    return house


async def started(shop: House) -> list[int]:
    """A relay that starts, and tells two devices; gives for how many each of its calls was."""
    shop.clock.forward(s=60)
    stop = asyncio.Event()
    vendor = Vendor(stop, asked=2)
    account = Account(
        app_id="shop",
        name="v",
        provider=vendor,  # type: ignore[arg-type]
        bucket=Bucket(9, 9),
        together=Together(vendor),  # type: ignore[arg-type]
    )
    accounts = Accounts([account])
    await load_held(shop.engine, accounts)
    worker = PushWorker(
        shop.engine,
        shop.clock,
        shop.rng,
        accounts,
        lambda _: shop.policy,
        node_id="n1",
        open_token=lambda _, sealed: sealed.decode(),
    )
    await worker.run(stop)
    assert account.view(shop.clock.monotonic_ms(), shop.clock.now_ms()).ill_for_ms == 0
    return vendor.calls


async def test_calls_for_many_that_are_used_up_stay_so_until_the_vendor_s_day_ends(shop: House) -> None:
    await shop.send("ann", "bob")
    assert await started(shop) == [2]
    assert await started(shop) == [1, 1]
    await shop.send("ann", "bob")
    assert await started(shop) == [1, 1]
    shop.clock.forward(s=DAY_S)
    await shop.send("ann", "bob")
    assert await started(shop) == [2]
