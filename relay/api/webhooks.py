"""Webhook endpoints, and the same events by pull."""

from dataclasses import dataclass
from typing import Any

from relay.api.routes import Answer, Call
from relay.api.schemas.webhooks import EndpointBody, EndpointChanges, ReplayBody, RotateBody
from relay.clock import from_rfc3339, rfc3339
from relay.errors import not_an_instant
from relay.store.deliveries import Delivery
from relay.store.endpoints import Endpoint
from relay.webhooks.service import Changes, WebhookService


@dataclass(slots=True, kw_only=True)
class WebhookApi:
    """Handlers of the webhook routes."""

    webhooks: WebhookService

    async def create(self, call: Call) -> Answer:
        body: EndpointBody = call.body
        made = await self.webhooks.create(
            call.principal.app_id,
            url=body.url,
            types=tuple(body.types),
            description=body.description,
            headers=body.headers,
        )
        return Answer(201, {**_endpoint(made.endpoint), "secret": made.secret, "warnings": list(made.warnings)})

    async def list(self, call: Call) -> Answer:
        return Answer(200, {"endpoints": [_endpoint(one) for one in await self.webhooks.list(call.principal.app_id)]})

    async def get(self, call: Call) -> Answer:
        return Answer(200, _endpoint(await self.webhooks.get(call.principal.app_id, call.path["endpoint"])))

    async def update(self, call: Call) -> Answer:
        body: EndpointChanges = call.body
        changes = Changes(
            url=body.url,
            types=None if body.types is None else tuple(body.types),
            description=body.description,
            headers=body.headers,
            enabled=body.enabled,
        )
        return Answer(200, _endpoint(await self.webhooks.update(call.principal.app_id, call.path["endpoint"], changes)))

    async def delete(self, call: Call) -> Answer:
        await self.webhooks.delete(call.principal.app_id, call.path["endpoint"])
        return Answer(204)

    async def test(self, call: Call) -> Answer:
        event_id = await self.webhooks.test(call.principal.app_id, call.path["endpoint"])
        return Answer(202, {"event": event_id})

    async def rotate(self, call: Call) -> Answer:
        body: RotateBody = call.body
        rotated = await self.webhooks.rotate(call.principal.app_id, call.path["endpoint"], keep_old_s=body.overlap_s)
        return Answer(200, {"secret": rotated.secret, "old_secret_until": rfc3339(rotated.old_secret_until_ms)})

    async def deliveries(self, call: Call) -> Answer:
        page = await self.webhooks.deliveries(
            call.principal.app_id, call.path["endpoint"], cursor=call.query.cursor, limit=call.query.limit
        )
        return Answer(200, {"deliveries": [_delivery(one) for one in page.deliveries], "next": page.next})

    async def replay(self, call: Call) -> Answer:
        body: ReplayBody = call.body
        app_id, endpoint = call.principal.app_id, call.path["endpoint"]
        if body.events is not None:
            replayed = await self.webhooks.replay(app_id, endpoint, body.events)
        else:
            assert body.since is not None
            assert body.until is not None
            replayed = await self.webhooks.replay_range(
                app_id,
                endpoint,
                from_ms=_instant(body.since, "/since"),
                to_ms=_instant(body.until, "/until"),
                undelivered_only=body.undelivered_only,
                cursor=body.cursor,
            )
        return Answer(202, {"count": replayed.count, "next": replayed.next})

    async def events(self, call: Call) -> Answer:
        query = call.query
        page = await self.webhooks.events(
            call.principal.app_id,
            cursor=query.cursor,
            limit=query.limit,
            types=tuple(query.types.split(",")) if query.types else ("*",),
        )
        events = [
            {
                "id": one.id,
                "type": one.type,
                "timestamp": rfc3339(one.created_ms),
                "sequence": one.sequence,
                "data": one.data,
            }
            for one in page.events
        ]
        return Answer(200, {"events": events, "cursor": page.cursor, "more": page.more})


def _instant(text: str, pointer: str) -> int:
    try:
        return from_rfc3339(text)
    except (ValueError, OverflowError):
        raise not_an_instant(pointer) from None


def _endpoint(one: Endpoint) -> dict[str, Any]:
    return {
        "id": one.key.endpoint_id,
        "url": one.url,
        "types": list(one.types),
        "description": one.description,
        "state": one.state,
        "failing_since": None if one.failing_since_ms is None else rfc3339(one.failing_since_ms),
        "created_at": rfc3339(one.created_ms),
    }


def _delivery(one: Delivery) -> dict[str, Any]:
    return {
        "event": one.key.event_id,
        "type": one.type,
        "sequence": one.sequence,
        "state": one.state,
        "attempts": one.attempts,
        "last_result": one.last_result,
        "next_attempt_at": None if one.due_ms is None else rfc3339(one.due_ms),
        "created_at": rfc3339(one.created_ms),
        "updated_at": rfc3339(one.updated_ms),
    }
