"""The numbers of events.

The sequencer gives events their numbers under the lock of their app's row, which it holds until the commit: so numbers
become visible in order, and no reader of numbered events can miss one. The same transaction makes their deliveries.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from relay.store.deliveries import new_delivery
from relay.store.endpoints import LIVE, DeliveryKey, lock_app
from relay.store.schema.apps import app
from relay.store.schema.webhooks import delivery, endpoint, event
from relay.store.sql import as_list, in_list, insert_missing, insert_rows, many_rows, per_dialect, update_rows

a, e, ev = app.c, endpoint.c, event.c

Wants = Callable[[Sequence[str], str], bool]  # (an endpoint's list, an event's type)


_waiting_apps = select(
    func.distinct(
        select(ev.app_id).where(ev.sequence.is_(None)).order_by(ev.created_ms).limit(bindparam("n")).subquery().c.app_id
    )
)


@per_dialect
def _lock_apps(sqlite: bool) -> Select[Any]:
    return (
        select(a.app_id, a.event_head)
        .where(in_list(a.app_id, "apps", sqlite=sqlite))
        .order_by(a.app_id)
        .with_for_update(key_share=True, skip_locked=True)
    )


@per_dialect
def _unnumbered(sqlite: bool) -> Select[Any]:
    return (
        select(ev.app_id, ev.event_id, ev.type)
        .where(ev.sequence.is_(None), in_list(ev.app_id, "apps", sqlite=sqlite))
        .order_by(ev.created_ms, ev.type, ev.event_id)  # by type: deliveries of a moment before what they complete
        .limit(bindparam("n"))
    )


@per_dialect
def _listening(sqlite: bool) -> Select[Any]:
    return select(e.app_id, e.endpoint_id, e.types).where(in_list(e.app_id, "apps", sqlite=sqlite), e.state.in_(LIVE))


_EVENT = ("app_id", "event_id")
_NUMBERED = {"sequence": "coalesce(t.sequence, v.sequence)"}
_raise_head = update(app).where(a.app_id == bindparam("app")).values(event_head=bindparam("head"))


def number_events(conn: Connection, now_ms: int, *, limit: int, wants: Wants) -> int:
    """Numbers up to `limit` events in the order of their making, with their deliveries. Gives how many.

    Apps that another node's sequencer has at hand are left to it.
    """
    apps = [row[0] for row in conn.execute(_waiting_apps, {"n": limit}).all()]
    if not apps:
        return 0
    # Locked first, read then: what another sequencer numbered meanwhile is seen as numbered.
    heads = {row.app_id: row.event_head for row in conn.execute(_lock_apps(conn), {"apps": as_list(conn, apps)})}
    if not heads:
        return 0
    ours = as_list(conn, heads)
    fresh = many_rows(conn, _unnumbered(conn), {"apps": ours, "n": limit})
    listening: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for row in conn.execute(_listening(conn), {"apps": ours}).all():
        listening.setdefault(row.app_id, []).append((row.endpoint_id, tuple(msgspec.json.decode(row.types))))

    numbers, deliveries, grown = [], [], set()
    for app_id, event_id, type_ in fresh:
        heads[app_id] += 1
        grown.add(app_id)
        numbers.append((app_id, event_id, heads[app_id]))
        deliveries += [
            new_delivery(DeliveryKey(app_id, endpoint_id, event_id), now_ms)
            for endpoint_id, types in listening.get(app_id, ())
            if wants(types, type_)
        ]
    if numbers:
        update_rows(conn, event, (*_EVENT, "sequence"), numbers, key=_EVENT, set_=_NUMBERED)
        conn.execute(_raise_head, [{"app": app_id, "head": heads[app_id]} for app_id in sorted(grown)])
    insert_missing(conn, delivery, deliveries)
    return len(numbers)


def tell_one(conn: Connection, now_ms: int, key: DeliveryKey, *, type_: str, data: Mapping[str, Any]) -> None:
    """An event that goes to this one endpoint, numbered at once (for it no sequencer makes deliveries)."""
    head = lock_app(conn, key.app_id) + 1
    conn.execute(_raise_head, {"app": key.app_id, "head": head})
    conn.execute(
        insert(event).values(
            app_id=key.app_id,
            event_id=key.event_id,
            sequence=head,
            type=type_,
            data=msgspec.json.encode(data).decode(),
            created_ms=now_ms,
        )
    )
    insert_rows(conn, delivery, [new_delivery(key, now_ms)])
