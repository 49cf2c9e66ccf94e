"""Rows of attempts: what was handed to which vendor, and what became of it. A log, for the trace and for reports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, delete, exists, func, select

from relay.model import DeviceKey, Kind, UserKey
from relay.store.entries import BY_MESSAGE
from relay.store.schema.inboxes import inbox_entry
from relay.store.schema.push import push_attempt, push_receipt
from relay.store.sql import as_list, device_params, in_list, insert_rows, per_dialect, update_rows

_a, _e = push_attempt.c, inbox_entry.c


def start_attempts(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes attempts before their vendors are called: how each ends is null until then."""
    insert_rows(conn, push_attempt, rows)


_ENDED = ("ended_ms", "verdict", "vendor_id", "vendor_code", "left_out")
_FIRST_END = {c: f"CASE WHEN t.ended_ms IS NULL THEN v.{c} ELSE t.{c} END" for c in _ENDED}


_KEY = (*DeviceKey._fields, "claim_token", "started_ms")
End = tuple[str, str, str, int, int, int, str, str | None, str | None, str]  # the values of _KEY and _ENDED


def end_attempts(conn: Connection, ends: Sequence[End]) -> None:
    """How these attempts ended. The log keeps late results too."""
    update_rows(conn, push_attempt, (*_KEY, *_ENDED), ends, key=_KEY, set_=_FIRST_END)


_one_attempt = select(_a.account, _a.started_ms, _a.from_seq, _a.upto_seq, _a.form, _a.verdict, _a.vendor_code).where(
    _a.app_id == bindparam("app"),
    _a.user_id == bindparam("user"),
    _a.device_id == bindparam("device"),
    _a.claim_token == bindparam("token"),
)


def attempt(conn: Connection, key: DeviceKey, token: int) -> Any | None:
    """The attempt under this claim: account, started_ms, from_seq, upto_seq, form, verdict, vendor_code. None: it is no longer
    told of."""
    return conn.execute(_one_attempt, device_params(key) | {"token": token}).first()


# Attempts that told of a message: they covered the number by which it entered the inbox.
TOLD_OF = inbox_entry.join(
    push_attempt,
    and_(_a.app_id == _e.app_id, _a.user_id == _e.user_id, _a.from_seq <= _e.seq, _a.upto_seq >= _e.seq),
)


def of_message(sqlite: bool) -> tuple[ColumnElement[bool], ...]:
    """Entries by which a message entered the inboxes of some users."""
    return (
        _e.app_id == bindparam("app"),
        _e.message_id == bindparam("id"),
        in_list(_e.user_id, "users", sqlite=sqlite),
        _e.kind.in_([Kind.MESSAGE.value, Kind.POINTER.value]),
    )


@per_dialect
def _of_message(sqlite: bool) -> Select[Any]:
    in_turn = (_a.started_ms, _a.device_id, _a.claim_token)
    ranked = (
        select(push_attempt, func.row_number().over(partition_by=_a.user_id, order_by=in_turn).label("place"))
        .select_from(TOLD_OF)
        .where(*of_message(sqlite))
        .with_hint(*BY_MESSAGE)
        .subquery()
    )
    return select(ranked).where(ranked.c.place <= bindparam("most")).order_by(ranked.c.place)


def attempts_of_message(
    conn: Connection, app_id: str, message_id: str, users: Iterable[str], *, limit: int
) -> dict[str, list[Any]]:
    """By user, of these: attempts that told of the message, the oldest first; so many of each."""
    found: dict[str, list[Any]] = {}
    params = {"app": app_id, "id": message_id, "users": as_list(conn, users), "most": limit}
    for row in conn.execute(_of_message(conn), params):
        found.setdefault(row.user_id, []).append(row)
    return found


_forget_attempts = delete(push_attempt).where(
    _a.app_id == bindparam("app"), _a.user_id == bindparam("user"), _a.upto_seq <= bindparam("upto")
)
_forget_receipts = delete(push_receipt).where(
    push_receipt.c.app_id == bindparam("app"),
    push_receipt.c.user_id == bindparam("user"),
    ~exists().where(
        _a.app_id == push_receipt.c.app_id,
        _a.user_id == push_receipt.c.user_id,
        _a.device_id == push_receipt.c.device_id,
        _a.claim_token == push_receipt.c.claim_token,
    ),
)


def forget_attempts(conn: Connection, key: UserKey, *, upto: int) -> None:
    """Removes attempts that told of nothing above this number, with what vendors reported of them."""
    place = {"app": key.app_id, "user": key.user_id}
    if conn.execute(_forget_attempts, place | {"upto": upto}).rowcount:
        conn.execute(_forget_receipts, place)


_told = (
    select(_a.account, _a.token_hash)
    .where(
        _a.app_id == bindparam("app"),
        _a.user_id == bindparam("user"),
        _a.device_id == bindparam("device"),
        _a.verdict == "accepted",
    )
    .order_by(_a.claim_token.desc())
    .limit(1)
)


def told_last(conn: Connection, key: DeviceKey) -> tuple[str, bytes] | None:
    """Through which address (account, token's hash) the device was told last; None: it is not known to have been."""
    row = conn.execute(_told, device_params(key)).first()
    return None if row is None else (row.account, row.token_hash)


_wake = select(func.max(_a.started_ms)).where(
    _a.app_id == bindparam("app"),
    _a.user_id == bindparam("user"),
    _a.device_id == bindparam("device"),
    _a.account == bindparam("acc"),
    _a.form.in_(["wake", "unseen", "knock"]),
    _a.verdict == "accepted",
)


def last_wake_ms(conn: Connection, key: DeviceKey, account: str) -> int | None:
    """When the device was last woken through this account."""
    return conn.execute(_wake, device_params(key) | {"acc": account}).scalar_one_or_none()
