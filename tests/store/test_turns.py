"""All that waits for one vendor is not planned again together, which would hold up what goes to the others."""

import asyncio
from typing import Any

from house import House, address

from providers.contract import Capabilities, Outcome, Push, Verdict
from relay.inbox.push_due import Later
from relay.push.accounts import Account, Accounts
from relay.push.limits import CALLS_MIN, PROBE_MS, Bucket
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

    await PushWorker(
        engine,
        house.clock,
        house.rng,
        Accounts([away, well]),
        lambda _: house.policy,
        node_id="n1",
        open_token=lambda _, sealed: sealed.decode(),
    ).run(stop)

    jobs = [await house.job(f"{user}/phone") for user in USERS]
    assert {job.reason for job in jobs} == {Later.CIRCUIT}
    dues = sorted(job.due_ms - now_ms for job in jobs)
    assert dues == [PROBE_MS, PROBE_MS + 500, PROBE_MS + 1_000, PROBE_MS + 1_500], "at two a second, the account's rate"
