"""Pushes that say the same share a call: who meets whom, and what each of them is told."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from clocks import SetClock

from providers.app_message import once_key
from providers.contract import Capabilities, Outcome, Push, Scope, Verdict
from relay.model import Address, DeviceKey, Notification
from relay.push.accounts import Account, Accounts
from relay.push.attempts import Attempt
from relay.push.calls import Calls
from relay.push.limits import Bucket
from relay.push.notes import Form, Note
from relay.push.planner import Send
from relay.push.together import Together

PUSH = Push(id="m1", token="t0", title="Ann", body="hi")
ACCEPTED = Outcome(verdict=Verdict.ACCEPTED)
DEAD = Outcome(verdict=Verdict.TOKEN_DEAD)


class Vendor:
    """Takes three tokens a call, and answers each by what it was scripted."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=60, batch_max=3)

    def __init__(self, **answers: Outcome | Exception) -> None:
        self.answers = answers
        self.calls: list[list[str]] = []
        self.pushes: list[Push] = []
        self.hangs: asyncio.Event | None = None
        self.began, self.cut_off = asyncio.Event(), asyncio.Event()

    async def send(self, push: Push) -> Outcome:
        return (await self._answered([push]))[0]

    async def send_many(self, pushes: Sequence[Push]) -> list[Outcome]:
        assert len(pushes) > 1, "one alone goes as it always did"
        return await self._answered(pushes)

    async def _answered(self, pushes: Sequence[Push]) -> list[Outcome]:
        self.calls.append([push.token for push in pushes])
        self.pushes += pushes
        self.began.set()
        if self.hangs is not None:
            try:
                await self.hangs.wait()
            except asyncio.CancelledError:
                self.cut_off.set()
                raise
        found = [self.answers.get(push.token, ACCEPTED) for push in pushes]
        for one in found:
            if isinstance(one, Exception):
                raise one
        return [one for one in found if isinstance(one, Outcome)]


def pushes(*tokens: str) -> list[Push]:
    return [replace(PUSH, token=token) for token in tokens]


async def sent(vendor: Vendor, some: Sequence[Push]) -> list[Outcome | BaseException]:
    together = Together(vendor)  # type: ignore[arg-type]
    return await asyncio.gather(*(together.send(push) for push in some), return_exceptions=True)


async def test_what_is_asked_for_at_once_and_says_the_same_shares_calls_as_large_as_the_vendor_takes() -> None:
    vendor = Vendor(t2=DEAD)
    found = await sent(vendor, [*pushes("t1", "t2", "t3", "t4"), replace(PUSH, token="t5", body="else")])
    assert vendor.calls == [["t1", "t2", "t3"], ["t4"], ["t5"]]
    assert found == [ACCEPTED, DEAD, ACCEPTED, ACCEPTED, ACCEPTED], "to each its own"


@pytest.mark.parametrize(("of_the_account", "calls"), [(2, [2, 2, 1]), (4, [4, 1])])
async def test_an_account_s_own_number_counts_whether_smaller_or_larger_than_its_vendor_s(
    of_the_account: int, calls: list[int]
) -> None:
    vendor = Vendor()
    vendor.batch_max = of_the_account  # type: ignore[attr-defined]
    await sent(vendor, pushes("t1", "t2", "t3", "t4", "t5"))
    # One alone is no batch: it is sent by itself.
    assert [len(call) for call in vendor.calls] == calls


async def test_an_adapter_that_raises_does_so_to_those_of_its_call_alone() -> None:
    vendor = Vendor(t1=ValueError("broke"))
    found = await sent(vendor, pushes("t1", "t2", "t3", "t4"))
    assert [type(one) for one in found] == [ValueError, ValueError, ValueError, Outcome]


async def test_who_waits_no_longer_ends_no_call_that_others_wait_for() -> None:
    vendor = Vendor()
    vendor.hangs = asyncio.Event()
    together = Together(vendor)  # type: ignore[arg-type]
    first, second = (asyncio.ensure_future(together.send(push)) for push in pushes("t1", "t2"))
    await vendor.began.wait()
    first.cancel()
    vendor.hangs.set()
    assert await second == ACCEPTED
    assert not vendor.cut_off.is_set()


async def test_a_call_that_nobody_waits_for_ends() -> None:
    vendor = Vendor()
    vendor.hangs = asyncio.Event()
    together = Together(vendor)  # type: ignore[arg-type]
    waiting = [asyncio.ensure_future(together.send(push)) for push in pushes("t1", "t2")]
    await vendor.began.wait()
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await vendor.cut_off.wait()


async def test_who_gave_up_before_the_call_is_not_in_it() -> None:
    vendor = Vendor()
    together = Together(vendor)  # type: ignore[arg-type]
    waiting = [asyncio.ensure_future(together.send(push)) for push in pushes("t1", "t2", "t3")]
    asyncio.get_running_loop().call_soon(waiting[0].cancel)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert vendor.calls == [["t2", "t3"]]


@pytest.mark.parametrize(
    "failure",
    [
        Outcome(verdict=Verdict.RETRY, vendor_code="status_503"),
        Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=9),
    ],
)
async def test_a_call_that_failed_for_all_of_its_devices_is_one_failure_of_the_vendors(failure: Outcome) -> None:
    """Else one bad answer to a large call would open the circuit, as twenty bad answers do."""
    vendor = Vendor(t1=failure, t2=failure, t3=failure)
    found = await sent(vendor, pushes("t1", "t2", "t3"))
    assert found == [failure] * 3
    account = Account(app_id="a", name="v", provider=vendor, bucket=Bucket(9, 9))  # type: ignore[arg-type]
    for at_ms in range(30):
        account.started(at_ms, calls=1, retry=False)
        account.ended(at_ms, found[1])  # type: ignore[arg-type]
    assert account.view(30, 0).ill_for_ms == 0
    assert account.in_flight == 0


async def test_what_a_process_did_not_outlive_goes_alone_and_is_known_as_a_repeat() -> None:
    """The vendor may have had it from the call that it shared: one that drops repeats must not show it twice."""
    vendor = Vendor()
    account = Account(app_id="a", name="v", provider=vendor, bucket=Bucket(9, 9), together=Together(vendor))  # type: ignore[arg-type]
    clock = SetClock()
    calls = Calls(clock, random.Random(1), Accounts([account]), open_token=lambda _, sealed: sealed.decode())
    phone = Address(
        preference=0,
        account="v",
        kind="token",
        token_sealed=b"t1",
        token_hash=b"h",
        registered_ms=0,
        state="active",
        shared=0,
    )
    words = Notification(title="Ann", body="hi")
    note = Note(push_id="m1", collapse_key="m1", shows=words, urgent=True, ttl_s=60, ids=("m1",), count=1)
    for lost in (0, 1):
        attempt = Attempt(
            device=DeviceKey("a", "ann", "phone"),
            epoch="e" * 32,
            head_seq=1,
            token=1,
            knock=False,
            tries=0,
            retry=False,
            lost=lost,
            started_ms=0,
            claim_until_ms=0,
            send=Send(address=phone, notes=(note,), from_seq=1, upto_seq=1, form=Form.EACH),
            mended=0,
        )
        await calls.make(account, attempt, until_ms=clock.monotonic_ms() + 30_000)
    first, repeat = vendor.pushes
    assert once_key(first, now_s=900) == once_key(repeat, now_s=900)
