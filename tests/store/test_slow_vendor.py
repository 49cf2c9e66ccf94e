"""An attempt's calls end before its claim does (protocol 7.3): whoever takes the job then makes none beside them."""

import asyncio
import json
from collections import Counter
from typing import Any

import law
from house import House
from sqlalchemy import select

from providers.contract import Capabilities, Outcome, Push, Verdict
from relay.inbox.escalation import Step, to_store
from relay.model import Policy
from relay.push.accounts import Account, Accounts, Terms
from relay.push.escalating import escalate
from relay.push.limits import Bucket
from relay.push.rules import CALL_S
from relay.store.engine import Engine
from relay.store.schema.push import push_attempt

MANY = 20


class Slow:
    """A vendor that takes so long for each push, and takes all of them."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, clock: Any, stop: asyncio.Event, *, upto: int, most: int, takes_s: int = 2) -> None:
        self.clock, self.stop, self.upto, self.most, self.takes_s = clock, stop, upto, most, takes_s
        self.shown: Counter[str | None] = Counter()

    async def send(self, push: Push) -> Outcome:
        self.clock.forward(s=self.takes_s)
        await self.clock.sleep(0.02)
        self.shown[push.title] += 1
        if len(self.shown) == self.upto or self.shown.total() == self.most:
            self.stop.set()
        return Outcome(verdict=Verdict.ACCEPTED)


async def works(
    house: House, vendor: Any, open_token: Any = lambda _, sealed: sealed.decode(), *, terms: Terms | None = None
) -> None:
    account = Account(app_id="shop", name="v", provider=vendor, bucket=Bucket(99, 99), terms=terms or Terms())
    await house.worker(Accounts([account]), open_token=open_token, poll_s=0.001).run(vendor.stop)


async def owed(engine: Engine, clock: Any, titles: list[str]) -> House:
    """A phone that is to be told of these, each by itself."""
    house = await House(engine, clock, policy=Policy(separate_max=MANY)).begin()
    await house.register("ann/phone", "token")
    for title in titles:
        await house.send(push=json.dumps({"title": title}))
    clock.forward(s=60)
    return house


async def test_more_than_can_be_called_under_one_claim_is_told_under_the_next(engine: Engine, clock: Any) -> None:
    titles = [f"message {n}" for n in range(MANY)]
    house = await owed(engine, clock, titles)
    vendor = Slow(clock, asyncio.Event(), upto=MANY, most=3 * MANY)
    await works(house, vendor)
    assert vendor.shown == Counter(titles), "each once"
    assert (await house.device("ann/phone")).pushed_seq == MANY


async def test_what_is_not_called_under_a_claim_is_not_counted_against_the_quota_of_the_day(
    engine: Engine, clock: Any
) -> None:
    house = await owed(engine, clock, [f"message {n}" for n in range(MANY)])
    vendor = Slow(clock, asyncio.Event(), upto=MANY, most=3 * MANY)
    async with asyncio.timeout(10):
        await works(house, vendor, terms=Terms(daily_quota=MANY))
    assert vendor.shown.total() == MANY
    assert [row["sent"] for row in await house.rows("SELECT sent FROM account_day")] == [MANY]


async def test_no_call_is_begun_that_the_end_of_the_claim_would_cut_short(engine: Engine, clock: Any) -> None:
    """Of three that take nine seconds each the third had seven: nobody knew what became of it, and all went again."""
    titles = ["one", "two", "three"]
    house = await owed(engine, clock, titles)
    vendor = Slow(clock, asyncio.Event(), upto=3, most=9, takes_s=9)
    await works(house, vendor)
    assert vendor.shown == Counter(titles)
    assert (await house.device("ann/phone")).pushed_seq == 3
    spans = select(push_attempt.c.ended_ms - push_attempt.c.started_ms, push_attempt.c.verdict)
    ends = await engine.read(lambda conn, _: list(conn.execute(spans).all()))
    assert [verdict for _, verdict in ends] == ["accepted"] * 3
    assert all(took_ms + CALL_S * 1000 <= house.policy.claim_ms for took_ms, _ in ends), "another has had its time"


async def test_what_comes_to_its_call_when_the_claim_is_over_is_not_called(engine: Engine, clock: Any) -> None:
    """As in a process that was stopped in between: another one may have pushed it meanwhile."""
    house = await owed(engine, clock, ["message"])
    stops = iter([60])

    def open_token(_: Any, sealed: bytes) -> str:
        clock.forward(s=next(stops, 0))
        return sealed.decode()

    await works(house, Slow(clock, asyncio.Event(), upto=1, most=2), open_token)
    ends = select(push_attempt.c.verdict).order_by(push_attempt.c.claim_token)
    assert await engine.read(lambda conn, _: list(conn.execute(ends).scalars())) == ["cut_off", "accepted"]


async def test_what_of_a_step_is_not_called_under_its_claim_is_pushed_under_the_next(
    engine: Engine, clock: Any
) -> None:
    """It was made again from its first notification, each time, and came to its last at no vendor that takes so long."""
    house = await owed(engine, clock, [])
    titles = ["one", "two", "three"]
    for title in titles:
        await house.send(push=json.dumps({"title": title}), escalate=to_store((Step(60, "next_address"),)))
    clock.forward(s=1)
    await house.told()
    clock.forward(s=60)
    await engine.write(lambda conn, now_ms: escalate(conn, now_ms, lambda _: house.policy))
    vendor = Slow(clock, asyncio.Event(), upto=3, most=9, takes_s=13)
    async with asyncio.timeout(10):
        await works(house, vendor)
    assert vendor.shown == Counter(titles), "each once"
    forms = select(push_attempt.c.form).order_by(push_attempt.c.claim_token)
    assert await engine.read(lambda conn, _: list(conn.execute(forms).scalars())) == ["each", *["repeat"] * 3]
    job = await house.job("ann/phone")
    assert (job.escalate_seq, job.reason) == (0, "told")
    await house.checked(law.everything(house.app, house.policy))
