"""What vendors reported later of attempts: facts beside the log of attempts, each kept once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, or_, select

from relay.model import DeviceKey
from relay.store.attempts import TOLD_OF, of_message
from relay.store.entries import BY_MESSAGE
from relay.store.schema.push import push_attempt, push_receipt
from relay.store.sql import as_list, device_params, insert_missing, per_dialect

RECEIPTS_MAX = 30  # of one attempt: a vendor has few things to say of its few pushes

_a, _r = push_attempt.c, push_receipt.c
_attempts = (
    select(_a.claim_token, _a.push_id, _a.from_seq, _a.upto_seq, _a.started_ms)
    .where(
        _a.app_id == bindparam("app"),
        _a.user_id == bindparam("user"),
        _a.device_id == bindparam("device"),
        _a.account == bindparam("of"),
        _a.token_hash == bindparam("hash"),
    )
    .order_by(_a.claim_token.desc())
    .limit(1)
)
_named = _attempts.where(or_(_a.vendor_id == bindparam("vid"), _a.push_id == bindparam("pid")))
_covering = _attempts.where(_a.from_seq <= bindparam("seq"), _a.upto_seq >= bindparam("seq"))
_here = (
    _r.app_id == bindparam("app"),
    _r.user_id == bindparam("user"),
    _r.device_id == bindparam("device"),
    _r.claim_token == bindparam("token"),
)
_known = select(_r.push_id, _r.fact, _r.code).where(*_here).limit(RECEIPTS_MAX)


@per_dialect
def _of_message(sqlite: bool) -> Select[Any]:
    return (
        select(push_receipt)
        .select_from(
            TOLD_OF.join(push_receipt, and_(*(_r[name] == _a[name] for name in (*DeviceKey._fields, "claim_token"))))
        )
        .where(*of_message(sqlite))
        .with_hint(*BY_MESSAGE)
        .order_by(func.coalesce(_r.at_ms, _r.taken_ms), _r.fact)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """The attempt that a receipt is about."""

    claim_token: int
    push_id: str
    from_seq: int
    upto_seq: int
    started_ms: int


def attempt_named(
    conn: Connection, key: DeviceKey, *, account: str, token_hash: bytes, vendor_id: str | None, push_id: str | None
) -> Reported | None:
    """The newest attempt at this device by this token that the vendor or we named so."""
    return _one(conn, _named, key, account, token_hash, {"vid": vendor_id, "pid": push_id})


def attempt_covering(conn: Connection, key: DeviceKey, *, account: str, token_hash: bytes, seq: int) -> Reported | None:
    """The newest attempt at this device by this token that told of this number: it may have made several pushes."""
    return _one(conn, _covering, key, account, token_hash, {"seq": seq})


def _one(
    conn: Connection, statement: Any, key: DeviceKey, account: str, token_hash: bytes, values: dict[str, Any]
) -> Reported | None:
    place = device_params(key) | {"of": account, "hash": token_hash}
    row = conn.execute(statement, place | values).one_or_none()
    if row is None:
        return None
    return Reported(**row._asdict())


def add(conn: Connection, key: DeviceKey, claim_token: int, values: dict[str, Any]) -> bool:
    """Whether this is news: push_id, fact, code, reason, at_ms, taken_ms. A known fact, and one too many, are none."""
    place = device_params(key) | {"token": claim_token}
    known = [(row.push_id, row.fact, row.code) for row in conn.execute(_known, place)]
    if len(known) >= RECEIPTS_MAX or (values["push_id"], values["fact"], values["code"]) in known:
        return False
    insert_missing(conn, push_receipt, [key._asdict() | {"claim_token": claim_token} | values])
    return True


def receipts_of_message(
    conn: Connection, app_id: str, message_id: str, users: Iterable[str]
) -> dict[tuple[DeviceKey, int], list[Any]]:
    """By device and claim: what was reported of the attempts that told these users of the message, in its order."""
    found: dict[tuple[DeviceKey, int], list[Any]] = {}
    params = {"app": app_id, "id": message_id, "users": as_list(conn, users)}
    for row in conn.execute(_of_message(conn), params):
        found.setdefault((DeviceKey(row.app_id, row.user_id, row.device_id), row.claim_token), []).append(row)
    return found
