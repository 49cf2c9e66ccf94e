"""Rows of deliveries: one for each event and endpoint that wants it, listed and sent again on demand."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, delete, select, tuple_, update

from relay.store.endpoints import DeliveryKey, EndpointKey
from relay.store.schema.webhooks import delivery, endpoint, event
from relay.store.sql import as_list, in_list, insert_missing, per_dialect

e, d, ev = endpoint.c, delivery.c, event.c


def new_delivery(key: DeliveryKey, now_ms: int) -> dict[str, Any]:
    """The row of a delivery that is due at once."""
    return {
        "app_id": key.app_id,
        "endpoint_id": key.endpoint_id,
        "event_id": key.event_id,
        "state": "waiting",
        "attempts": 0,
        "due_ms": now_ms,
        "claim": None,
        "claim_token": 0,
        "claim_until_ms": None,
        "last_result": None,
        "created_ms": now_ms,
        "updated_ms": now_ms,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How the telling of one event to one endpoint goes."""

    key: DeliveryKey
    type: str | None  # None: its event is past its keeping time
    sequence: int | None
    state: str
    attempts: int
    due_ms: int | None
    last_result: str | None
    created_ms: int
    updated_ms: int


def deliveries_of(conn: Connection, key: EndpointKey, *, before: tuple[int, str] | None, limit: int) -> list[Delivery]:
    """An endpoint's deliveries, newest first, from below `before` (created_ms, event_id)."""
    statement = (
        select(delivery, ev.type, ev.sequence)
        .select_from(
            delivery.outerjoin(event, and_(ev.app_id == d.app_id, ev.event_id == d.event_id)),
        )
        .where(d.app_id == key.app_id, d.endpoint_id == key.endpoint_id)
        .order_by(d.created_ms.desc(), d.event_id.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(tuple_(d.created_ms, d.event_id) < tuple_(*before))
    return [
        Delivery(
            key=DeliveryKey(row.app_id, row.endpoint_id, row.event_id),
            type=row.type,
            sequence=row.sequence,
            state=row.state,
            attempts=row.attempts,
            due_ms=row.due_ms,
            last_result=row.last_result,
            created_ms=row.created_ms,
            updated_ms=row.updated_ms,
        )
        for row in conn.execute(statement)
    ]


@per_dialect
def _numbered_among(sqlite: bool) -> Select[Any]:
    return select(ev.event_id).where(
        ev.app_id == bindparam("app"), in_list(ev.event_id, "ids", sqlite=sqlite), ev.sequence.is_not(None)
    )


def known_events(conn: Connection, app_id: str, event_ids: Collection[str]) -> set[str]:
    """Those of the ids that are numbered events of this app."""
    rows = conn.execute(_numbered_among(conn), {"app": app_id, "ids": as_list(conn, event_ids)})
    return {row.event_id for row in rows}


def events_between(
    conn: Connection, app_id: str, *, from_ms: int, to_ms: int, after: tuple[int, str] | None, limit: int
) -> list[tuple[int, str, str]]:
    """(created_ms, event_id, type) of numbered events made from `from_ms` to before `to_ms`, oldest first."""
    statement = (
        select(ev.created_ms, ev.event_id, ev.type)
        .where(ev.app_id == app_id, ev.created_ms >= from_ms, ev.created_ms < to_ms, ev.sequence.is_not(None))
        .order_by(ev.created_ms, ev.event_id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(ev.created_ms >= after[0], tuple_(ev.created_ms, ev.event_id) > tuple_(*after))
    return [(row.created_ms, row.event_id, row.type) for row in conn.execute(statement).all()]


@per_dialect
def _replay(sqlite: bool) -> Any:
    return (
        update(delivery)
        .where(
            d.app_id == bindparam("app"),
            d.endpoint_id == bindparam("endpoint"),
            in_list(d.event_id, "ids", sqlite=sqlite),
        )
        .values(state="waiting", attempts=0, due_ms=bindparam("now"), updated_ms=bindparam("now"))
    )


@per_dialect
def _delivered_among(sqlite: bool) -> Select[Any]:
    return select(d.event_id).where(
        d.app_id == bindparam("app"),
        d.endpoint_id == bindparam("endpoint"),
        in_list(d.event_id, "ids", sqlite=sqlite),
        d.state == "delivered",
    )


def replay(
    conn: Connection, now_ms: int, key: EndpointKey, event_ids: Collection[str], *, undelivered_only: bool = False
) -> int:
    """Begins these deliveries anew, all attempts before them; also those that never were. Gives how many.

    One that is under way right now stays with its worker, whose result then stands.

    Under the endpoint's lock (`get_endpoint(lock=True)`), so that it is not deleted meanwhile.
    """
    ids = set(event_ids)
    where = {"app": key.app_id, "endpoint": key.endpoint_id}
    if undelivered_only:
        done = conn.execute(_delivered_among(conn), where | {"ids": as_list(conn, ids)})
        ids -= {row.event_id for row in done}
    if ids:
        ordered = sorted(ids)
        insert_missing(conn, delivery, [new_delivery(DeliveryKey(*key, event_id), now_ms) for event_id in ordered])
        conn.execute(_replay(conn), where | {"ids": as_list(conn, ordered), "now": now_ms})
    return len(ids)


@per_dialect
def forget_deliveries(sqlite: bool) -> Any:
    return delete(delivery).where(
        d.app_id == bindparam("app"),
        in_list(d.endpoint_id, "endpoints", sqlite=sqlite),
        in_list(d.event_id, "ids", sqlite=sqlite),
    )


def sweep_deleted(conn: Connection, *, limit: int) -> int:
    """Removes deliveries of deleted endpoints, and such an endpoint with its last one. Gives how many rows went."""
    removed = 0
    gone = conn.execute(select(e.app_id, e.endpoint_id).where(e.state == "deleted").limit(limit)).all()
    for app_id, endpoint_id in gone:
        if removed >= limit:
            break
        here = and_(d.app_id == app_id, d.endpoint_id == endpoint_id)
        some = select(d.event_id).where(here).limit(limit - removed)
        ids = conn.execute(some).scalars().all()
        if ids:
            params = {"app": app_id, "endpoints": as_list(conn, [endpoint_id]), "ids": as_list(conn, ids)}
            conn.execute(forget_deliveries(conn), params)
            removed += len(ids)
        else:
            conn.execute(delete(endpoint).where(e.app_id == app_id, e.endpoint_id == endpoint_id, e.state == "deleted"))
            removed += 1
    return removed
