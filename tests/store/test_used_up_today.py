"""What a vendor takes no more of today it is not asked for again, neither by the next push nor after a restart."""

import asyncio
import json
from collections.abc import Collection, Sequence
from datetime import UTC
from typing import Any

import pytest
from house import House

from providers.contract import Capabilities, Outcome, Push, Scope, Verdict
from relay.push.accounts import Account, Accounts
from relay.push.calendar import next_day_ms
from relay.push.desk import PushDesk
from relay.push.held import load_held
from relay.push.limits import Bucket
from relay.push.mending import resume
from relay.push.together import Together
from relay.store.engine import Engine
from relay.store.parked import mend_accounts

DAY_S = 86_400
CHANNELS = ("chat", "order", "news")


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
    stop = asyncio.Event()
    vendor = Vendor(stop, asked=2)
    account = account_of(vendor, together=Together(vendor))  # type: ignore[arg-type]
    await works(shop, account, stop)
    return vendor.calls


def account_of(vendor: Any, **more: Any) -> Account:
    return Account(app_id="shop", name="v", provider=vendor, bucket=Bucket(9, 9), **more)


async def works(shop: House, account: Account, stop: asyncio.Event) -> None:
    """A relay with this account, from its start until it is asked to stop."""
    shop.clock.forward(s=60)
    accounts = Accounts([account])
    await load_held(shop.engine, accounts)
    worker = shop.worker(accounts)
    await worker.run(stop)
    assert account.view(shop.clock.monotonic_ms(), shop.clock.now_ms()).ill_for_ms == 0


async def test_calls_for_many_that_are_used_up_stay_so_until_the_vendor_s_day_ends(shop: House) -> None:
    await shop.send("ann", "bob")
    assert await started(shop) == [2]
    assert await started(shop) == [1, 1]
    await shop.send("ann", "bob")
    assert await started(shop) == [1, 1]
    shop.clock.forward(s=DAY_S)
    await shop.send("ann", "bob")
    assert await started(shop) == [2]


class Orders:
    """A vendor that takes no more of the channel `order` today, and all else."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, stop: asyncio.Event, *, last: str, full: bool) -> None:
        self.stop, self.last, self.full = stop, last, full
        self.taken: list[str | None] = []

    async def send(self, push: Push) -> Outcome:
        if push.title == self.last:
            self.stop.set()
        if self.full and push.channel == "order":
            return Outcome(verdict=Verdict.RETRY, spent=True, vendor_code="used_up")
        self.taken.append(push.title)
        return Outcome(verdict=Verdict.ACCEPTED)


@pytest.mark.parametrize(
    ("titles", "last", "owed"),
    [
        (["chat 1", "order 2"], "order 2", ["order 2"]),
        (["chat 1", "order 2", "order 3"], "order 2", ["order 2", "order 3"]),
        (["order 1", "chat 2"], "chat 2", []),  # the newest went, and that brings the app to what is before it
        (["order 1", "chat 2", "order 3"], "chat 2", ["order 3"]),
    ],
)
async def test_what_met_a_used_up_quota_beside_others_is_told_when_there_is_a_new_one(
    shop: House, titles: list[str], last: str, owed: list[str]
) -> None:
    """`last`: what the vendor is asked for last, while the quota is used up."""
    for title in titles:
        await shop.send("ann", push=json.dumps({"title": title, "channel": title.split()[0]}))

    async def told(last: str, *, full: bool) -> list[str | None]:
        stop = asyncio.Event()
        vendor = Orders(stop, last=last, full=full)
        await works(shop, account_of(vendor), stop)
        return vendor.taken

    assert await told(last, full=True) == [title for title in titles if title.startswith("chat")]
    job = await shop.job("ann/phone")
    assert (job.reason == "knock") == (not owed)
    if owed:
        shop.clock.forward(s=DAY_S)
        assert await told(owed[-1], full=False) == owed


class Classes:
    """A vendor whose channels `chat`, `order` and the unnamed one share a quota, which is used up; `news` has its own."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    channels: Collection[str] | None = None

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop
        self.asked: list[str | None] = []

    async def send(self, push: Push) -> Outcome:
        self.asked.append(push.channel)
        if push.channel == "news":
            self.stop.set()
            return Outcome(verdict=Verdict.ACCEPTED)
        return Outcome(verdict=Verdict.RETRY, spent=True, channels=("chat", "order", None), vendor_code="10073")


async def test_channels_that_share_a_quota_are_used_up_together(shop: House) -> None:
    """One is asked for; the others are not, today; those of another quota go."""

    async def told(channels: dict[str, str]) -> list[str | None]:
        for user, push in channels.items():
            await shop.send(user, push=push)
            shop.clock.forward(s=1)  # who waits longest is called first
        stop = asyncio.Event()
        vendor = Classes(stop)
        await works(shop, account_of(vendor), stop)
        return vendor.asked

    chat, order, news = (json.dumps({"title": "t", "channel": channel}) for channel in CHANNELS)
    assert await told({"ann": chat, "bob": news}) == ["chat", "news"]
    assert await told({"ann": order, "bob": news}) == ["news"], "not asked again because of a restart"
    assert await told({"ann": '{"title":"t"}', "bob": news}) == ["news"]
    shop.clock.forward(s=DAY_S)
    assert sorted(await told({"bob": news})) == ["chat", "news"], "one try a day, though ann's phone lacks all three"


async def test_a_channel_that_the_account_does_not_set_up_is_used_up_with_the_unnamed_one(shop: House) -> None:
    """Vendor sheet vivo, §5: going on after 10073 costs the account's allowance, and each name would be one more call."""

    async def told(ann: str | None) -> list[str | None]:
        for user, channel in (("ann", ann), ("bob", "news")):
            await shop.send(user, push=json.dumps({"title": "t", "channel": channel}))
        stop = asyncio.Event()
        vendor = Classes(stop)
        vendor.channels = CHANNELS
        await works(shop, account_of(vendor), stop)
        return vendor.asked

    assert await told("summer") == ["summer", "news"]
    assert await told("winter") == ["news"]
    assert await told(None) == ["news"]


class Night:
    """A vendor that takes no advertising now. Whatever names no class is none, whichever channel it is of."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, stop: asyncio.Event, how: Outcome) -> None:
        self.stop, self.how = stop, how
        self.asked: list[str | None] = []
        self.offered = asyncio.Event()

    async def send(self, push: Push) -> Outcome:
        self.asked.append(push.title)
        (self.offered if push.overrides else self.stop).set()
        return self.how if push.overrides else Outcome(verdict=Verdict.ACCEPTED)


@pytest.mark.parametrize(
    "how",
    [
        Outcome(verdict=Verdict.RETRY, retry_after_s=3600, shut=True, vendor_code="closed_hours"),
        Outcome(verdict=Verdict.RETRY, spent=True, vendor_code="used_up"),
        Outcome(verdict=Verdict.MISCONFIGURED, vendor_code="unknown_class"),
    ],
    ids=["closed", "spent", "unknown"],
)
async def test_what_one_message_asks_for_in_the_vendors_own_words_holds_up_nobody_else(
    shop: House, how: Outcome
) -> None:
    """Vendor sheet vivo, §5, code 10071: one message of the class that waits for the morning; others of its channel go."""
    own = {"overrides": {"vendor": {"category": "MARKETING"}}}
    await shop.send("ann", push=json.dumps({"title": "offer", "channel": "chat", **own}))
    vendor = Night(stop := asyncio.Event(), how)
    async with asyncio.timeout(10):
        working = asyncio.create_task(works(shop, account_of(vendor), stop))
        await vendor.offered.wait()
        await shop.send("bob", push=json.dumps({"title": "chat", "channel": "chat"}))
        shop.clock.forward(s=60)
        await working
    assert vendor.asked == ["offer", "chat"]


class Behind:
    """A vendor to whom a call takes a second, and whose books of the day before are closed a little after midnight."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400, batch_max=10)

    def __init__(self, clock: Any, stop: asyncio.Event, said: Outcome, *, closes_ms: int) -> None:
        self.clock, self.stop, self.said, self.closes_ms = clock, stop, said, closes_ms
        self.refused = 0

    async def send(self, push: Push) -> Outcome:
        came_ms = self.clock.now_ms()
        self.clock.forward(s=1)
        if came_ms < self.closes_ms:
            self.refused += 1
            asyncio.get_running_loop().call_soon(self._later)
            return self.said
        self.stop.set()
        return Outcome(verdict=Verdict.ACCEPTED)

    def _later(self) -> None:
        """A while passes, once the answer is settled."""
        asyncio.get_running_loop().call_later(0.1, lambda: self.clock.forward(s=660))


@pytest.mark.parametrize("scope", [Scope.ACCOUNT, Scope.MESSAGE, Scope.TOKEN])
@pytest.mark.parametrize("asked_s", [-0.5, 0.5])
async def test_what_a_vendor_says_about_midnight_is_of_the_day_before(
    shop: House, scope: Scope, asked_s: float
) -> None:
    """Its answer comes after midnight, or its clock is behind ours: the day that has begun is not used up."""
    midnight_ms = next_day_ms(shop.clock.now_ms(), UTC)
    await shop.send("ann")
    shop.clock.forward(ms=midnight_ms + round(asked_s * 1000) - shop.clock.now_ms() - 60_000)
    said = Outcome(verdict=Verdict.RETRY, scope=scope, spent=True, vendor_code="used_up")
    vendor = Behind(shop.clock, asyncio.Event(), said, closes_ms=midnight_ms + max(0, round(asked_s * 2000)))
    async with asyncio.timeout(20):
        await works(shop, account_of(vendor), vendor.stop)
    assert vendor.refused == 1


class Unknown(Orders):
    """A vendor that does not know the channel `order`, until somebody sets it up there."""

    async def send(self, push: Push) -> Outcome:
        if self.full:
            return Outcome(verdict=Verdict.MISCONFIGURED, vendor_code="unknown_channel")
        return await super().send(push)


async def test_what_a_channel_waited_for_goes_when_its_operator_says_that_it_is_mended(shop: House) -> None:
    """It need not wait until the hour is over after which it is tried in any case (safety FLT-7)."""
    await shop.send("ann", push='{"title":"order 1","channel":"order"}')
    vendor = Unknown(asyncio.Event(), last="order 1", full=True)
    accounts = Accounts([account_of(vendor)])
    working = asyncio.create_task(works(shop, accounts.all()[0], vendor.stop))
    async with asyncio.timeout(20):
        while (await shop.job("ann/phone")).due_ms < shop.clock.now_ms() + 3_000_000:
            await shop.clock.sleep(0.01)
            shop.clock.forward(s=1)
        vendor.full = False
        desk = PushDesk(engine=shop.engine, clock=shop.clock, accounts=accounts, policy_of=lambda _: shop.policy)
        await desk.unpark("shop", "v")
        await working
    assert vendor.taken == ["order 1"]


class Refilled(Orders):
    """It says so of `order` once; then there is more."""

    async def send(self, push: Push) -> Outcome:
        outcome = await super().send(push)
        self.full = False
        return outcome


@pytest.mark.parametrize("how", ["unparked", "started"])
async def test_what_an_operator_says_to_one_node_counts_for_all(shop: House, how: str) -> None:
    """There is more of the day's quota: also what another node plans goes now. A node that only starts says no such thing."""
    await shop.send("ann", push='{"title":"order 1","channel":"order"}')
    vendor = Refilled(asyncio.Event(), last="none", full=True)
    working = asyncio.create_task(works(shop, account_of(vendor), vendor.stop))
    async with asyncio.timeout(20):
        while (await shop.job("ann/phone")).reason != "quota":
            await shop.clock.sleep(0.01)
            shop.clock.forward(s=1)
        if how == "unparked":
            accounts = Accounts([account_of(vendor)])
            desk = PushDesk(engine=shop.engine, clock=shop.clock, accounts=accounts, policy_of=lambda _: shop.policy)
            await desk.unpark("shop", "v")
        else:
            await shop.engine.write(lambda conn, _: mend_accounts(conn, "shop", ["v"]))
            await resume(shop.engine)
        while (await shop.job("ann/phone")).reason != {"unparked": "knock", "started": "quota"}[how]:
            await shop.clock.sleep(0.01)
    assert vendor.taken == (["order 1"] if how == "unparked" else [])
    vendor.stop.set()
    await working
