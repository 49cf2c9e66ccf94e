"""Rows of inboxes: the lock, the numbers, how far each conversation is read."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, text, update

from relay.model import Inbox, UserKey
from relay.store.schema.inboxes import inbox, read_marker
from relay.store.schema.itself import store_meta
from relay.store.sql import as_list, beyond, by_app, in_list, insert_missing, many_rows, per_dialect, update_rows

_inbox = [inbox.c[name] for name in Inbox.__struct_fields__]


@per_dialect
def _lock(sqlite: bool) -> Select[Any]:
    return (
        select(*_inbox)
        .where(inbox.c.app_id == bindparam("app"), in_list(inbox.c.user_id, "users", sqlite=sqlite))
        .order_by(inbox.c.user_id)
        .with_for_update(key_share=True)  # FOR NO KEY UPDATE; SQLite's writer is alone anyway
    )


def lock_inboxes(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, Inbox]:
    """Takes L(u) of every user, in order, and gives their inboxes; users without one are left out.

    Nothing else may be read in this statement: on PostgreSQL other tables would still show the time before the wait.
    """
    found: dict[UserKey, Inbox] = {}
    for app_id, users in by_app(keys).items():
        for row in many_rows(conn, _lock(conn), {"app": app_id, "users": as_list(conn, users)}):
            one = Inbox(*row)
            found[UserKey(app_id, one.user_id)] = one
    return found


_inbox_of = select(*_inbox).where(inbox.c.app_id == bindparam("app"), inbox.c.user_id == bindparam("user"))


def inbox_of(conn: Connection, key: UserKey) -> Inbox | None:
    """The inbox as of this snapshot, without its lock."""
    row = conn.execute(_inbox_of, {"app": key.app_id, "user": key.user_id}).first()
    return None if row is None else Inbox(*row)


@per_dialect
def _inboxes(sqlite: bool) -> Select[Any]:
    return select(*_inbox).where(inbox.c.app_id == bindparam("app"), in_list(inbox.c.user_id, "users", sqlite=sqlite))


def inboxes_of(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, Inbox]:
    """The inboxes of these users as of this snapshot, without their locks; users without one are left out."""
    found: dict[UserKey, Inbox] = {}
    for app_id, users in by_app(keys).items():
        for row in conn.execute(_inboxes(conn), {"app": app_id, "users": as_list(conn, users)}).all():
            found[UserKey(app_id, row.user_id)] = Inbox(*row)
    return found


def create_inboxes(conn: Connection, now_ms: int, epochs: Mapping[UserKey, str]) -> None:
    """Makes the inboxes that do not exist yet; `epochs` gives a fresh random epoch for each."""
    rows = [
        {
            "app_id": key.app_id,
            "user_id": key.user_id,
            "epoch": epochs[key],
            "head_seq": 0,
            "floor_seq": 0,
            "pinned_until_ms": 0,
            "created_ms": now_ms,
        }
        for key in sorted(epochs)
    ]
    insert_missing(conn, inbox, rows)


def set_heads(conn: Connection, heads: Mapping[UserKey, int]) -> None:
    """Raises the newest numbers. Under L(u)."""
    rows = [(*key, head) for key, head in heads.items()]
    key = UserKey._fields
    update_rows(conn, inbox, (*key, "head_seq"), rows, key=key, set_={"head_seq": "v.head_seq"})


def set_inbox(conn: Connection, key: UserKey, **values: Any) -> None:
    """Sets columns of the row. Under L(u)."""
    conn.execute(update(inbox).where(inbox.c.app_id == key.app_id, inbox.c.user_id == key.user_id).values(**values))


@per_dialect
def _heads(sqlite: bool) -> Select[Any]:
    return select(inbox.c.user_id, inbox.c.head_seq).where(
        inbox.c.app_id == bindparam("app"), in_list(inbox.c.user_id, "users", sqlite=sqlite)
    )


def heads_of(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, int]:
    """Newest numbers of many inboxes, one query an app."""
    return {
        UserKey(app_id, row.user_id): row.head_seq
        for app_id, users in by_app(keys).items()
        for row in conn.execute(_heads(conn), {"app": app_id, "users": as_list(conn, users)})
    }


_store_epoch = select(store_meta.c.epoch).where(store_meta.c.id == 1)


def store_epoch(conn: Connection) -> str:
    """The epoch of the whole store."""
    return str(conn.execute(_store_epoch).scalar_one())


@per_dialect
def _markers(sqlite: bool) -> Select[Any]:
    c = read_marker.c
    return select(c.user_id, c.conversation_id, c.read_seq).where(
        c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite)
    )


def read_markers(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, dict[str, int]]:
    """How far each user has read, by conversation; users without a marker are left out."""
    found: dict[UserKey, dict[str, int]] = {}
    for app_id, users in by_app(keys).items():
        for user_id, conversation_id, seq in conn.execute(
            _markers(conn), {"app": app_id, "users": as_list(conn, users)}
        ).all():
            found.setdefault(UserKey(app_id, user_id), {})[conversation_id] = seq
    return found


_raise_marker = text(
    "INSERT INTO read_marker (app_id, user_id, conversation_id, read_seq, updated_ms) "
    "VALUES (:app, :user, :conversation, :seq, :now) "
    "ON CONFLICT (app_id, user_id, conversation_id) DO UPDATE "
    "SET read_seq = excluded.read_seq, updated_ms = excluded.updated_ms"
)


def set_read_marker(conn: Connection, key: UserKey, now_ms: int, *, conversation_id: str, seq: int) -> None:
    """Writes a marker; the caller has seen under the lock that it grows."""
    conn.execute(
        _raise_marker,
        {"app": key.app_id, "user": key.user_id, "conversation": conversation_id, "seq": seq, "now": now_ms},
    )


_key = (inbox.c.app_id, inbox.c.user_id)
_with_entries = (
    select(*_key)
    .where(inbox.c.head_seq > inbox.c.floor_seq, beyond(_key, "app", "user"))
    .order_by(*_key)
    .limit(bindparam("count"))
)


def inboxes_after(conn: Connection, after: UserKey | None, *, limit: int) -> list[UserKey]:
    """Users with entries, in key order, for chores that walk all inboxes."""
    app_id, user_id = after or ("", "")
    rows = conn.execute(_with_entries, {"app": app_id, "user": user_id, "count": limit})
    return [UserKey(row.app_id, row.user_id) for row in rows]
