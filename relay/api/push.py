"""Vendor accounts and dead pushes, for operators."""

from dataclasses import dataclass
from typing import Any

from relay.api.routes import Answer, Call
from relay.api.schemas.operation import RequeueBody
from relay.clock import rfc3339
from relay.push.desk import AccountStatus, PushDesk
from relay.store.dead import DeadPush


@dataclass(slots=True, kw_only=True)
class PushApi:
    """Handlers of the push routes."""

    desk: PushDesk

    async def accounts(self, call: Call) -> Answer:
        return Answer(200, {"accounts": [_account(one) for one in await self.desk.statuses(call.principal.app_id)]})

    async def unpark(self, call: Call) -> Answer:
        released = await self.desk.unpark(call.principal.app_id, call.path["account"])
        return Answer(200, {"released": released})

    async def dead(self, call: Call) -> Answer:
        query = call.query
        page = await self.desk.dead(call.principal.app_id, why=query.why, cursor=query.cursor, limit=query.limit)
        return Answer(200, {"pushes": [_dead(one) for one in page.pushes], "next": page.next})

    async def requeue(self, call: Call) -> Answer:
        body: RequeueBody = call.body
        device = None
        if body.user is not None and body.device is not None:
            device = (body.user, body.device)
        return Answer(200, {"requeued": await self.desk.requeue(call.principal.app_id, device=device, why=body.why)})


def _account(one: AccountStatus) -> dict[str, Any]:
    return {
        "name": one.name,
        "provider": one.provider,
        "state": one.state,
        "code": one.code,
        "until": _when(one.until_ms),
        "in_flight": one.in_flight,
        "rate_per_s": one.rate_per_s,
        "daily_quota": one.daily_quota,
        "sent_today": one.sent_today,
        "credential_expires": _when(one.credential_expires_ms),
    }


def _dead(one: DeadPush) -> dict[str, Any]:
    return {
        "user": one.user_id,
        "device": one.device_id,
        "why": one.why,
        "since": _when(one.since_ms),
        "account": one.account,
        "verdict": one.verdict,
        "code": one.vendor_code,
        "from": one.from_seq,
        "to": one.upto_seq,
    }


def _when(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
