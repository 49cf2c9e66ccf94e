"""An address that keeps failing is judged by itself: the count stands in the store, and a push that is taken clears it."""

import asyncio
from typing import Any

import pytest
from house import House, address

from providers.contract import Capabilities, Outcome, Push, Scope, Verdict
from relay.inbox.addresses import AddressState
from relay.push.accounts import Account, Accounts
from relay.push.hosts import PerHost
from relay.push.limits import BRAKE_DEAD_MIN, Bucket
from relay.push.rules import Then
from relay.store.engine import Engine

BLOCKED: dict[str, Any] = {"scope": Scope.TOKEN, "dead_after_s": 86_400.0, "vendor_code": "status_403"}
HOUR_MS = 3_600_000


@pytest.fixture
async def shop(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t1")
    await house.send("ann", ttl_s=604_800)
    return house


async def attempted(house: House, clock: Any, verdict: Verdict, *, spare: bool = False, **more: Any) -> Any:
    clock.forward(ms=6 * HOUR_MS)
    (attempt,) = await house.plan()
    return await house.settle(attempt, verdict, spare=spare, **more)


async def counted(house: House) -> list[tuple[int, bool, str]]:
    rows = await house.rows("SELECT failures, failing_since_ms, state FROM address")
    return [(row["failures"], row["failing_since_ms"] is not None, row["state"]) for row in rows]


async def test_after_its_time_it_is_dead_and_the_backend_is_told(shop: House, clock: Any) -> None:
    for times in range(1, 5):
        assert await attempted(shop, clock, Verdict.MISCONFIGURED, **BLOCKED) is Then.AGAIN
        assert await counted(shop) == [(times, True, "active")]
    assert await attempted(shop, clock, Verdict.MISCONFIGURED, **BLOCKED) is Then.NEXT_ADDRESS
    assert [state for _, _, state in await counted(shop)] == ["dead"]
    assert (await shop.job("ann/phone")).reason == "no_address"
    told = [data for kind, data in await shop.events() if kind == "device.token_invalid"]
    assert [data["code"] for data in told] == ["status_403"]


async def test_the_device_s_next_address_has_it_then(shop: House, clock: Any) -> None:
    await shop.inbox.replace_addresses(shop.key("ann/phone"), [address("t1"), address("t2")])
    for _ in range(5):
        await attempted(shop, clock, Verdict.RETRY, **BLOCKED)
    clock.forward(s=5)
    (attempt,) = await shop.plan()
    assert attempt.send.address.token_hash == address("t2").token_hash


async def test_a_push_that_is_taken_clears_the_count(shop: House, clock: Any) -> None:
    await attempted(shop, clock, Verdict.RETRY, **BLOCKED)
    assert await attempted(shop, clock, Verdict.ACCEPTED) is Then.TOLD
    assert await counted(shop) == [(0, False, "active")]


async def test_a_new_registration_counts_from_nothing(shop: House, clock: Any) -> None:
    await attempted(shop, clock, Verdict.RETRY, **BLOCKED)
    await shop.inbox.replace_addresses(shop.key("ann/phone"), [address("t1")])
    assert await counted(shop) == [(0, False, "active")]


async def test_a_device_hears_at_its_next_contact_since_when_its_address_fails(shop: House, clock: Any) -> None:
    """Sheet unifiedpush §5, 401 and 403: "tell client". Who brings the address again hears it once more, and begins anew."""
    await attempted(shop, clock, Verdict.MISCONFIGURED, **BLOCKED)
    failing = (AddressState("v", "active", clock.now_ms()),)
    clock.forward(ms=HOUR_MS)
    assert (await shop.hello("ann/phone")).addresses == failing
    assert (await shop.hello("ann/phone")).addresses == failing
    assert await shop.inbox.replace_addresses(shop.key("ann/phone"), [address("t1")]) == failing
    assert (await shop.hello("ann/phone")).addresses == (AddressState("v", "active"),)

    await attempted(shop, clock, Verdict.MISCONFIGURED, **BLOCKED)
    (one,) = (await shop.hello("ann/phone", addresses=(address("t1"),))).addresses
    assert one.failing_since_ms == clock.now_ms()
    (other,) = (await shop.hello("ann/phone", addresses=(address("t2"),))).addresses
    assert other.failing_since_ms is None, "another endpoint has failed nothing"


async def test_what_says_nothing_of_the_address_is_not_counted(shop: House, clock: Any) -> None:
    for _ in range(6):
        assert await attempted(shop, clock, Verdict.RETRY, vendor_code="status_503") is Then.AGAIN
    assert await counted(shop) == [(0, False, "active")]


async def test_while_too_many_die_it_is_kept(shop: House, clock: Any) -> None:
    for _ in range(6):
        await attempted(shop, clock, Verdict.RETRY, spare=True, **BLOCKED)
    assert await counted(shop) == [(6, True, "active")]


class Gone:
    """A vendor that calls this device dead; after the first the dispatcher is to stop."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400, own_hosts=True)

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop

    def host(self, token: str) -> str:
        return f"{token}.example"

    async def send(self, push: Push) -> Outcome:
        self.stop.set()
        return Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN, vendor_code="status_404")


@pytest.mark.parametrize(("ill", "state"), [("t1.example", "active"), ("t2.example", "dead")])
async def test_a_device_of_a_host_that_calls_many_dead_is_kept(shop: House, clock: Any, ill: str, state: str) -> None:
    """Sheet webpush §6.3: a burst of 410 from one host; it is few of all that the account sends."""
    clock.forward(s=5)
    stop = asyncio.Event()
    account = Account(
        app_id="shop",
        name="v",
        provider=Gone(stop),  # type: ignore[arg-type]
        bucket=Bucket(9, 9),
        hosts=PerHost(None, clock, strangers_max=1),  # type: ignore[arg-type] - no call is made
    )
    for _ in range(100 * BRAKE_DEAD_MIN):
        account.brake.told(clock.monotonic_ms(), dead=False)
    for _ in range(BRAKE_DEAD_MIN - 1):
        account.brake.told(clock.monotonic_ms(), dead=True, host=ill)
    await shop.worker(Accounts([account])).run(stop)
    assert [one for _, _, one in await counted(shop)] == [state]


class Forbidding:
    """A vendor that will not have this device's pushes; after the first the dispatcher is to stop."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop

    async def send(self, push: Push) -> Outcome:
        self.stop.set()
        return Outcome(verdict=Verdict.MISCONFIGURED, **BLOCKED)


async def test_the_brake_on_dead_tokens_hears_of_it(shop: House, clock: Any) -> None:
    for _ in range(4):
        await attempted(shop, clock, Verdict.MISCONFIGURED, **BLOCKED)
    clock.forward(ms=6 * HOUR_MS)
    stop = asyncio.Event()
    account = Account(app_id="shop", name="v", provider=Forbidding(stop), bucket=Bucket(9, 9))  # type: ignore[arg-type]
    account.brake.told(clock.monotonic_ms(), dead=False)
    for _ in range(BRAKE_DEAD_MIN - 1):
        account.brake.told(clock.monotonic_ms(), dead=True)
    await shop.worker(Accounts([account])).run(stop)
    assert [state for _, _, state in await counted(shop)] == ["dead"]
    assert account.brake.holds(clock.monotonic_ms())
