"""Several notifications of one attempt, of which the vendor takes the first: only the others are tried again (protocol 7.3)."""

import asyncio
import json
from typing import Any

import pytest
from house import House, address

from providers.contract import Capabilities, Outcome, Push, Scope, Verdict
from relay.inbox.registry import Registration
from relay.push.accounts import Account, Accounts, Terms
from relay.push.limits import Bucket
from relay.store.engine import Engine

LATER = Outcome(verdict=Verdict.RETRY, vendor_code="later")
TOO_MANY = Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=90.0, vendor_code="too_many")
NOT_HIM = Outcome(verdict=Verdict.RETRY, scope=Scope.TOKEN, retry_after_s=90.0, vendor_code="device_rate")


class Vendor:
    """Answers what comes after `first` so, once; all else it takes. `asked` is what it was asked for, in turn."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, stop: asyncio.Event, answer: Outcome | None, asked: list[tuple[str, str | None]]) -> None:
        self.stop, self.answer, self.asked = stop, answer, asked

    async def send(self, push: Push) -> Outcome:
        self.asked.append((push.token, push.title))
        if push.title != "first" and self.answer is not None:
            answer, self.answer = self.answer, None
            return answer
        if push.title == "third":
            self.stop.set()
        return Outcome(verdict=Verdict.ACCEPTED, vendor_id=f"id of {push.title}")


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """Ann's phone with the chain v, w, to which three messages go."""
    one = await House(engine, clock).begin()
    addresses = (address("t"), address("u", account="w"))
    await one.inbox.register(Registration(device=one.key("ann/phone"), addresses=addresses))
    for title in ("first", "second", "third"):
        await one.send(push=json.dumps({"title": title}))
    clock.forward(s=1)
    return one


async def asked(house: House, answer: Outcome) -> list[tuple[str, str | None]]:
    """What the vendors were asked for until all is told."""
    stop, calls = asyncio.Event(), []
    first, second = (
        Account(app_id="shop", name=name, provider=Vendor(stop, said, calls), bucket=Bucket(9, 9))  # type: ignore[arg-type]
        for name, said in (("v", answer), ("w", None))
    )
    working = asyncio.create_task(house.worker(Accounts([first, second]), poll_s=0.01).run(stop))
    async with asyncio.timeout(20):
        while not stop.is_set():
            await house.clock.sleep(0.01)
            job = await house.job("ann/phone")
            if job.claim is None and job.due_ms > house.clock.now_ms():  # no time passes while a vendor is asked
                house.clock.forward(s=1)
        await working
    return calls


@pytest.mark.parametrize(("answer", "then"), [(LATER, "t"), (TOO_MANY, "u"), (NOT_HIM, "u")])
async def test_what_the_vendor_has_taken_is_not_told_again_with_the_rest(
    house: House, answer: Outcome, then: str
) -> None:
    before_ms = house.clock.now_ms()
    calls = await asked(house, answer)
    assert calls == [("t", "first"), ("t", "second"), (then, "second"), (then, "third")]
    assert house.clock.now_ms() - before_ms < 60_000 or then == "t"
    assert (await house.device("ann/phone")).pushed_seq == 3
    told = await house.deliveries("delivery.pushed")
    assert len(told) == len(set(told)) == 3
    rows = await house.rows("SELECT verdict, vendor_id, from_seq, upto_seq FROM push_attempt ORDER BY claim_token")
    assert [(row["verdict"], row["vendor_id"], row["from_seq"]) for row in rows] == [
        ("accepted", "id of first", 1),
        ("accepted", "id of second", 2),
    ]


async def test_a_device_that_is_told_too_many_waits_for_as_long_as_its_vendor_said(house: House) -> None:
    await house.register("ann/phone", "t")
    before_ms = house.clock.now_ms()
    calls = await asked(house, NOT_HIM)
    assert calls == [("t", "first"), ("t", "second"), ("t", "second"), ("t", "third")]
    assert house.clock.now_ms() - before_ms >= 90_000


class Revoked(Vendor):
    """Does not know the credential any more; the new ones are taken up while it is asked."""

    accounts: Accounts
    new: Account

    async def send(self, push: Push) -> Outcome:
        self.accounts.exchange("shop", {"v": self.new}, [])
        return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="revoked")


async def test_calls_that_new_credentials_made_needless_count_for_no_quota(house: House) -> None:
    stop, calls = asyncio.Event(), []
    vendor = Revoked(stop, None, calls)
    old, vendor.new = (
        Account(app_id="shop", name="v", provider=one, bucket=Bucket(9, 9), terms=Terms(daily_quota=100))  # type: ignore[arg-type]
        for one in (vendor, Vendor(stop, None, calls))
    )
    vendor.accounts = Accounts([old])
    working = asyncio.create_task(house.worker(vendor.accounts, poll_s=0.01).run(stop))
    async with asyncio.timeout(20):
        while not stop.is_set():
            await house.clock.sleep(0.01)
            if (await house.job("ann/phone")).claim is None:
                house.clock.forward(s=1)
        await working
    (row,) = await house.rows("SELECT sent FROM account_day")
    assert (row["sent"], len(calls)) == (1 + 3, 3)
