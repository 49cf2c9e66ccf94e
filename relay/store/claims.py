"""Which deliveries are under way: workers claim those that are due, and settle what became of them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, or_, select, update

from relay.store.endpoints import LIVE, DeliveryKey, EndpointKey, Sealed, sealed_secrets
from relay.store.schema.webhooks import delivery, endpoint, event
from relay.store.sql import among, is_sqlite, key_list, per_dialect

e, d, ev = endpoint.c, delivery.c, event.c

ENDPOINT_IN_FLIGHT_MAX = 5  # claims of one endpoint at a time, over all nodes
CANDIDATES_MAX = 1000  # endpoints that one claim looks at
EVENT_GONE = "event_gone"
LOST = "relay_ended"  # the result of an attempt in the middle of which its process ended

# (attempts before, whether the one before was lost as well) -> (state, attempts now, when next: None, never)
AfterLoss = Callable[[int, bool], tuple[str, int, int | None]]
Taken = tuple[DeliveryKey, int, int]  # with the claim's token, and the attempts before


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
        .where(among(e.app_id, e.endpoint_id, sqlite=sqlite), e.state.in_(LIVE))
        .order_by(e.app_id, e.endpoint_id)
        .with_for_update(key_share=True, skip_locked=True)
    )


@per_dialect
def _in_flight(sqlite: bool) -> Select[Any]:
    return (
        select(d.app_id, d.endpoint_id, func.count().label("busy"))
        .where(among(d.app_id, d.endpoint_id, sqlite=sqlite), d.claim_until_ms > _now)
        .group_by(d.app_id, d.endpoint_id)
    )


@per_dialect
def _contents(sqlite: bool) -> Select[Any]:
    return select(ev.app_id, ev.event_id, ev.type, ev.data, ev.sequence, ev.created_ms).where(
        among(ev.app_id, ev.event_id, sqlite=sqlite)
    )


_ripe = (
    select(d.event_id, d.claim_token, d.attempts, d.claim, d.last_result)
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


_note_loss = update(delivery).where(_this).values(attempts=bindparam("n"), last_result=LOST)


def claim_deliveries(
    conn: Connection,
    now_ms: int,
    *,
    owner: str,
    hold_ms: int,
    limit: int,
    after_loss: AfterLoss,
    reserve: int = 0,
    per_endpoint: int = ENDPOINT_IN_FLIGHT_MAX,
) -> list[Claimed]:
    """Takes up to `limit` deliveries that are due, fairly: endpoints with least in flight first, at most `per_endpoint` each.

    Of the limit, `reserve` is only for endpoints that are well and have nothing in flight: many bad ones together must
    not keep out the others either.

    A claim that has lapsed was another process's, which ended in the middle of the attempt: that is counted before it is
    taken again, or put off.
    """
    if limit <= 0:
        return []
    due = conn.execute(_candidates, {"now": now_ms, "most": per_endpoint})
    wanted = [EndpointKey(row.app_id, row.endpoint_id) for row in due]
    if not wanted:
        return []
    # Claims of one endpoint are taken under its lock, so that nodes together stay within its bound. Whoever has
    # the lock now is claiming or settling for it; nobody waits here.
    free = conn.execute(_lock_endpoints(conn), {"keys": key_list(conn, wanted)})
    locked = {EndpointKey(row.app_id, row.endpoint_id): row for row in free}
    if not locked:
        return []
    busy = {
        EndpointKey(row.app_id, row.endpoint_id): row.busy
        for row in conn.execute(_in_flight(conn), {"keys": key_list(conn, locked), "now": now_ms})
    }
    shares = _shares(
        [key for key in wanted if key in locked],
        busy,
        {key for key, row in locked.items() if row.state == "failing"},
        limit=limit,
        reserve=reserve,
        per_endpoint=per_endpoint,
    )
    taken = [
        one
        for place, n in shares.items()
        for one in _take_ripe(conn, now_ms, place, n, owner=owner, after_loss=after_loss)
    ]
    if not taken:
        return []
    until_ms = now_ms + hold_ms
    conn.execute(_claim, [_named(key) | {"owner": owner, "token": t, "until": until_ms} for key, t, _ in taken])
    return _with_contents(conn, now_ms, taken, locked, owner=owner)


def _take_ripe(
    conn: Connection, now_ms: int, place: EndpointKey, n: int, *, owner: str, after_loss: AfterLoss
) -> Iterator[Taken]:
    """The oldest `n` of an endpoint; of what another process lost, what is due all the same."""
    ripe = conn.execute(_ripe, {"app": place.app_id, "endpoint": place.endpoint_id, "n": n, "now": now_ms})
    for row in ripe.all():
        key, token, attempts = DeliveryKey(*place, row.event_id), row.claim_token + 1, row.attempts
        if row.claim is not None and row.claim != owner:
            state, attempts, due_ms = after_loss(attempts, row.last_result == LOST)
            if due_ms is None or due_ms > now_ms:
                _finish(conn, key, token - 1, to=state, n=attempts, due=due_ms, result=LOST, now=now_ms)
                continue
            conn.execute(_note_loss, _named(key) | {"n": attempts})
        yield key, token, attempts


def _with_contents(
    conn: Connection, now_ms: int, taken: Sequence[Taken], endpoints: Mapping[EndpointKey, Any], *, owner: str
) -> list[Claimed]:
    """With the events that they tell; one whose event is gone has no more to tell."""
    keys = key_list(conn, ((key.app_id, key.event_id) for key, _, _ in taken))
    events = {(row.app_id, row.event_id): row for row in conn.execute(_contents(conn), {"keys": keys})}
    claimed = []
    for key, token, attempts in taken:
        content = events.get((key.app_id, key.event_id))
        if content is None:  # pruned while somebody asked for a replay
            _finish(conn, key, token, to="abandoned", n=attempts, due=None, result=EVENT_GONE, now=now_ms)
            continue
        claimed.append(
            Claimed(
                key=key,
                claim=owner,
                claim_token=token,
                attempts=attempts,
                url=endpoints[key.endpoint].url,
                sealed=sealed_secrets(endpoints[key.endpoint], now_ms),
                type=content.type,
                data=content.data,
                sequence=content.sequence,
                created_ms=content.created_ms,
            )
        )
    return claimed


def _finish(conn: Connection, key: DeliveryKey, token: int, **row: Any) -> None:
    conn.execute(_settle, _named(key) | {"token": token} | row)


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
        .where(among(d.app_id, d.endpoint_id, d.event_id, sqlite=sqlite), d.claim_until_ms.is_not(None))
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
        for row in conn.execute(_held(conn), {"keys": key_list(conn, (one.key for one in results))})
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
    """On SQLite, where one process at a time has the store: claims of the processes before have lapsed at once."""
    if not is_sqlite(conn):
        return 0
    others = and_(d.claim_until_ms.is_not(None), d.claim != owner)
    return conn.execute(update(delivery).where(others).values(claim_until_ms=0)).rowcount
