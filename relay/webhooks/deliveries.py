"""What an endpoint was told, and telling it again, by the events or by a range of time."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from relay.errors import Conflict, Malformed
from relay.list_cursor import Name, Number, parsed, printed
from relay.store import deliveries as rows
from relay.store.deliveries import Delivery
from relay.store.endpoints import Endpoint, EndpointKey, get_endpoint
from relay.store.engine import Conn, Engine
from relay.webhooks import event_types
from relay.webhooks.asked import PAGE_DEFAULT, invalid, page_limit
from relay.webhooks.rules import EndpointState

REPLAY_IDS_MAX = 500
REPLAY_RANGE_MAX = 1000  # events of a range that one call replays


class DeliveryPlace(msgspec.Struct, frozen=True, tag="d", array_like=True):
    """After this row of a list of deliveries, which runs from the newest to the oldest."""

    endpoint_id: Name
    created_ms: Number
    event_id: Name


class ReplayPlace(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """After this event of a range that is replayed, which runs from the oldest to the newest."""

    endpoint_id: Name
    created_ms: Number
    event_id: Name


OfEndpoint = TypeVar("OfEndpoint", DeliveryPlace, ReplayPlace)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPage:
    """A page of deliveries, newest first."""

    deliveries: tuple[Delivery, ...]
    next: str | None  # None: that was the last one


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How many deliveries begin anew."""

    count: int
    next: str | None = None  # there is more in the range: call again with it


def enabled(endpoint: Endpoint) -> Endpoint:
    """The endpoint, which is told of events. Raises Conflict."""
    if endpoint.state == EndpointState.DISABLED:
        raise Conflict("The endpoint is disabled; enable it first.")
    return endpoint


async def page_of(
    engine: Engine, key: EndpointKey, *, cursor: str | None = None, limit: int = PAGE_DEFAULT
) -> DeliveryPage:
    """An endpoint's deliveries, newest first. Raises Missing, Malformed (invalid_cursor), Invalid."""
    page_limit(limit)
    place = _place(cursor, DeliveryPlace, key)
    before = None if place is None else (place.created_ms, place.event_id)

    def work(conn: Conn, _: int) -> list[Delivery]:
        get_endpoint(conn, key)
        return rows.deliveries_of(conn, key, before=before, limit=limit + 1)

    found = await engine.read(work)
    page = tuple(found[:limit])
    following = None
    if len(found) > limit:
        last = page[-1]
        following = printed(DeliveryPlace(key.endpoint_id, last.created_ms, last.key.event_id), app_id=key.app_id)
    return DeliveryPage(deliveries=page, next=following)


async def replay(engine: Engine, key: EndpointKey, event_ids: Collection[str]) -> Replayed:
    """Sends these events again, whatever their type, with a whole plan of attempts.

    Raises Invalid, Missing, Conflict.
    """
    ids = set(event_ids)
    if not 0 < len(ids) <= REPLAY_IDS_MAX:
        raise invalid("/events", "length", f"Name 1 to {REPLAY_IDS_MAX} events, or a range of time.")

    def work(conn: Conn, now_ms: int) -> int:
        enabled(get_endpoint(conn, key, lock=True))
        unknown = ids - rows.known_events(conn, key.app_id, ids)
        if unknown:
            raise invalid("/events", "unknown", "Some of these events do not exist, or not any more.")
        return rows.replay(conn, now_ms, key, ids)

    return Replayed(count=await engine.write(work))


async def replay_range(
    engine: Engine,
    key: EndpointKey,
    *,
    from_ms: int,
    to_ms: int,
    undelivered_only: bool = False,
    cursor: str | None = None,
) -> Replayed:
    """Sends again what the endpoint wants of the events made from `from_ms` to before `to_ms`.

    A call looks at a thousand events; go on with `next` and the same range while there is one. Raises as `replay`.
    """
    if from_ms >= to_ms:
        raise invalid("/until", "range", "The range ends after it begins.")
    place = _place(cursor, ReplayPlace, key)
    after = None if place is None else (place.created_ms, place.event_id)

    def work(conn: Conn, now_ms: int) -> Replayed:
        endpoint = enabled(get_endpoint(conn, key, lock=True))
        found = rows.events_between(conn, key.app_id, from_ms=from_ms, to_ms=to_ms, after=after, limit=REPLAY_RANGE_MAX)
        ids = [event_id for _, event_id, type_ in found if event_types.wants(endpoint.types, type_)]
        count = rows.replay(conn, now_ms, key, ids, undelivered_only=undelivered_only)
        following = None
        if len(found) == REPLAY_RANGE_MAX:
            created_ms, event_id, _ = found[-1]
            following = printed(ReplayPlace(key.endpoint_id, created_ms, event_id), app_id=key.app_id)
        return Replayed(count=count, next=following)

    return await engine.write(work)


def _place(cursor: str | None, kind: type[OfEndpoint], key: EndpointKey) -> OfEndpoint | None:
    """Where a list goes on, if it is this endpoint's. Raises Malformed."""
    if cursor is None:
        return None
    place = parsed(cursor, kind, app_id=key.app_id)
    if place.endpoint_id != key.endpoint_id:
        raise Malformed("This cursor is another endpoint's.", code="invalid_cursor")
    return place
