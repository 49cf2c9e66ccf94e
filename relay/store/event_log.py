"""Numbered events as a backend pulls them, and how long they are kept."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, Connection, Select, bindparam, delete, select

from relay.store.deliveries import forget_deliveries
from relay.store.endpoints import LIVE
from relay.store.schema.apps import app
from relay.store.schema.itself import store_meta
from relay.store.schema.webhooks import delivery, endpoint, event
from relay.store.sql import as_list, in_list, per_dialect

a, e, d, ev = app.c, endpoint.c, delivery.c, event.c

EVENTS_KEEP_MS = 30 * 86_400_000
SCAN_MAX = 5000  # numbers that one page of events looks at when it is filtered by type


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A numbered event. `data` is JSON."""

    event_id: str
    sequence: int
    type: str
    data: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """A page of events: all of the wanted types with numbers up to `upto_seq`."""

    epoch: str
    rows: tuple[Event, ...]
    upto_seq: int
    head_seq: int
    floor_seq: int  # everything up to here has been pruned


@per_dialect
def _page(sqlite: bool) -> Select[Any]:
    return (
        select(ev.event_id, ev.sequence, ev.type, ev.data, ev.created_ms)
        .where(
            ev.app_id == bindparam("app"),
            ev.sequence > bindparam("after"),
            ev.sequence <= bindparam("upto"),
            in_list(ev.type, "types", sqlite=sqlite) != bindparam("all_but", type_=Boolean),
        )
        .order_by(ev.sequence)
        .limit(bindparam("n"))
    )


def events_after(
    conn: Connection, app_id: str, *, after_seq: int | None, limit: int, types: Collection[str], all_but: bool = False
) -> Events:
    """Events of these types (or of all but these) after a number; None: from the oldest that is kept.

    With a number outside floor … head, no rows.
    """
    epoch = conn.execute(select(store_meta.c.epoch)).scalar_one_or_none()
    head = conn.execute(select(a.event_head).where(a.app_id == app_id)).scalar_one_or_none() or 0
    first = conn.execute(
        select(ev.sequence).where(ev.app_id == app_id, ev.sequence.is_not(None)).order_by(ev.sequence).limit(1)
    ).scalar_one_or_none()
    floor = head if first is None else first - 1
    after = floor if after_seq is None else after_seq
    rows: tuple[Event, ...] = ()
    upto = after
    if floor <= after <= head:
        upto = min(head, after + max(SCAN_MAX, limit))
        params = {
            "app": app_id,
            "after": after,
            "upto": upto,
            "types": as_list(conn, sorted(types)),
            "all_but": all_but,
            "n": limit,
        }
        rows = tuple(Event(**row._asdict()) for row in conn.execute(_page(conn), params))
        if len(rows) == limit:
            upto = rows[-1].sequence
    return Events(epoch=epoch or "", rows=rows, upto_seq=upto, head_seq=head, floor_seq=floor)


@per_dialect
def _open_among(sqlite: bool) -> Select[Any]:
    return select(d.event_id).where(
        d.app_id == bindparam("app"),
        in_list(d.endpoint_id, "endpoints", sqlite=sqlite),
        in_list(d.event_id, "ids", sqlite=sqlite),
        d.state == "waiting",
    )


@per_dialect
def _forget_events(sqlite: bool) -> Any:
    return delete(event).where(ev.app_id == bindparam("app"), in_list(ev.event_id, "ids", sqlite=sqlite))


def prune_events(conn: Connection, now_ms: int, *, limit: int, keep_ms: int = EVENTS_KEEP_MS) -> int:
    """Removes events past their keeping time, oldest number first, with their deliveries. Gives how many.

    It stops at one whose delivery is still to be made, so that what is kept has no holes. What waits for a disabled
    endpoint holds nothing up.
    """
    removed = 0
    for app_id in conn.execute(select(a.app_id).order_by(a.app_id)).scalars().all():
        if removed >= limit:
            break
        removed += _prune_app(conn, app_id, before_ms=now_ms - keep_ms, limit=limit - removed)
    return removed


def _prune_app(conn: Connection, app_id: str, *, before_ms: int, limit: int) -> int:
    oldest = conn.execute(
        select(ev.event_id, ev.created_ms)
        .where(ev.app_id == app_id, ev.sequence.is_not(None))
        .order_by(ev.sequence)
        .limit(limit)
    ).all()
    past: list[str] = []
    for row in oldest:
        if row.created_ms >= before_ms:
            break
        past.append(row.event_id)
    if not past:
        return 0
    endpoints = {
        row.endpoint_id: row.state for row in conn.execute(select(e.endpoint_id, e.state).where(e.app_id == app_id))
    }
    live = [endpoint_id for endpoint_id, state in endpoints.items() if state in LIVE]
    params = {"app": app_id, "endpoints": as_list(conn, live), "ids": as_list(conn, past)}
    still_open = {row.event_id for row in conn.execute(_open_among(conn), params)}
    done = past[: next((n for n, event_id in enumerate(past) if event_id in still_open), len(past))]
    if done:
        params = {"app": app_id, "endpoints": as_list(conn, endpoints), "ids": as_list(conn, done)}
        conn.execute(forget_deliveries(conn), params)
        conn.execute(_forget_events(conn), {"app": app_id, "ids": params["ids"]})
    return len(done)
