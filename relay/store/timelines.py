"""Rows of shared timelines: one entry for a message, however many read it (protocol 12.5).

The conversation's row is the lock and the counter, as an inbox's row is for an inbox. It is taken before any inbox.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    delete,
    literal_column,
    select,
    type_coerce,
    update,
)

from relay.model import Entry, EntryState, TimelineKey
from relay.store.entries import entry_of
from relay.store.entry_pages import Content
from relay.store.schema.conversations import conversation, timeline_entry
from relay.store.schema.inboxes import message
from relay.store.sql import as_list, beyond, in_list, insert_rows, many_rows, per_dialect

c, t, m = conversation.c, timeline_entry.c, message.c
ULTRA = "ultra"
EVERYONE = '{"everyone":true}'  # `data` of a message that all members have in their inboxes too
PRUNE_MAX = 500
_live = t.state == literal_column("'live'")  # not a parameter: only so does a partial index answer


class Timeline(NamedTuple):
    """A shared numbering, as an inbox is a user's."""

    app_id: str
    conversation_id: str
    epoch: str
    head_seq: int
    floor_seq: int

    @property
    def key(self) -> TimelineKey:
        return TimelineKey(self.app_id, self.conversation_id)


_columns = [c[name] for name in Timeline._fields]
_is_shared = c.type == literal_column(f"'{ULTRA}'")


def _select(sqlite: bool) -> Select[Any]:
    return (
        select(*_columns)
        .where(c.app_id == bindparam("app"), in_list(c.conversation_id, "names", sqlite=sqlite), _is_shared)
        .order_by(c.conversation_id)
    )


_timelines = per_dialect(_select)


@per_dialect
def _lock(sqlite: bool) -> Select[Any]:
    return _select(sqlite).with_for_update(key_share=True)  # as for inboxes


def lock(conn: Connection, keys: Iterable[TimelineKey]) -> dict[TimelineKey, Timeline]:
    """Takes the locks of those that are shared timelines, in order; others are left out. Nothing else may be read here."""
    return _found(conn, keys, _lock(conn))


def timelines(conn: Connection, keys: Iterable[TimelineKey]) -> dict[TimelineKey, Timeline]:
    """As of this snapshot, without locks."""
    return _found(conn, keys, _timelines(conn))


def _found(conn: Connection, keys: Iterable[TimelineKey], statement: Select[Any]) -> dict[TimelineKey, Timeline]:
    apps: dict[str, list[str]] = {}
    for key in sorted(set(keys)):
        apps.setdefault(key.app_id, []).append(key.conversation_id)
    found = {}
    for app_id, names in apps.items():
        for row in conn.execute(statement, {"app": app_id, "names": as_list(conn, names)}).all():
            one = Timeline(*row)
            found[one.key] = one
    return found


_this = (c.app_id == bindparam("app"), c.conversation_id == bindparam("place"))
_set_head = update(conversation).where(*_this).values(head_seq=bindparam("head"))
_set_epoch = update(conversation).where(*_this).values(epoch=bindparam("new"))


def _place(key: TimelineKey) -> dict[str, Any]:
    return {"app": key.app_id, "place": key.conversation_id}


def set_heads(conn: Connection, heads: Mapping[TimelineKey, int]) -> None:
    """Raises the newest numbers. Under the locks."""
    if heads:
        conn.execute(_set_head, [_place(key) | {"head": head} for key, head in heads.items()])


def set_epoch(conn: Connection, key: TimelineKey, epoch: str) -> None:
    """Voids every cursor in it."""
    conn.execute(_set_epoch, _place(key) | {"new": epoch})


# --- entries ----------------------------------------------------------------------------------------------------------


def append(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes entries."""
    insert_rows(conn, timeline_entry, rows)


# As an inbox's, in the order that `entry_of` reads.
_DECIDING: tuple[Any, ...] = (
    t.conversation_id.label("place"),
    t.seq,
    t.message_id,
    t.kind,
    literal_column("''").label("only_device"),
    t.origin_device,
    t.origin_session,
    t.notifiable,
    t.state,
    t.accepted_ms,
    t.expires_ms,
    literal_column("NULL").label("completed_ms"),
    t.data,
    t.conversation_id,
    m.min_schema,
    m.min_app_version,
    m.fallback_h.label("fallback_h"),
    m.hold,
    m.scope,
    m.notify_policy,
    m.notify_release,
    type_coerce(m.push_held.is_not(None), Integer).label("tells_held"),
    type_coerce(m.push.is_(None), Integer).label("only_held"),
    literal_column("NULL").label("escalated"),
)
_WITH_MESSAGE = timeline_entry.outerjoin(message, and_(m.app_id == t.app_id, m.message_id == t.message_id))
_here = (t.app_id == bindparam("app"), t.conversation_id == bindparam("place"))
_page = (
    select(*_DECIDING, *(m[name].label(f"content_{name}") for name in Content.__struct_fields__))
    .select_from(_WITH_MESSAGE)
    .where(*_here, t.seq > bindparam("after"), t.seq <= bindparam("upto"))
    .order_by(t.seq)
    .limit(bindparam("count"))
)


def page_rows(conn: Connection, key: TimelineKey, *, after: int, upto: int, limit: int) -> list[tuple[Entry, Content]]:
    """Entries in (after, upto] with everything that a page shows, in order."""
    params = _place(key) | {"after": after, "upto": upto, "count": limit}
    split = len(_DECIDING)
    return [(entry_of(row), Content(*row[split:])) for row in many_rows(conn, _page, params)]


_page_back = (
    select(*_DECIDING, *(m[name].label(f"content_{name}") for name in Content.__struct_fields__))
    .select_from(_WITH_MESSAGE)
    .where(*_here, t.seq > bindparam("after"), t.seq < bindparam("before"))
    .order_by(t.seq.desc())
    .limit(bindparam("count"))
)


def page_rows_back(
    conn: Connection, key: TimelineKey, *, after: int, before: int, limit: int
) -> list[tuple[Entry, Content]]:
    """As `page_rows`, backwards from a number down to another."""
    params = _place(key) | {"after": after, "before": before, "count": limit}
    split = len(_DECIDING)
    return [(entry_of(row), Content(*row[split:])) for row in many_rows(conn, _page_back, params)]


_notifiable = (
    select(*_DECIDING, m.sender_user)
    .select_from(_WITH_MESSAGE)
    .where(
        *_here,
        t.seq > bindparam("after"),
        t.seq <= bindparam("upto"),
        t.notifiable == 1,
        _live,
        t.expires_ms > bindparam("now"),
    )
    .limit(bindparam("count"))
)
_oldest = _notifiable.order_by(t.seq)
_newest = _notifiable.order_by(t.seq.desc())


def notifiable_between(
    conn: Connection, key: TimelineKey, now_ms: int, *, after: int, upto: int, limit: int, newest: bool = False
) -> list[tuple[Entry, str | None]]:
    """Live entries that may be worth a notification, in order, each with its sender: the oldest ones, or the newest."""
    params = _place(key) | {"after": after, "upto": upto, "count": limit, "now": now_ms}
    rows = conn.execute(_newest if newest else _oldest, params).all()
    return [(entry_of(row), row.sender_user) for row in (reversed(rows) if newest else rows)]


_announced = (
    select(t.message_id)
    .where(*_here, t.seq > bindparam("after"), t.seq <= bindparam("upto"), t.notifiable == 1)
    .order_by(t.seq.desc())
    .limit(bindparam("count"))
)


def announced_between(conn: Connection, key: TimelineKey, *, after: int, upto: int, limit: int) -> list[str]:
    """The newest messages that a notification may have told of, in order, those that have ended since among them."""
    params = _place(key) | {"after": after, "upto": upto, "count": limit}
    return list(reversed(conn.execute(_announced, params).scalars().all()))


_id_at = select(t.message_id).where(*_here, t.seq == bindparam("seq"))


def id_at(conn: Connection, key: TimelineKey, seq: int) -> str | None:
    """The id of the entry with this number; None if it has been pruned (or never was)."""
    return conn.execute(_id_at, _place(key) | {"seq": seq}).scalar_one_or_none()


class Posted(NamedTuple):
    """Where a message stands in a shared timeline, and whether it still does."""

    conversation_id: str
    seq: int
    state: str
    expires_ms: int
    data: str | None

    @property
    def everyone(self) -> bool:
        """Whether all members have it in their inboxes too."""
        return self.data == EVERYONE


_posted = select(t.conversation_id, t.seq, t.state, t.expires_ms, t.data).where(
    t.app_id == bindparam("app"), t.message_id == bindparam("id")
)


def posted(conn: Connection, app_id: str, message_id: str) -> Posted | None:
    """Where the message stands; None: in no shared timeline."""
    row = conn.execute(_posted, {"app": app_id, "id": message_id}).first()
    return None if row is None else Posted(*row)


@per_dialect
def _places_of(sqlite: bool) -> Select[Any]:
    return select(t.message_id, t.conversation_id).where(
        t.app_id == bindparam("app"), in_list(t.message_id, "ids", sqlite=sqlite)
    )


def standing_in(conn: Connection, key: TimelineKey, ids: Iterable[str]) -> set[str]:
    """Those of these messages that stand in this shared timeline."""
    rows = conn.execute(_places_of(conn), {"app": key.app_id, "ids": as_list(conn, ids)}).all()
    return {row.message_id for row in rows if row.conversation_id == key.conversation_id}


_collapsing = select(t.seq).where(*_here, t.collapse_key == bindparam("collapse"), _live)


def live_of_collapse_key(conn: Connection, key: TimelineKey, collapse_key: str) -> list[int]:
    """Numbers of the live entries of this key, in order."""
    return sorted(conn.execute(_collapsing, _place(key) | {"collapse": collapse_key}).scalars().all())


@per_dialect
def _end(sqlite: bool) -> Any:
    return (
        update(timeline_entry)
        .where(*_here, in_list(t.seq, "seqs", sqlite=sqlite), _live)
        .values(state=bindparam("to"), ended_by_seq=bindparam("by"))
    )


def end_entries(conn: Connection, key: TimelineKey, *, seqs: Iterable[int], state: EntryState, by: int | None) -> None:
    """Ends live entries; one that has ended stays as it was."""
    conn.execute(_end(conn), _place(key) | {"seqs": as_list(conn, seqs), "to": str(state), "by": by})


# --- the floor: time alone raises it ----------------------------------------------------------------------------------

_key = (c.app_id, c.conversation_id)
_with_entries = (
    select(*_columns)
    .where(_is_shared, c.head_seq > c.floor_seq, beyond(_key, "app", "place"))
    .order_by(*_key)
    .limit(bindparam("count"))
)


def after(conn: Connection, key: TimelineKey | None, *, limit: int) -> list[Timeline]:
    """Shared timelines with entries, in the order of their keys, for the chore that walks them."""
    app_id, place = key or ("", "")
    return [Timeline(*row) for row in conn.execute(_with_entries, {"app": app_id, "place": place, "count": limit})]


_first = (
    select(t.seq, t.message_id, t.kind, t.accepted_ms)
    .where(*_here, t.seq > bindparam("floor"))
    .order_by(t.seq)
    .limit(PRUNE_MAX)
)


def old_entries(conn: Connection, one: Timeline, before_ms: int) -> list[tuple[int, str, str]]:
    """The oldest entries, as far as they were accepted by then: (seq, message id, kind), at most PRUNE_MAX."""
    found = []
    for seq, id_, kind, accepted_ms in conn.execute(_first, _place(one.key) | {"floor": one.floor_seq}).all():
        if accepted_ms > before_ms:
            break
        found.append((seq, id_, kind))
    return found


_prune = delete(timeline_entry).where(*_here, t.seq <= bindparam("floor"))
_set_floor = update(conversation).where(*_this).values(floor_seq=bindparam("floor"))


def prune(conn: Connection, key: TimelineKey, *, floor: int) -> None:
    """Removes everything up to `floor` and raises the floor."""
    params = _place(key) | {"floor": floor}
    conn.execute(_prune, params)
    conn.execute(_set_floor, params)
