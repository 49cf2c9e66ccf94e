"""Calls to a vendor beside the queue: of the lowest priority, and made once."""

import asyncio
from collections.abc import Awaitable

import structlog

from providers.contract import Outcome
from relay.clock import Clock
from relay.push.accounts import Account
from relay.push.rules import BROKE, CALL_S, NO_ANSWER

log = structlog.get_logger("relay.push")


def has_room(account: Account, clock: Clock) -> bool:
    """Only where nothing else would have to wait."""
    now_ms = clock.now_ms()
    view = account.view(clock.monotonic_ms(), now_ms)
    return not view.parked and view.waits(now_ms) is None


async def called(account: Account, clock: Clock, call: Awaitable[Outcome]) -> Outcome:
    """What the vendor said, which the account learns from. Raises nothing that a network, a vendor or an adapter can do."""
    account.started(clock.monotonic_ms(), calls=1, retry=False)
    outcome = NO_ANSWER
    try:
        async with asyncio.timeout(CALL_S):
            outcome = await call
    except TimeoutError:
        pass
    except Exception:  # an adapter's mistake about one push must not end the worker for all others
        log.exception("push.broke", app=account.app_id, account=account.name)
        outcome = BROKE
    finally:
        account.ended(clock.monotonic_ms(), outcome)
    return outcome
