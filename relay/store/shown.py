"""What devices were told through vendors and may still show: the log of attempts, read from the screen's side."""

from dataclasses import dataclass

from sqlalchemy import Connection, and_, bindparam, select

from relay.model import DeviceKey
from relay.store.schema.devices import device_shared
from relay.store.schema.push import push_attempt, push_receipt
from relay.store.sql import device_params

_a, _r, _s = push_attempt.c, push_receipt.c, device_shared.c
_here = (_a.app_id == bindparam("app"), _a.user_id == bindparam("user"), _a.device_id == bindparam("device"))
_told = (
    select(_a.claim_token, _a.account, _a.token_hash, _a.push_id, _a.from_seq, _a.upto_seq, _a.form, _a.vendor_id)
    .where(*_here, _a.upto_seq > bindparam("after"), _a.verdict == "accepted", _a.form != "wake")
    .order_by(_a.claim_token.desc())
    .limit(bindparam("count"))
)
_teller = and_(
    _a.app_id == _s.app_id,
    _a.user_id == _s.user_id,
    _a.device_id == _s.device_id,
    _a.claim_token == _s.told_claim,
)
_since = (
    select(_s.conversation_id)
    .join(push_attempt, _teller)
    .where(*_here, _s.pushed_seq > _s.acked_high, _a.verdict == "accepted", _a.started_ms >= bindparam("since"))
)
_of_shared = (
    select(
        _s.conversation_id,
        _a.claim_token,
        _a.account,
        _a.token_hash,
        _a.push_id,
        _a.from_seq,
        _a.upto_seq,
        _a.form,
        _a.vendor_id,
    )
    .join(push_attempt, _teller)
    .where(*_here, _s.pushed_seq > _s.acked_high, _a.verdict == "accepted", _a.form != "wake")
)
_facts = select(_r.claim_token, _r.push_id).where(
    _r.app_id == bindparam("app"),
    _r.user_id == bindparam("user"),
    _r.device_id == bindparam("device"),
    _r.fact.in_(bindparam("facts", expanding=True)),
)


@dataclass(frozen=True, slots=True)
class Telling:
    """An attempt that a vendor accepted, of notifications for all that is worth one in [from_seq, upto_seq]."""

    claim_token: int
    account: str
    token_hash: bytes
    push_id: str  # of the first of its notifications
    from_seq: int
    upto_seq: int
    form: str
    vendor_id: str | None  # likewise


def tellings(conn: Connection, key: DeviceKey, *, after: int, limit: int) -> list[Telling]:
    """Those that reach beyond number `after`, newest first."""
    place = device_params(key)
    return [Telling(*row) for row in conn.execute(_told, place | {"after": after, "count": limit})]


def tellings_of_shared(conn: Connection, key: DeviceKey) -> dict[str, Telling]:
    """The last one that told of each shared timeline in which the device has not acked what it was told of."""
    return {place: Telling(*row) for place, *row in conn.execute(_of_shared, device_params(key))}


def told_since(conn: Connection, key: DeviceKey, since_ms: int) -> set[str]:
    """The shared timelines of which a vendor took a push since then that the device has not acked."""
    return set(conn.execute(_since, device_params(key) | {"since": since_ms}).scalars())


def known_of(conn: Connection, key: DeviceKey, facts: list[str]) -> set[tuple[int, str]]:
    """Of which of this device's pushes (its attempt's claim, its id) one of these facts is known."""
    place = device_params(key)
    return {(row.claim_token, row.push_id) for row in conn.execute(_facts, place | {"facts": facts})}
