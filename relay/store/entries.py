"""Rows of entries: what stands at a number of an inbox. How they end: `entry_ends`; with their content: `entry_pages`."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    literal_column,
    select,
    type_coerce,
)

from relay.model import EVERYWHERE, Entry, EntryState, Kind, NotifyPolicy, Scope, UserKey
from relay.store.schema.inboxes import inbox_entry, message
from relay.store.sql import among, as_list, in_list, key_list, many_rows, per_dialect

e, m = inbox_entry.c, message.c
KEYS_TOGETHER = 1000  # in one statement: PostgreSQL reads them as an expression that is as deep, and its stack ends
LIVE = e.state == literal_column("'live'")  # not a parameter: only so does a partial index answer

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
    e.escalated,
)
WITH_MESSAGE = inbox_entry.outerjoin(message, and_(m.app_id == e.app_id, m.message_id == e.message_id))
# Rows lie in the order of the key, so SQLite would rather walk a whole inbox, which it takes for short. PostgreSQL knows better.
BY_MESSAGE = (inbox_entry, "INDEXED BY inbox_entry_by_message", "sqlite")
_BY_COLLAPSE = (inbox_entry, "INDEXED BY inbox_entry_by_collapse", "sqlite")
_KINDS = {str(kind): kind for kind in Kind}
_STATES = {str(state): state for state in EntryState}


class _ScopeRow(msgspec.Struct):
    devices: tuple[str, ...] = ()
    exclude_devices: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    first_ack_wins: bool = False
    online: bool = False


def scope_of(text_: str | None) -> Scope:
    """From its stored form; None: for everybody."""
    if text_ is None:
        return EVERYWHERE
    row = msgspec.json.decode(text_, type=_ScopeRow)
    return Scope(
        devices=row.devices,
        exclude_devices=row.exclude_devices,
        platforms=row.platforms,
        first_ack_wins=row.first_ack_wins,
        online=row.online,
    )


def scope_text(scope: Scope) -> str | None:
    """The stored form."""
    if scope is EVERYWHERE or scope == EVERYWHERE:
        return None
    return msgspec.json.encode(
        _ScopeRow(scope.devices, scope.exclude_devices, scope.platforms, scope.first_ack_wins, scope.online)
    ).decode()


def entry_of(row: Sequence[Any]) -> Entry:
    """From the columns of DECIDING, which come first."""
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
        escalated,
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
        escalated,
    )


HERE = (e.app_id == bindparam("app"), e.user_id == bindparam("user"))
_between = (
    select(*DECIDING)
    .select_from(WITH_MESSAGE)
    .where(*HERE, e.seq > bindparam("after"), e.seq <= bindparam("upto"))
    .order_by(e.seq)
    .limit(bindparam("count"))
)


def entries_between(conn: Connection, key: UserKey, *, after: int, upto: int, limit: int) -> list[Entry]:
    """Entries with numbers in (after, upto], without their content, at most `limit`."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit}
    return [entry_of(row) for row in many_rows(conn, _between, params)]


_worth_telling = (
    *HERE,
    e.seq > bindparam("after"),
    e.seq <= bindparam("upto"),
    e.notifiable == 1,
    LIVE,
    e.expires_ms > bindparam("now"),
)
_told = select(*DECIDING).select_from(WITH_MESSAGE).where(*_worth_telling).limit(bindparam("count"))
_notifiable, _newest_notifiable = _told.order_by(e.seq), _told.order_by(e.seq.desc())


def notifiable_between(
    conn: Connection, key: UserKey, now_ms: int, *, after: int, upto: int, limit: int
) -> list[Entry]:
    """As `entries_between`, only what is live and may be worth a notification."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit, "now": now_ms}
    return [entry_of(row) for row in conn.execute(_notifiable, params).all()]


def newest_notifiable(conn: Connection, key: UserKey, now_ms: int, *, after: int, upto: int, limit: int) -> list[Entry]:
    """As `notifiable_between`, of very many the newest."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit, "now": now_ms}
    return [entry_of(row) for row in reversed(conn.execute(_newest_notifiable, params).all())]


_counted = select(func.count()).select_from(inbox_entry).where(*_worth_telling)


def count_notifiable(conn: Connection, key: UserKey, now_ms: int, *, after: int, upto: int) -> int:
    """How many entries `notifiable_between` would give without a limit."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "now": now_ms}
    return int(conn.execute(_counted, params).scalar_one())


@per_dialect
def _alive(sqlite: bool) -> Select[Any]:
    return (
        select(e.user_id, e.message_id, e.seq)
        .where(
            # Pair by pair: two lists would have each user looked up under each message.
            among(e.app_id, e.message_id, e.user_id, sqlite=sqlite),
            e.notifiable == 1,
            LIVE,
            e.expires_ms > bindparam("now"),
        )
        .with_hint(*BY_MESSAGE)
    )


def alive(
    conn: Connection, now_ms: int, app_id: str, wanted: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], list[int]]:
    """Numbers of the entries that still live and may be worth a notification, by user and message. `wanted`: these."""
    found: dict[tuple[str, str], list[int]] = {}
    keys = [(app_id, message_id, user_id) for user_id, message_id in dict.fromkeys(wanted)]
    for start in range(0, len(keys), KEYS_TOGETHER):
        params = {"keys": key_list(conn, keys[start : start + KEYS_TOGETHER]), "now": now_ms}
        for user_id, message_id, seq in many_rows(conn, _alive(conn), params):
            found.setdefault((user_id, message_id), []).append(seq)
    return found


@per_dialect
def _by_message(sqlite: bool) -> Select[Any]:
    return (
        select(*DECIDING)
        .select_from(WITH_MESSAGE)
        .where(*HERE, in_list(e.message_id, "ids", sqlite=sqlite))
        .with_hint(*BY_MESSAGE)
    )


def entries_of_messages(conn: Connection, key: UserKey, ids: Iterable[str]) -> list[Entry]:
    """All entries that carry these messages, or are about them, in order."""
    params = {"app": key.app_id, "user": key.user_id, "ids": as_list(conn, ids)}
    # Asked for in order, SQLite would rather walk the whole inbox than sort a handful.
    return sorted((entry_of(row) for row in conn.execute(_by_message(conn), params).all()), key=lambda one: one.seq)


@per_dialect
def _of_message(sqlite: bool) -> Select[Any]:
    return (
        select(*DECIDING)
        .select_from(WITH_MESSAGE)
        .where(
            e.app_id == bindparam("app"), e.message_id == bindparam("id"), in_list(e.user_id, "users", sqlite=sqlite)
        )
        .with_hint(*BY_MESSAGE)
    )


def entries_of_message(conn: Connection, app_id: str, message_id: str, users: Iterable[str]) -> dict[str, list[Entry]]:
    """By user, of these: all entries that carry this message, or are about it, in order."""
    params = {"app": app_id, "id": message_id, "users": as_list(conn, users)}
    found: dict[str, list[Entry]] = {}
    for row in sorted(conn.execute(_of_message(conn), params).all(), key=lambda row: row.seq):
        found.setdefault(row.user_id, []).append(entry_of(row))
    return found


@per_dialect
def _receivers(sqlite: bool) -> Select[Any]:
    return (
        select(e.user_id)
        .where(
            e.app_id == bindparam("app"), e.message_id == bindparam("id"), in_list(e.user_id, "users", sqlite=sqlite)
        )
        .with_hint(*BY_MESSAGE)
    )


def receivers_among(conn: Connection, app_id: str, message_id: str, users: Iterable[str]) -> set[str]:
    """Those of these users who have the message in their inboxes."""
    params = {"app": app_id, "id": message_id, "users": as_list(conn, users)}
    return set(conn.execute(_receivers(conn), params).scalars())


@per_dialect
def _by_seq(sqlite: bool) -> Select[Any]:
    return (
        select(*DECIDING).select_from(WITH_MESSAGE).where(*HERE, in_list(e.seq, "seqs", sqlite=sqlite)).order_by(e.seq)
    )


def entries_at(conn: Connection, key: UserKey, seqs: Iterable[int]) -> list[Entry]:
    """The entries with these numbers, as far as they are there, in order."""
    params = {"app": key.app_id, "user": key.user_id, "seqs": as_list(conn, seqs)}
    return [entry_of(row) for row in conn.execute(_by_seq(conn), params).all()]


_by_collapse = select(e.seq).where(*HERE, e.collapse_key == bindparam("collapse"), LIVE).with_hint(*_BY_COLLAPSE)


def live_of_collapse_key(conn: Connection, key: UserKey, collapse_key: str) -> list[int]:
    """Numbers of the live entries of this key, in order."""
    params = {"app": key.app_id, "user": key.user_id, "collapse": collapse_key}
    return sorted(conn.execute(_by_collapse, params).scalars().all())


@per_dialect
def _collapse_keys(sqlite: bool) -> Select[Any]:
    return select(e.seq, e.collapse_key).where(*HERE, in_list(e.seq, "seqs", sqlite=sqlite))


def collapse_keys_at(conn: Connection, key: UserKey, seqs: Iterable[int]) -> dict[int, str | None]:
    """The collapse keys of these entries."""
    params = {"app": key.app_id, "user": key.user_id, "seqs": as_list(conn, seqs)}
    return {row.seq: row.collapse_key for row in conn.execute(_collapse_keys(conn), params).all()}


_id_at = select(e.message_id).where(*HERE, e.seq == bindparam("seq"))


def id_at(conn: Connection, key: UserKey, seq: int) -> str | None:
    """The id of the entry with this number; None if it has been pruned (or never was)."""
    return conn.execute(_id_at, {"app": key.app_id, "user": key.user_id, "seq": seq}).scalar_one_or_none()


_live_above = select(func.count()).select_from(inbox_entry).where(*HERE, e.seq > bindparam("after"), LIVE)


def count_live_above(conn: Connection, key: UserKey, seq: int) -> int:
    """How many entries above this number have not ended."""
    return int(conn.execute(_live_above, {"app": key.app_id, "user": key.user_id, "after": seq}).scalar_one())


_last_before = select(func.max(e.seq)).where(*HERE, e.accepted_ms < bindparam("since"))


def last_seq_before(conn: Connection, key: UserKey, since_ms: int, *, floor: int) -> int:
    """The highest number accepted before then, or the floor."""
    found = conn.execute(_last_before, {"app": key.app_id, "user": key.user_id, "since": since_ms}).scalar()
    return floor if found is None else max(int(found), floor)
