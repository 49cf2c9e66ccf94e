"""Rows of messages, each once for all its receivers, and of the keys by which a repeat is known."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, Select, bindparam, delete, or_, select, text, update

from relay.ids import message_id
from relay.store.schema.inboxes import idempotency, inbox_entry, message
from relay.store.sql import as_list, in_list, insert_missing, insert_rows, many_rows, per_dialect

m = message.c


@per_dialect
def _keys(sqlite: bool) -> Select[Any]:
    c = idempotency.c
    return select(c.key, c.body_hash, c.message_id, c.writer).where(
        c.app_id == bindparam("app"), in_list(c.key, "keys", sqlite=sqlite)
    )


def claim_keys(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Row[Any]]:
    """Inserts idempotency rows, first of all; gives the earlier rows that stand for keys which were there already."""
    rows = sorted(rows, key=lambda row: (row["app_id"], row["key"]))
    if insert_missing(conn, idempotency, rows) == len(rows):
        return {}
    writers = {(row["app_id"], row["key"]): row["writer"] for row in rows}
    apps: dict[str, list[str]] = {}
    for row in rows:
        apps.setdefault(row["app_id"], []).append(row["key"])
    found: dict[tuple[str, str], Row[Any]] = {}
    for app_id, keys in apps.items():
        for standing in conn.execute(_keys(conn), {"app": app_id, "keys": as_list(conn, keys)}).all():
            if standing.writer != writers[app_id, standing.key]:
                found[app_id, standing.key] = standing
    return found


_drop_key = delete(idempotency).where(idempotency.c.app_id == bindparam("app"), idempotency.c.key == bindparam("k"))


def drop_keys(conn: Connection, keys: Iterable[tuple[str, str]]) -> None:
    """Takes keys back whose sends were refused: nothing is stored for them."""
    rows = [{"app": app_id, "k": key} for app_id, key in keys]
    if rows:
        conn.execute(_drop_key, rows)


def append(conn: Connection, messages: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes messages and the entries that they stand at."""
    insert_rows(conn, message, messages)
    insert_rows(conn, inbox_entry, entries)


def _of_ids(sqlite: bool) -> Select[Any]:
    return select(message).where(m.app_id == bindparam("app"), in_list(m.message_id, "ids", sqlite=sqlite))


_messages = per_dialect(_of_ids)
_lock_messages = per_dialect(lambda sqlite: _of_ids(sqlite).order_by(m.message_id).with_for_update())


def messages(conn: Connection, app_id: str, ids: Iterable[str]) -> dict[str, Row[Any]]:
    """The rows of those of these messages that are still kept, by id."""
    rows = conn.execute(_messages(conn), {"app": app_id, "ids": as_list(conn, ids)})
    return {row.message_id: row for row in rows}


def lock_messages(conn: Connection, app_id: str, ids: Iterable[str]) -> dict[str, Row[Any]]:
    """The same, for whoever changes their receivers: until the commit nobody else does, from what was read before."""
    rows = conn.execute(_lock_messages(conn), {"app": app_id, "ids": as_list(conn, ids)})
    return {row.message_id: row for row in rows}


_set_recipients = (
    update(message)
    .where(m.app_id == bindparam("app"), m.message_id == bindparam("id"))
    .values(recipients=bindparam("all"))
)


def set_recipients(conn: Connection, app_id: str, message_id: str, recipients: str) -> None:
    """What has become of each receiver by now, of a message that is locked."""
    conn.execute(_set_recipients, {"app": app_id, "id": message_id, "all": recipients})


@per_dialect
def _pushes(sqlite: bool) -> Select[Any]:
    return select(m.message_id, m.push, m.push_held, m.priority, m.collapse_key).where(
        m.app_id == bindparam("app"),
        in_list(m.message_id, "ids", sqlite=sqlite),
        or_(m.push.is_not(None), m.push_held.is_not(None)),
    )


@per_dialect
def _escalations(sqlite: bool) -> Select[Any]:
    return select(m.message_id, m.escalate).where(
        m.app_id == bindparam("app"), in_list(m.message_id, "ids", sqlite=sqlite), m.escalate.is_not(None)
    )


def escalations_of(conn: Connection, app_id: str, ids: Iterable[str]) -> dict[str, str]:
    """The steps of those of these messages that have some, by id, in their stored form."""
    rows = conn.execute(_escalations(conn), {"app": app_id, "ids": as_list(conn, ids)})
    return {row.message_id: row.escalate for row in rows}


class Push(Struct, frozen=True, gc=False):
    """What a message shows: JSON of a notification, of its full form or fallback, and where it is held."""

    message_id: str
    push: str | None
    push_held: str | None
    priority: str
    collapse_key: str | None


def pushes_of(conn: Connection, app_id: str, ids: Iterable[str]) -> dict[str, Push]:
    """What these messages would show, by id."""
    pushes = [Push(*row) for row in many_rows(conn, _pushes(conn), {"app": app_id, "ids": as_list(conn, ids)})]
    return {one.message_id: one for one in pushes}


_forget_keys = text("DELETE FROM idempotency WHERE expires_ms <= :now")


def forget_keys(conn: Connection, now_ms: int) -> int:
    """Removes idempotency records whose time is over."""
    return conn.execute(_forget_keys, {"now": now_ms}).rowcount


LIFE_MS_MAX = 28 * 86_400_000
MESSAGE_KEPT_MS = 8 * 86_400_000  # after its life: longer than any idempotency record and the replay window
ROW_KEPT_MS = LIFE_MS_MAX + MESSAGE_KEPT_MS


def content_until_ms(accepted_ms: int, expires_ms: int, *, history_ms: int) -> int | None:
    """When a message's content goes, if that is before its row goes: not before it expires, nor while history keeps it."""
    return max(expires_ms, accepted_ms + history_ms) if history_ms < ROW_KEPT_MS else None


_FORGET = 500
_content_over = (
    select(m.app_id, m.message_id)
    .where(m.content_until_ms <= bindparam("now"))
    .order_by(m.content_until_ms, m.app_id, m.message_id)
    .limit(_FORGET)
)
_forget_content = (
    update(message)
    .where(m.app_id == bindparam("app"), m.message_id == bindparam("id"))
    .values(body=None, fallback=None, push=None, push_held=None, content_until_ms=None)
)


def forget_content(conn: Connection, now_ms: int) -> bool:
    """Blanks what messages said whose time in the history is over; gives whether there may be more."""
    rows = conn.execute(_content_over, {"now": now_ms}).all()
    if rows:
        found = sorted((row.app_id, row.message_id) for row in rows)  # as others lock messages
        conn.execute(_forget_content, [{"app": app_id, "id": one} for app_id, one in found])
    return len(rows) == _FORGET


_forgettable = (
    select(m.message_id, m.expires_ms)
    .where(m.app_id == bindparam("app"), m.message_id < bindparam("older"), m.expires_ms <= bindparam("before"))
    .order_by(m.message_id)
    .limit(_FORGET)
)
_forget_message = delete(message).where(m.app_id == bindparam("app"), m.message_id == bindparam("id"))


def forget_messages(conn: Connection, now_ms: int, app_id: str, *, history_ms: int) -> bool:
    """Removes messages long after their end; gives whether there may be more.

    Ids begin with the time, so the oldest are found by their key and need no index of their own.
    """
    older = message_id(now_ms - max(ROW_KEPT_MS, history_ms), 0)
    params = {"app": app_id, "older": older, "before": now_ms - MESSAGE_KEPT_MS}
    rows = conn.execute(_forgettable, params).all()
    if rows:
        conn.execute(_forget_message, [{"app": app_id, "id": row.message_id} for row in rows])
    return len(rows) == _FORGET
