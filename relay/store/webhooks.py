"""Rows of endpoints and deliveries, and the numbers of events.

The sequencer gives events their numbers under the lock of their app's row, which it holds until the commit: so numbers
become visible in order, and no reader of numbered events can miss one. The same transaction makes their deliveries.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from relay.errors import Missing
from relay.store.schema import app, delivery, endpoint, event, store_meta
from relay.store.sql import as_list, in_list, insert_missing, insert_rows, is_sqlite, per_dialect

ENDPOINT_IN_FLIGHT_MAX = 5  # claims of one endpoint at a time, over all nodes
CANDIDATES_MAX = 1000  # endpoints that one claim looks at
EVENTS_KEEP_MS = 30 * 86_400_000
SCAN_MAX = 5000  # numbers that one page of events looks at when it is filtered by type
LIVE = ("active", "failing")
EVENT_GONE = "event_gone"

a, e, d, ev = app.c, endpoint.c, delivery.c, event.c

Wants = Callable[[Sequence[str], str], bool]  # (an endpoint's list, an event's type)


class EndpointKey(NamedTuple):
    """Sorting these gives the order in which endpoints are locked."""

    app_id: str
    endpoint_id: str


class DeliveryKey(NamedTuple):
    app_id: str
    endpoint_id: str
    event_id: str

    @property
    def endpoint(self) -> EndpointKey:
        return EndpointKey(self.app_id, self.endpoint_id)


def _among(*columns: Any, sqlite: bool) -> ColumnElement[bool]:
    """Whether the columns together are one of the `keys`, which `_keys` writes.

    SQLite reads the whole table for `(a, b) IN (VALUES …)`, so there it is a join with the list.
    """
    if sqlite:
        one = func.json_each(bindparam("keys")).table_valued("value").c.value
        return and_(*(column == func.json_extract(one, f"$[{place}]") for place, column in enumerate(columns)))
    return tuple_(*columns).in_(bindparam("keys", expanding=True))


def _keys(conn: Connection, keys: Iterable[tuple[str, ...]]) -> Any:
    listed = sorted(set(keys))
    return msgspec.json.encode(listed).decode() if is_sqlite(conn) else listed


# --- endpoints --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A backend's URL, without its secrets."""

    key: EndpointKey
    url: str
    description: str | None
    types: tuple[str, ...]
    state: str
    failing_since_ms: int | None
    old_secret_until_ms: int | None
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What only the key ring can read: the secret, the one before it while that is still good, the app's headers."""

    secret: bytes
    old_secret: bytes | None
    headers: bytes | None


def lock_app(conn: Connection, app_id: str) -> int:
    """Takes the lock of the app's row and gives the number of its newest event. Raises Missing."""
    head: int | None = conn.execute(
        select(a.event_head).where(a.app_id == app_id).with_for_update(key_share=True)
    ).scalar_one_or_none()
    if head is None:
        raise Missing("There is no such app.")
    return head


_endpoint_columns = (
    e.app_id,
    e.endpoint_id,
    e.url,
    e.description,
    e.types,
    e.state,
    e.failing_since_ms,
    e.old_secret_until_ms,
    e.created_ms,
)


def _endpoint(row: Any) -> Endpoint:
    return Endpoint(
        key=EndpointKey(row.app_id, row.endpoint_id),
        url=row.url,
        description=row.description,
        types=tuple(msgspec.json.decode(row.types)),
        state=row.state,
        failing_since_ms=row.failing_since_ms,
        old_secret_until_ms=row.old_secret_until_ms,
        created_ms=row.created_ms,
    )


def _is(key: EndpointKey) -> ColumnElement[bool]:
    return and_(e.app_id == key.app_id, e.endpoint_id == key.endpoint_id, e.state != "deleted")


def create_endpoint(
    conn: Connection,
    now_ms: int,
    key: EndpointKey,
    *,
    url: str,
    description: str | None,
    types: Sequence[str],
    secret_sealed: bytes,
    headers_sealed: bytes | None,
) -> Endpoint:
    """Writes a new endpoint. Take the app's lock first, and count: `endpoints_of`."""
    row = {
        "app_id": key.app_id,
        "endpoint_id": key.endpoint_id,
        "url": url,
        "description": description,
        "types": msgspec.json.encode(list(types)).decode(),
        "secret_sealed": secret_sealed,
        "old_secret_sealed": None,
        "old_secret_until_ms": None,
        "headers_sealed": headers_sealed,
        "state": "active",
        "failing_since_ms": None,
        "created_ms": now_ms,
    }
    insert_rows(conn, endpoint, [row])
    return Endpoint(
        key=key,
        url=url,
        description=description,
        types=tuple(types),
        state="active",
        failing_since_ms=None,
        old_secret_until_ms=None,
        created_ms=now_ms,
    )


def endpoints_of(conn: Connection, app_id: str) -> list[Endpoint]:
    """All of an app's endpoints, oldest first."""
    rows = conn.execute(
        select(*_endpoint_columns).where(e.app_id == app_id, e.state != "deleted").order_by(e.created_ms, e.endpoint_id)
    )
    return [_endpoint(row) for row in rows]


def get_endpoint(conn: Connection, key: EndpointKey, *, lock: bool = False) -> Endpoint:
    """Raises Missing."""
    statement = select(*_endpoint_columns).where(_is(key))
    row = conn.execute(statement.with_for_update(key_share=True) if lock else statement).one_or_none()
    if row is None:
        raise Missing("There is no such endpoint.")
    return _endpoint(row)


def sealed_of(conn: Connection, now_ms: int, key: EndpointKey) -> Sealed:
    """Raises Missing."""
    columns = (e.secret_sealed, e.old_secret_sealed, e.old_secret_until_ms, e.headers_sealed)
    row = conn.execute(select(*columns).where(_is(key))).one_or_none()
    if row is None:
        raise Missing("There is no such endpoint.")
    return _sealed(row, now_ms)


def _sealed(row: Any, now_ms: int) -> Sealed:
    old_counts = row.old_secret_until_ms is not None and row.old_secret_until_ms > now_ms
    return Sealed(
        secret=row.secret_sealed, old_secret=row.old_secret_sealed if old_counts else None, headers=row.headers_sealed
    )


def change_endpoint(conn: Connection, key: EndpointKey, changes: Mapping[str, Any]) -> None:
    """Sets columns: url, description, types (as a list), headers_sealed."""
    values = dict(changes)
    if "types" in values:
        values["types"] = msgspec.json.encode(list(values["types"])).decode()
    if values:
        conn.execute(update(endpoint).where(_is(key)).values(**values))


def rotate_secret(conn: Connection, key: EndpointKey, *, secret_sealed: bytes, old_until_ms: int) -> None:
    """A new secret; the one before it signs too, until then. One that was already old is forgotten."""
    conn.execute(
        update(endpoint)
        .where(_is(key))
        .values(secret_sealed=secret_sealed, old_secret_sealed=e.secret_sealed, old_secret_until_ms=old_until_ms)
    )


def delete_endpoint(conn: Connection, key: EndpointKey) -> None:
    """Forgets URL and secrets at once; its deliveries go bit by bit (`sweep_deleted`). Raises Missing.

    Under the app's lock: no sequencer is then making deliveries for it.
    """
    lock_app(conn, key.app_id)
    gone = {
        "state": "deleted",
        "url": "",
        "description": None,
        "secret_sealed": b"",
        "old_secret_sealed": None,
        "headers_sealed": None,
    }
    if conn.execute(update(endpoint).where(_is(key)).values(**gone)).rowcount != 1:
        raise Missing("There is no such endpoint.")


@per_dialect
def _health(sqlite: bool) -> Select[Any]:
    return (
        select(e.app_id, e.endpoint_id, e.state, e.failing_since_ms)
        .where(_among(e.app_id, e.endpoint_id, sqlite=sqlite), e.state != "deleted")
        .order_by(e.app_id, e.endpoint_id)
    )


def health_of(
    conn: Connection, keys: Collection[EndpointKey], *, lock: bool = False
) -> dict[EndpointKey, tuple[str, int | None]]:
    """(state, failing_since_ms) of endpoints, in the order of their keys; deleted ones are left out."""
    if not keys:
        return {}
    statement = _health(conn).with_for_update(key_share=True) if lock else _health(conn)
    rows = conn.execute(statement, {"keys": _keys(conn, keys)})
    return {EndpointKey(row.app_id, row.endpoint_id): (row.state, row.failing_since_ms) for row in rows}


def set_health(conn: Connection, key: EndpointKey, *, state: str, failing_since_ms: int | None) -> None:
    conn.execute(update(endpoint).where(_is(key)).values(state=state, failing_since_ms=failing_since_ms))


# --- the sequencer ----------------------------------------------------------------------------------------------------

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
        .order_by(ev.created_ms, ev.event_id)
        .limit(bindparam("n"))
    )


@per_dialect
def _listening(sqlite: bool) -> Select[Any]:
    return select(e.app_id, e.endpoint_id, e.types).where(in_list(e.app_id, "apps", sqlite=sqlite), e.state.in_(LIVE))


_number = (
    update(event)
    .where(ev.app_id == bindparam("app"), ev.event_id == bindparam("id"), ev.sequence.is_(None))
    .values(sequence=bindparam("number"))
)
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
    fresh = conn.execute(_unnumbered(conn), {"apps": ours, "n": limit}).all()
    listening: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for row in conn.execute(_listening(conn), {"apps": ours}).all():
        listening.setdefault(row.app_id, []).append((row.endpoint_id, tuple(msgspec.json.decode(row.types))))

    numbers, deliveries, grown = [], [], set()
    for row in fresh:
        heads[row.app_id] += 1
        grown.add(row.app_id)
        numbers.append({"app": row.app_id, "id": row.event_id, "number": heads[row.app_id]})
        deliveries += [
            _new_delivery(DeliveryKey(row.app_id, endpoint_id, row.event_id), now_ms)
            for endpoint_id, types in listening.get(row.app_id, ())
            if wants(types, row.type)
        ]
    if numbers:
        conn.execute(_number, numbers)
        conn.execute(_raise_head, [{"app": app_id, "head": heads[app_id]} for app_id in sorted(grown)])
    insert_missing(conn, delivery, deliveries)
    return len(numbers)


def _new_delivery(key: DeliveryKey, now_ms: int) -> dict[str, Any]:
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
    insert_rows(conn, delivery, [_new_delivery(key, now_ms)])


# --- claims -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One delivery that a worker has taken, with all it needs to send it."""

    key: DeliveryKey
    claim: str
    claim_token: int
    attempts: int  # before this one
    url: str
    sealed: Sealed
    type: str
    data: str
    sequence: int
    created_ms: int  # the event's


_now: Any = bindparam("now")
_free = and_(d.due_ms.is_not(None), d.due_ms <= _now, or_(d.claim_until_ms.is_(None), d.claim_until_ms <= _now))
_of_endpoint = and_(d.app_id == e.app_id, d.endpoint_id == e.endpoint_id)
_oldest = select(d.due_ms).where(_of_endpoint, _free).order_by(d.due_ms).limit(1).correlate(endpoint).scalar_subquery()
_busy = (
    select(func.count())
    .select_from(delivery)
    .where(_of_endpoint, d.claim_until_ms > _now)
    .correlate(endpoint)
    .scalar_subquery()
)
_endpoints_due = (
    select(e.app_id, e.endpoint_id, e.state, _busy.label("busy"), _oldest.label("oldest"))
    .where(e.state.in_(LIVE))
    .subquery()
)
_candidates = (
    select(_endpoints_due.c.app_id, _endpoints_due.c.endpoint_id)
    .where(_endpoints_due.c.oldest.is_not(None), _endpoints_due.c.busy < bindparam("most"))
    .order_by(_endpoints_due.c.state, _endpoints_due.c.busy, _endpoints_due.c.oldest)  # active before failing
    .limit(CANDIDATES_MAX)
)


@per_dialect
def _lock_endpoints(sqlite: bool) -> Select[Any]:
    return (
        select(
            e.app_id,
            e.endpoint_id,
            e.state,
            e.url,
            e.secret_sealed,
            e.old_secret_sealed,
            e.old_secret_until_ms,
            e.headers_sealed,
        )
        .where(_among(e.app_id, e.endpoint_id, sqlite=sqlite), e.state.in_(LIVE))
        .order_by(e.app_id, e.endpoint_id)
        .with_for_update(key_share=True, skip_locked=True)
    )


@per_dialect
def _in_flight(sqlite: bool) -> Select[Any]:
    return (
        select(d.app_id, d.endpoint_id, func.count().label("busy"))
        .where(_among(d.app_id, d.endpoint_id, sqlite=sqlite), d.claim_until_ms > _now)
        .group_by(d.app_id, d.endpoint_id)
    )


@per_dialect
def _contents(sqlite: bool) -> Select[Any]:
    return select(ev.app_id, ev.event_id, ev.type, ev.data, ev.sequence, ev.created_ms).where(
        _among(ev.app_id, ev.event_id, sqlite=sqlite)
    )


_ripe = (
    select(d.event_id, d.claim_token, d.attempts)
    .where(d.app_id == bindparam("app"), d.endpoint_id == bindparam("endpoint"), _free)
    .order_by(d.due_ms)
    .limit(bindparam("n"))
    .with_for_update(skip_locked=True)
)
_this = and_(d.app_id == bindparam("app"), d.endpoint_id == bindparam("endpoint"), d.event_id == bindparam("event"))
_claim = (
    update(delivery)
    .where(_this)
    .values(claim=bindparam("owner"), claim_token=bindparam("token"), claim_until_ms=bindparam("until"))
)


def claim_deliveries(
    conn: Connection,
    now_ms: int,
    *,
    owner: str,
    hold_ms: int,
    limit: int,
    reserve: int = 0,
    per_endpoint: int = ENDPOINT_IN_FLIGHT_MAX,
) -> list[Claimed]:
    """Takes up to `limit` deliveries that are due, fairly: endpoints with least in flight first, at most `per_endpoint` each.

    Of the limit, `reserve` is only for endpoints that are well and have nothing in flight: many bad ones together must
    not keep out the others either.
    """
    if limit <= 0:
        return []
    due = conn.execute(_candidates, {"now": now_ms, "most": per_endpoint})
    wanted = [EndpointKey(row.app_id, row.endpoint_id) for row in due]
    if not wanted:
        return []
    # Claims of one endpoint are taken under its lock, so that nodes together stay within its bound. Whoever has
    # the lock now is claiming or settling for it; nobody waits here.
    free = conn.execute(_lock_endpoints(conn), {"keys": _keys(conn, wanted)})
    locked = {EndpointKey(row.app_id, row.endpoint_id): row for row in free}
    if not locked:
        return []
    busy = {
        EndpointKey(row.app_id, row.endpoint_id): row.busy
        for row in conn.execute(_in_flight(conn), {"keys": _keys(conn, locked), "now": now_ms})
    }
    ours = [key for key in wanted if key in locked]
    failing = {key for key, row in locked.items() if row.state == "failing"}
    shares = _shares(ours, busy, failing, limit=limit, reserve=reserve, per_endpoint=per_endpoint)
    taken: list[tuple[DeliveryKey, int, int]] = []
    for place, n in shares.items():
        ripe = conn.execute(_ripe, {"app": place.app_id, "endpoint": place.endpoint_id, "n": n, "now": now_ms})
        taken += [(DeliveryKey(*place, row.event_id), row.claim_token + 1, row.attempts) for row in ripe]
    if not taken:
        return []
    until_ms = now_ms + hold_ms
    conn.execute(_claim, [_named(key) | {"owner": owner, "token": t, "until": until_ms} for key, t, _ in taken])
    events = {
        (row.app_id, row.event_id): row
        for row in conn.execute(
            _contents(conn), {"keys": _keys(conn, ((key.app_id, key.event_id) for key, _, _ in taken))}
        )
    }
    claimed = []
    for key, token, attempts in taken:
        content = events.get((key.app_id, key.event_id))
        if content is None:  # pruned while somebody asked for a replay
            row = {"token": token, "to": "abandoned", "n": attempts, "due": None, "result": EVENT_GONE, "now": now_ms}
            conn.execute(_settle, _named(key) | row)
            continue
        claimed.append(
            Claimed(
                key=key,
                claim=owner,
                claim_token=token,
                attempts=attempts,
                url=locked[key.endpoint].url,
                sealed=_sealed(locked[key.endpoint], now_ms),
                type=content.type,
                data=content.data,
                sequence=content.sequence,
                created_ms=content.created_ms,
            )
        )
    return claimed


def _named(key: DeliveryKey) -> dict[str, Any]:
    return {"app": key.app_id, "endpoint": key.endpoint_id, "event": key.event_id}


def _shares(
    wanted: Sequence[EndpointKey],
    busy: Mapping[EndpointKey, int],
    failing: Collection[EndpointKey],
    *,
    limit: int,
    reserve: int,
    per_endpoint: int,
) -> dict[EndpointKey, int]:
    """How many each endpoint may take: one in turn. The reserve is for the first in flight of one that does not fail."""
    shares = dict.fromkeys(wanted, 0)
    for place in range(1, per_endpoint + 1):
        for key in wanted:
            if busy.get(key, 0) < place and limit > (reserve if place > 1 or key in failing else 0):
                shares[key] += 1
                limit -= 1
    return {key: n for key, n in shares.items() if n}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of one claimed delivery. `due_ms` is None when it is done."""

    key: DeliveryKey
    claim: str
    claim_token: int
    state: str
    attempts: int
    due_ms: int | None
    result: str


@per_dialect
def _held(sqlite: bool) -> Select[Any]:
    return (
        select(d.app_id, d.endpoint_id, d.event_id, d.claim, d.claim_token)
        .where(_among(d.app_id, d.endpoint_id, d.event_id, sqlite=sqlite), d.claim_until_ms.is_not(None))
        .order_by(d.app_id, d.endpoint_id, d.event_id)
        .with_for_update()
    )


_settle = (
    update(delivery)
    .where(_this, d.claim_token == bindparam("token"))
    .values(
        state=bindparam("to"),
        attempts=bindparam("n"),
        due_ms=bindparam("due"),
        last_result=bindparam("result"),
        claim=None,
        claim_until_ms=None,
        updated_ms=bindparam("now"),
    )
)


def settle_deliveries(conn: Connection, now_ms: int, results: Sequence[Settled]) -> list[Settled]:
    """Writes results whose claim still holds, and gives those: the others came too late, and change nothing."""
    if not results:
        return []
    held = {
        DeliveryKey(row.app_id, row.endpoint_id, row.event_id): (row.claim, row.claim_token)
        for row in conn.execute(_held(conn), {"keys": _keys(conn, (one.key for one in results))})
    }
    ours = [one for one in results if held.get(one.key) == (one.claim, one.claim_token)]
    if ours:
        conn.execute(
            _settle,
            [
                _named(one.key)
                | {
                    "token": one.claim_token,
                    "to": one.state,
                    "n": one.attempts,
                    "due": one.due_ms,
                    "result": one.result,
                    "now": now_ms,
                }
                for one in ours
            ],
        )
    return ours


def release_claims(conn: Connection, *, owner: str) -> int:
    """Gives back what `owner` holds, without a burnt attempt. Gives how many."""
    mine = and_(d.claim_until_ms.is_not(None), d.claim == owner)
    return conn.execute(update(delivery).where(mine).values(claim=None, claim_until_ms=None)).rowcount


def free_orphans(conn: Connection, *, owner: str) -> int:
    """On SQLite, where one process at a time has the store: claims of the processes before are void at once."""
    if not is_sqlite(conn):
        return 0
    others = and_(d.claim_until_ms.is_not(None), d.claim != owner)
    return conn.execute(update(delivery).where(others).values(claim=None, claim_until_ms=None)).rowcount


# --- lists and replays ------------------------------------------------------------------------------------------------


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
        .values(state="waiting", attempts=0, due_ms=_now, updated_ms=_now)
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
        insert_missing(conn, delivery, [_new_delivery(DeliveryKey(*key, event_id), now_ms) for event_id in ordered])
        conn.execute(_replay(conn), where | {"ids": as_list(conn, ordered), "now": now_ms})
    return len(ids)


# --- pull -------------------------------------------------------------------------------------------------------------


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


# --- chores -----------------------------------------------------------------------------------------------------------


@per_dialect
def _open_among(sqlite: bool) -> Select[Any]:
    return select(d.event_id).where(
        d.app_id == bindparam("app"),
        in_list(d.endpoint_id, "endpoints", sqlite=sqlite),
        in_list(d.event_id, "ids", sqlite=sqlite),
        d.state == "waiting",
    )


@per_dialect
def _forget_deliveries(sqlite: bool) -> Any:
    return delete(delivery).where(
        d.app_id == bindparam("app"),
        in_list(d.endpoint_id, "endpoints", sqlite=sqlite),
        in_list(d.event_id, "ids", sqlite=sqlite),
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
        conn.execute(_forget_deliveries(conn), params)
        conn.execute(_forget_events(conn), {"app": app_id, "ids": params["ids"]})
    return len(done)


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
            conn.execute(_forget_deliveries(conn), params)
            removed += len(ids)
        else:
            conn.execute(delete(endpoint).where(e.app_id == app_id, e.endpoint_id == endpoint_id, e.state == "deleted"))
            removed += 1
    return removed


def forget_old_secrets(conn: Connection, now_ms: int) -> int:
    """Removes secrets whose time after a rotation is over."""
    over: Iterable[ColumnElement[bool]] = (e.old_secret_sealed.is_not(None), e.old_secret_until_ms <= now_ms)
    return conn.execute(update(endpoint).where(*over).values(old_secret_sealed=None, old_secret_until_ms=None)).rowcount
