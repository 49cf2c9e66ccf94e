"""What a vendor has against an account stands in the log, once: not every operator has webhooks, or looks at metrics."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from house import House
from structlog.testing import capture_logs

from providers.contract import Capabilities, Outcome, Push, Scope, Verdict
from relay.push.accounts import Account, Accounts
from relay.push.limits import Bucket
from relay.store.engine import Engine

USERS = ("ann", "bob", "cem")
PARKED = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="InvalidProviderToken")
ONE_DEVICE = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code="THIRD_PARTY_AUTH_ERROR")
WAITS = Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=3600, alert=True, vendor_code="ntfy_42908")
DEAD = Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN, vendor_code="Unregistered")


class Vendor:
    """Has the same answer for all, which are asked for at once; then the dispatcher is to stop."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, outcome: Outcome, stop: asyncio.Event) -> None:
        self.outcome, self.stop, self.asked = outcome, stop, 0

    async def send(self, push: Push) -> Outcome:
        self.asked += 1
        if self.asked == len(USERS):
            self.stop.set()
        await self.stop.wait()
        return self.outcome


@pytest.fixture
async def said(engine: Engine, clock: Any) -> Callable[[Outcome], Any]:
    house = await House(engine, clock).begin()
    for user in USERS:
        await house.register(f"{user}/phone", f"token-{user}")
    await house.send(*USERS)
    clock.forward(s=60)

    async def lines(outcome: Outcome) -> list[tuple[str, str, str]]:
        """What the log says of the account when it gets this answer: level, event, code."""
        stop = asyncio.Event()
        account = Account(app_id="shop", name="v", provider=Vendor(outcome, stop), bucket=Bucket(9, 9))  # type: ignore[arg-type]
        worker = house.worker(Accounts([account]))
        with capture_logs() as told:
            await worker.run(stop)
        assert all(one["account"] == "v" for one in told)
        return [(one["log_level"], one["event"], one["code"]) for one in told if one["event"].startswith("account.")]

    return lines


async def test_an_account_that_is_parked(said: Callable[[Outcome], Any]) -> None:
    assert await said(PARKED) == [("error", "account.parked", "InvalidProviderToken")]


@pytest.mark.parametrize("outcome", [ONE_DEVICE, WAITS], ids=lambda one: one.vendor_code)
async def test_what_asks_for_a_mend_and_stops_less(said: Callable[[Outcome], Any], outcome: Outcome) -> None:
    assert await said(outcome) == [("warning", "account.impaired", outcome.vendor_code)]


async def test_what_is_no_operator_s_business(said: Callable[[Outcome], Any]) -> None:
    assert await said(DEAD) == []
