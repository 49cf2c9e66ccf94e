"""Credentials that end by themselves (certificates): told of days before, to the log, a gauge and the backend."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from relay.clock import Clock, rfc3339
from relay.push.accounts import Account, Accounts
from relay.store.engine import Conn, Engine
from relay.store.events import NewEvent, derived_id, emit

log = structlog.get_logger("relay.push")

DAY_MS = 86_400_000
TELL_DAYS = (30, 14, 7, 3, 1, 0)  # before the end


def stage(expires_ms: int, now_ms: int) -> int | None:
    """How many days before the end it is, as the last of TELL_DAYS that was passed; None while it is early."""
    left_ms = expires_ms - now_ms
    return next((days for days in reversed(TELL_DAYS) if left_ms <= days * DAY_MS), None)


def news(accounts: Iterable[Account], now_ms: int) -> list[NewEvent]:
    """Events about credentials that end soon. The same stage has the same event id, so it is told once."""
    events = []
    for account in accounts:
        expires_ms = account.credential_expires_ms
        days = None if expires_ms is None else stage(expires_ms, now_ms)
        if expires_ms is None or days is None:
            continue
        events.append(
            NewEvent(
                app_id=account.app_id,
                event_id=derived_id("evt_", "account.credential_expiring", account.name, expires_ms, days),
                type="account.credential_expiring",
                data={
                    "account": account.name,
                    "provider": account.provider.name,
                    "expires": rfc3339(expires_ms),
                    "days": days,
                    "at": rfc3339(now_ms),
                },
            )
        )
    return events


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryWatch:
    """The chore that looks; any number of nodes may do it."""

    engine: Engine
    clock: Clock
    accounts: Accounts

    async def look(self) -> None:
        events = news(self.accounts.all(), self.clock.now_ms())
        if not events:
            return
        for one in events:
            log.warning("account.credential_expiring", account=one.data["account"], expires=one.data["expires"])

        def work(conn: Conn, now_ms: int) -> None:
            emit(conn, now_ms, events)

        await self.engine.write(work)
