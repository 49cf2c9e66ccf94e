"""Calls to a vendor beside the queue: of the lowest priority, and made once."""

import asyncio
from collections.abc import Awaitable

from providers.contract import Outcome, Verdict
from relay.clock import Clock
from relay.push.accounts import Account

CALL_S = 20.0


def has_room(account: Account, clock: Clock) -> bool:
    """Only where nothing else would have to wait."""
    now_ms = clock.now_ms()
    view = account.view(clock.monotonic_ms(), now_ms)
    return not view.parked and view.waits(now_ms) is None


async def called(account: Account, clock: Clock, call: Awaitable[Outcome]) -> Outcome:
    """What the vendor said, which the account learns from."""
    account.started(clock.monotonic_ms(), calls=1, retry=False)
    outcome = Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code="no_answer")
    try:
        async with asyncio.timeout(CALL_S):
            outcome = await call
    except TimeoutError:
        pass
    finally:
        account.ended(clock.monotonic_ms(), outcome)
    return outcome
