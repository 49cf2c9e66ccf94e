"""Rows of inboxes: the lock, the numbers, messages and entries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    Connection,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    type_coerce,
    update,
)

from relay.ids import message_id
from relay.model import EVERYWHERE, Entry, EntryState, Inbox, Kind, NotifyPolicy, Scope, UserKey
from relay.store.schema import idempotency, inbox, inbox_entry, message, read_marker, store_meta
from relay.store.sql import (
    as_list,
    in_list,
    insert_missing,
    insert_rows,
    is_sqlite,
    many_rows,
    per_dialect,
    update_rows,
)

e, m = inbox_entry.c, message.c
_live = e.state == literal_column("'live'")  # not a parameter: only so does a partial index answer
_inbox = [inbox.c[name] for name in Inbox.__struct_fields__]

# --- the lock and the numbers -----------------------------------------------------------------------------------------


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
    for app_id, users in _by_app(keys).items():
        rows = conn.execute(_lock(conn), {"app": app_id, "users": as_list(conn, sorted(users))})
        for row in rows.all():
            found[UserKey(app_id, row.user_id)] = Inbox(*row)
    return found


def _by_app(keys: Iterable[UserKey]) -> dict[str, set[str]]:
    apps: dict[str, set[str]] = {}
    for key in sorted(keys):
        apps.setdefault(key.app_id, set()).add(key.user_id)
    return apps


_inbox_of = select(*_inbox).where(inbox.c.app_id == bindparam("app"), inbox.c.user_id == bindparam("user"))


def inbox_of(conn: Connection, key: UserKey) -> Inbox | None:
    """The inbox as of this snapshot, without its lock."""
    row = conn.execute(_inbox_of, {"app": key.app_id, "user": key.user_id}).first()
    return None if row is None else Inbox(*row)


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


_set_head = (
    update(inbox)
    .where(inbox.c.app_id == bindparam("app"), inbox.c.user_id == bindparam("user"))
    .values(head_seq=bindparam("head"))
)


def set_heads(conn: Connection, heads: Mapping[UserKey, int]) -> None:
    if not heads:
        return
    if is_sqlite(conn):
        conn.execute(_set_head, [{"app": k.app_id, "user": k.user_id, "head": head} for k, head in heads.items()])
    else:
        rows = [{"app_id": k.app_id, "user_id": k.user_id, "head_seq": head} for k, head in heads.items()]
        update_rows(conn, inbox, rows, key=("app_id", "user_id"), set_={"head_seq": "v.head_seq"})


def set_inbox(conn: Connection, key: UserKey, **values: Any) -> None:
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
        for app_id, users in _by_app(keys).items()
        for row in conn.execute(_heads(conn), {"app": app_id, "users": as_list(conn, users)})
    }


_store_epoch = select(store_meta.c.epoch).where(store_meta.c.id == 1)


def store_epoch(conn: Connection) -> str:
    return str(conn.execute(_store_epoch).scalar_one())


# --- idempotency ------------------------------------------------------------------------------------------------------


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


# --- messages and entries ---------------------------------------------------------------------------------------------


def append(conn: Connection, messages: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> None:
    insert_rows(conn, message, messages)
    insert_rows(conn, inbox_entry, entries)


@per_dialect
def _messages(sqlite: bool) -> Select[Any]:
    return select(message).where(m.app_id == bindparam("app"), in_list(m.message_id, "ids", sqlite=sqlite))


def messages(conn: Connection, app_id: str, ids: Iterable[str]) -> dict[str, Row[Any]]:
    rows = conn.execute(_messages(conn), {"app": app_id, "ids": as_list(conn, ids)})
    return {row.message_id: row for row in rows}


_set_recipients = (
    update(message)
    .where(m.app_id == bindparam("app"), m.message_id == bindparam("id"))
    .values(recipients=bindparam("all"))
)


def set_recipients(conn: Connection, app_id: str, message_id: str, recipients: str) -> None:
    """What has become of each receiver by now."""
    conn.execute(_set_recipients, {"app": app_id, "id": message_id, "all": recipients})


@per_dialect
def _pushes(sqlite: bool) -> Select[Any]:
    return select(m.message_id, m.push, m.push_held, m.priority, m.collapse_key).where(
        m.app_id == bindparam("app"),
        in_list(m.message_id, "ids", sqlite=sqlite),
        or_(m.push.is_not(None), m.push_held.is_not(None)),
    )


class Push(NamedTuple):
    """What a message shows: JSON of a notification, of its full form or fallback, and where it is held."""

    message_id: str
    push: str | None
    push_held: str | None
    priority: str
    collapse_key: str | None


def pushes_of(conn: Connection, app_id: str, ids: Iterable[str]) -> dict[str, Push]:
    """What these messages would show, by id."""
    rows = conn.execute(_pushes(conn), {"app": app_id, "ids": as_list(conn, ids)})
    return {row.message_id: Push(*row) for row in rows}


# The columns that decide who gets an entry and how: everything but the content.
DECIDING = (
    e.user_id,
    e.seq,
    e.message_id,
    e.kind,
    e.only_device,
    e.origin_device,
    e.origin_session,
    e.notifiable,
    e.state,
    e.accepted_ms,
    e.expires_ms,
    e.completed_ms,
    e.data,
    m.conversation_id,
    m.min_schema,
    m.min_app_version,
    m.fallback_h.label("fallback_h"),
    m.hold,
    m.scope,
    m.notify_policy,
    m.notify_release,
    type_coerce(m.push_held.is_not(None), Integer).label("tells_held"),  # a Boolean would have to be converted
    type_coerce(m.push.is_(None), Integer).label("only_held"),
)
WITH_MESSAGE = inbox_entry.outerjoin(message, and_(m.app_id == e.app_id, m.message_id == e.message_id))
_KINDS = {str(kind): kind for kind in Kind}
_STATES = {str(state): state for state in EntryState}


class _ScopeRow(msgspec.Struct):
    devices: tuple[str, ...] = ()
    exclude_devices: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    first_ack_wins: bool = False


def scope_of(text_: str | None) -> Scope:
    if text_ is None:
        return EVERYWHERE
    row = msgspec.json.decode(text_, type=_ScopeRow)
    return Scope(
        devices=row.devices,
        exclude_devices=row.exclude_devices,
        platforms=row.platforms,
        first_ack_wins=row.first_ack_wins,
    )


def scope_text(scope: Scope) -> str | None:
    if scope is EVERYWHERE or scope == EVERYWHERE:
        return None
    return msgspec.json.encode(
        _ScopeRow(scope.devices, scope.exclude_devices, scope.platforms, scope.first_ack_wins)
    ).decode()


def entry_of(row: Sequence[Any]) -> Entry:
    (
        _,
        seq,
        id_,
        kind,
        only_device,
        origin_device,
        origin_session,
        notifiable,
        state,
        accepted_ms,
        expires_ms,
        completed_ms,
        data,
        conversation_id,
        min_schema,
        min_app_version,
        fallback_h,
        hold,
        scope,
        notify,
        notify_release,
        tells_held,
        only_held,
    ) = row[: len(DECIDING)]
    return Entry(
        seq,
        id_,
        _KINDS[kind],
        only_device,
        origin_device,
        origin_session,
        bool(notifiable),
        _STATES[state],
        accepted_ms,
        expires_ms,
        completed_ms,
        data,
        conversation_id,
        min_schema,
        min_app_version,
        fallback_h is not None,
        bool(hold),
        EVERYWHERE if scope is None else scope_of(scope),
        None if notify is None else NotifyPolicy(notify),
        bool(notify_release),
        bool(tells_held),
        bool(only_held),
    )


_here = (e.app_id == bindparam("app"), e.user_id == bindparam("user"))
_between = (
    select(*DECIDING)
    .select_from(WITH_MESSAGE)
    .where(*_here, e.seq > bindparam("after"), e.seq <= bindparam("upto"))
    .order_by(e.seq)
    .limit(bindparam("count"))
)


def entries_between(conn: Connection, key: UserKey, *, after: int, upto: int, limit: int) -> list[Entry]:
    """Entries with numbers in (after, upto], without their content, at most `limit`."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit}
    return [entry_of(row) for row in many_rows(conn, _between, params)]


_notifiable = (
    select(*DECIDING)
    .select_from(WITH_MESSAGE)
    .where(
        *_here,
        e.seq > bindparam("after"),
        e.seq <= bindparam("upto"),
        e.notifiable == 1,
        _live,
        e.expires_ms > bindparam("now"),
    )
    .order_by(e.seq)
    .limit(bindparam("count"))
)


def notifiable_between(
    conn: Connection, key: UserKey, now_ms: int, *, after: int, upto: int, limit: int
) -> list[Entry]:
    """As `entries_between`, only what is live and may be worth a notification."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit, "now": now_ms}
    return [entry_of(row) for row in conn.execute(_notifiable, params).all()]


@per_dialect
def _alive(sqlite: bool) -> Select[Any]:
    return select(e.user_id, e.message_id, e.seq).where(
        e.app_id == bindparam("app"),
        in_list(e.user_id, "users", sqlite=sqlite),
        in_list(e.message_id, "ids", sqlite=sqlite),
        e.notifiable == 1,
        _live,
        e.expires_ms > bindparam("now"),
    )


def alive(
    conn: Connection, now_ms: int, app_id: str, users: Iterable[str], ids: Iterable[str]
) -> dict[tuple[str, str], list[int]]:
    """Numbers of the entries of these messages that still live and may be worth a notification, by user and message."""
    found: dict[tuple[str, str], list[int]] = {}
    params = {"app": app_id, "users": as_list(conn, users), "ids": as_list(conn, ids), "now": now_ms}
    for row in conn.execute(_alive(conn), params):
        found.setdefault((row.user_id, row.message_id), []).append(row.seq)
    return found


@per_dialect
def _by_message(sqlite: bool) -> Select[Any]:
    return select(*DECIDING).select_from(WITH_MESSAGE).where(*_here, in_list(e.message_id, "ids", sqlite=sqlite))


def entries_of_messages(conn: Connection, key: UserKey, ids: Iterable[str]) -> list[Entry]:
    params = {"app": key.app_id, "user": key.user_id, "ids": as_list(conn, ids)}
    # Asked for in order, SQLite would rather walk the whole inbox than sort a handful.
    return sorted((entry_of(row) for row in conn.execute(_by_message(conn), params).all()), key=lambda one: one.seq)


@per_dialect
def _by_seq(sqlite: bool) -> Select[Any]:
    return (
        select(*DECIDING).select_from(WITH_MESSAGE).where(*_here, in_list(e.seq, "seqs", sqlite=sqlite)).order_by(e.seq)
    )


def entries_at(conn: Connection, key: UserKey, seqs: Iterable[int]) -> list[Entry]:
    params = {"app": key.app_id, "user": key.user_id, "seqs": as_list(conn, seqs)}
    return [entry_of(row) for row in conn.execute(_by_seq(conn), params).all()]


_by_collapse = select(e.seq).where(*_here, e.collapse_key == bindparam("collapse"), _live)


def live_of_collapse_key(conn: Connection, key: UserKey, collapse_key: str) -> list[int]:
    params = {"app": key.app_id, "user": key.user_id, "collapse": collapse_key}
    return sorted(conn.execute(_by_collapse, params).scalars().all())


@per_dialect
def _collapse_keys(sqlite: bool) -> Select[Any]:
    return select(e.seq, e.collapse_key).where(*_here, in_list(e.seq, "seqs", sqlite=sqlite))


def collapse_keys_at(conn: Connection, key: UserKey, seqs: Iterable[int]) -> dict[int, str | None]:
    """The collapse keys of these entries."""
    params = {"app": key.app_id, "user": key.user_id, "seqs": as_list(conn, seqs)}
    return {row.seq: row.collapse_key for row in conn.execute(_collapse_keys(conn), params).all()}


_id_at = select(e.message_id).where(*_here, e.seq == bindparam("seq"))


def id_at(conn: Connection, key: UserKey, seq: int) -> str | None:
    """The id of the entry with this number; None if it has been pruned (or never was)."""
    return conn.execute(_id_at, {"app": key.app_id, "user": key.user_id, "seq": seq}).scalar_one_or_none()


_live_above = select(func.count()).select_from(inbox_entry).where(*_here, e.seq > bindparam("after"), _live)


def count_live_above(conn: Connection, key: UserKey, seq: int) -> int:
    return int(conn.execute(_live_above, {"app": key.app_id, "user": key.user_id, "after": seq}).scalar_one())


class Content(msgspec.Struct, frozen=True):
    """What a page shows of an entry's message; all None for control entries."""

    type: str
    body: str | None
    h: str
    fallback: str | None
    fallback_h: str | None
    conversation_type: str
    sender_user: str | None
    sender_device: str | None
    client_ref: str | None
    priority: str
    collapse_key: str | None


_page = (
    select(*DECIDING, *(m[name].label(f"content_{name}") for name in Content.__struct_fields__))
    .select_from(WITH_MESSAGE)
    .where(*_here, e.seq > bindparam("after"), e.seq <= bindparam("upto"))
    .order_by(e.seq)
    .limit(bindparam("count"))
)


def page_rows(conn: Connection, key: UserKey, *, after: int, upto: int, limit: int) -> list[tuple[Entry, Content]]:
    """Entries in (after, upto] with everything that a page shows, in order."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit}
    split = len(DECIDING)
    return [(entry_of(row), Content(*row[split:])) for row in many_rows(conn, _page, params)]


_page_back = (
    select(*DECIDING, *(m[name].label(f"content_{name}") for name in Content.__struct_fields__))
    .select_from(WITH_MESSAGE)
    .where(*_here, e.seq < bindparam("before"))
    .order_by(e.seq.desc())
    .limit(bindparam("count"))
)


def page_rows_back(conn: Connection, key: UserKey, *, before: int, limit: int) -> list[tuple[Entry, Content]]:
    """As `page_rows`, backwards from a number."""
    params = {"app": key.app_id, "user": key.user_id, "before": before, "count": limit}
    split = len(DECIDING)
    return [(entry_of(row), Content(*row[split:])) for row in many_rows(conn, _page_back, params)]


_last_before = select(func.max(e.seq)).where(*_here, e.accepted_ms < bindparam("since"))


def last_seq_before(conn: Connection, key: UserKey, since_ms: int, *, floor: int) -> int:
    """The highest number accepted before then, or the floor."""
    found = conn.execute(_last_before, {"app": key.app_id, "user": key.user_id, "since": since_ms}).scalar()
    return floor if found is None else max(int(found), floor)


@per_dialect
def _end(sqlite: bool) -> Any:
    return (
        update(inbox_entry)
        .where(*_here, in_list(e.seq, "seqs", sqlite=sqlite), _live)
        .values(state=bindparam("to"), ended_ms=bindparam("now"), ended_by_seq=bindparam("by"))
    )


def end_entries(
    conn: Connection, key: UserKey, now_ms: int, *, seqs: Iterable[int], state: EntryState, by: int | None
) -> None:
    """Ends live entries; one that has ended stays as it was."""
    conn.execute(
        _end(conn),
        {
            "app": key.app_id,
            "user": key.user_id,
            "seqs": as_list(conn, seqs),
            "to": str(state),
            "now": now_ms,
            "by": by,
        },
    )


@per_dialect
def _complete(sqlite: bool) -> Any:
    return (
        update(inbox_entry).where(*_here, in_list(e.seq, "seqs", sqlite=sqlite)).values(completed_ms=bindparam("now"))
    )


def mark_completed(conn: Connection, key: UserKey, now_ms: int, seqs: Iterable[int]) -> None:
    conn.execute(_complete(conn), {"app": key.app_id, "user": key.user_id, "seqs": as_list(conn, seqs), "now": now_ms})


_expiring = (
    select(e.app_id, e.user_id, e.seq)
    .where(_live, e.expires_ms <= bindparam("now"))
    .order_by(e.expires_ms)
    .limit(bindparam("count"))
)


def expiring(conn: Connection, now_ms: int, *, limit: int) -> dict[UserKey, list[int]]:
    """Live entries whose time is over, by user. Read again under the lock before ending them."""
    found: dict[UserKey, list[int]] = {}
    for row in conn.execute(_expiring, {"now": now_ms, "count": limit}).all():
        found.setdefault(UserKey(row.app_id, row.user_id), []).append(row.seq)
    return found


# --- read markers -----------------------------------------------------------------------------------------------------


@per_dialect
def _markers(sqlite: bool) -> Select[Any]:
    c = read_marker.c
    return select(c.user_id, c.conversation_id, c.read_seq).where(
        c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite)
    )


def read_markers(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, dict[str, int]]:
    """How far each user has read, by conversation; users without a marker are left out."""
    found: dict[UserKey, dict[str, int]] = {}
    for app_id, users in _by_app(keys).items():
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


# --- the floor --------------------------------------------------------------------------------------------------------

_prune = delete(inbox_entry).where(*_here, e.seq <= bindparam("floor"))


def prune_entries(conn: Connection, key: UserKey, *, floor: int) -> None:
    """Removes everything up to `floor` and raises the floor. Messages go by their own age, when nobody can ask for them."""
    conn.execute(_prune, {"app": key.app_id, "user": key.user_id, "floor": floor})
    set_inbox(conn, key, floor_seq=floor)


_forget_keys = text("DELETE FROM idempotency WHERE expires_ms <= :now")


def forget_keys(conn: Connection, now_ms: int) -> int:
    """Removes idempotency records whose time is over."""
    return conn.execute(_forget_keys, {"now": now_ms}).rowcount


_FORGET = 500
_forgettable = (
    select(m.message_id, m.expires_ms)
    .where(m.app_id == bindparam("app"), m.message_id < bindparam("older"), m.expires_ms <= bindparam("before"))
    .order_by(m.message_id)
    .limit(_FORGET)
)
_forget_message = delete(message).where(m.app_id == bindparam("app"), m.message_id == bindparam("id"))
LIFE_MS_MAX = 28 * 86_400_000
MESSAGE_KEPT_MS = 8 * 86_400_000  # after its life: longer than any idempotency record and the replay window


def forget_messages(conn: Connection, now_ms: int, app_id: str) -> bool:
    """Removes messages long after their end; gives whether there may be more.

    Ids begin with the time, so the oldest are found by their key and need no index of their own.
    """
    older = message_id(now_ms - LIFE_MS_MAX - MESSAGE_KEPT_MS, 0)
    params = {"app": app_id, "older": older, "before": now_ms - MESSAGE_KEPT_MS}
    rows = conn.execute(_forgettable, params).all()
    if rows:
        conn.execute(_forget_message, [{"app": app_id, "id": row.message_id} for row in rows])
    return len(rows) == _FORGET


_prunable_users = select(inbox.c.app_id, inbox.c.user_id).where(inbox.c.head_seq > inbox.c.floor_seq)


def inboxes_after(conn: Connection, after: UserKey | None, *, limit: int) -> list[UserKey]:
    """Users with entries, in key order, for chores that walk all inboxes."""
    statement = _prunable_users.order_by(inbox.c.app_id, inbox.c.user_id).limit(limit)
    if after is not None:
        statement = statement.where(
            (inbox.c.app_id > after.app_id) | ((inbox.c.app_id == after.app_id) & (inbox.c.user_id > after.user_id))
        )
    return [UserKey(row.app_id, row.user_id) for row in conn.execute(statement).all()]
