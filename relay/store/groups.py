"""Rows of groups: who is a member, since and until which version. A membership that has ended stays, with its end."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, literal_column, select, update

from relay.model import UserKey
from relay.store.schema.conversations import conversation, membership
from relay.store.schema.inboxes import read_marker
from relay.store.sql import as_list, in_list, insert_missing, insert_rows, per_dialect

c, b = conversation.c, membership.c
GROUP = "group"
TELL_ALL = "all"


class Group(NamedTuple):
    """A group's row. `head_seq`: of its shared timeline, if it has one."""

    type: str
    head_seq: int
    members_version: int


_here = (c.app_id == bindparam("app"), c.conversation_id == bindparam("group"))
_group = select(c.type, c.head_seq, c.members_version).where(*_here)
_lock = _group.with_for_update()


def make_group(conn: Connection, app_id: str, group: str, *, type_: str = GROUP, epoch: str) -> None:
    """Makes the group, if it does not exist yet."""
    row = {
        "app_id": app_id,
        "conversation_id": group,
        "type": type_,
        "epoch": epoch,
        "head_seq": 0,
        "floor_seq": 0,
        "members_version": 0,
    }
    insert_missing(conn, conversation, [row])


def lock_group(conn: Connection, app_id: str, group: str) -> Group | None:
    """Takes the group's lock: its membership changes one change at a time."""
    row = conn.execute(_lock, {"app": app_id, "group": group}).first()
    return None if row is None else Group(*row)


def _named(sqlite: bool) -> Select[Any]:
    named = (c.app_id == bindparam("app"), in_list(c.conversation_id, "groups", sqlite=sqlite))
    return select(c.conversation_id).where(*named).order_by(c.conversation_id)  # of one alphabet: the server's


_keep = per_dialect(lambda sqlite: _named(sqlite).with_for_update(read=True, key_share=True))
_keep_names = per_dialect(lambda sqlite: _named(sqlite).with_for_update(read=True))


def keep_members(conn: Connection, app_id: str, groups: Iterable[str]) -> None:
    """Has nobody join or leave these until the commit; lets posts be, and whoever is renamed or erased (`hold_groups_of`).
    Before any inbox's lock, as are all locks of conversations."""
    conn.execute(_keep(conn), {"app": app_id, "groups": as_list(conn, groups)}).all()


def keep_names(conn: Connection, app_id: str, groups: Iterable[str]) -> None:
    """As `keep_members`, and nobody of them is renamed or erased."""
    conn.execute(_keep_names(conn), {"app": app_id, "groups": as_list(conn, groups)}).all()


_of_user = select(b.conversation_id).where(b.app_id == bindparam("app"), b.user_id == bindparam("user"))
_hold = (
    select(c.conversation_id)
    .where(c.app_id == bindparam("app"), c.conversation_id.in_(_of_user))
    # Shared timelines first, as whoever sends to both.
    .order_by(c.type == literal_column(f"'{GROUP}'"), c.conversation_id)
    .with_for_update(key_share=True)  # whoever wakes their members goes on
)


def hold_groups_of(conn: Connection, user: UserKey) -> set[str]:
    """Takes the locks of the user's groups, and gives these: until the commit nothing comes that names their members, nor any
    job for them, and nobody joins or leaves. Before the locks of jobs and inboxes."""
    return set(conn.execute(_hold, {"app": user.app_id, "user": user.user_id}).scalars())


def groups_of(conn: Connection, user: UserKey) -> set[str]:
    """Where the user is a member, or was."""
    return set(conn.execute(_of_user, {"app": user.app_id, "user": user.user_id}).scalars())


def group_of(conn: Connection, app_id: str, group: str) -> Group | None:
    """The group as of this snapshot, without its lock."""
    row = conn.execute(_group, {"app": app_id, "group": group}).first()
    return None if row is None else Group(*row)


_set_type = update(conversation).where(*_here).values(type=bindparam("kind"))


def set_type(conn: Connection, app_id: str, group: str, type_: str) -> None:
    conn.execute(_set_type, {"app": app_id, "group": group, "kind": type_})


_current = (b.app_id == bindparam("app"), b.conversation_id == bindparam("group"), b.left_version.is_(None))
_join_at = update(membership).where(*_current).values(joined_seq=bindparam("seq"), wake_seq=bindparam("seq"))
_begin = update(conversation).where(*_here).values(head_seq=bindparam("seq"), floor_seq=bindparam("seq"))


@per_dialect
def _read(sqlite: bool) -> Select[Any]:
    r = read_marker.c
    here = (r.app_id == bindparam("app"), r.conversation_id == bindparam("group"))
    return select(func.max(r.read_seq)).where(*here, in_list(r.user_id, "users", sqlite=sqlite))


def begin_numbers(conn: Connection, app_id: str, group: str, users: Iterable[str]) -> int:
    """Has a shared timeline that has no entry yet begin after all that these have read of the conversation by the numbers of
    their inboxes: by those they would have read it already. Gives where."""
    here = {"app": app_id, "group": group}
    seq = int(conn.execute(_read(conn), here | {"users": as_list(conn, users)}).scalar() or 0)
    if seq:
        conn.execute(_begin, here | {"seq": seq})
        conn.execute(_join_at, here | {"seq": seq})
    return seq


@per_dialect
def _ahead(sqlite: bool) -> Select[Any]:
    r = read_marker.c
    here = (r.app_id == bindparam("app"), r.conversation_id == bindparam("group"), r.read_seq > bindparam("seq"))
    return select(r.user_id).where(*here, in_list(r.user_id, "users", sqlite=sqlite))


_set_marker = (
    update(read_marker)
    .where(
        read_marker.c.app_id == bindparam("app"),
        read_marker.c.conversation_id == bindparam("group"),
        read_marker.c.user_id == bindparam("user"),
        read_marker.c.read_seq > bindparam("seq"),
    )
    .values(read_seq=bindparam("seq"))
)


def read_ahead(conn: Connection, app_id: str, group: str, users: Iterable[str], *, seq: int) -> list[str]:
    """Which of these have read the conversation beyond this number: by those of their inboxes, if its timeline ends there."""
    here = {"app": app_id, "group": group, "users": as_list(conn, users), "seq": seq}
    return sorted(conn.execute(_ahead(conn), here).scalars())


def bound_markers(conn: Connection, app_id: str, group: str, users: Sequence[str], *, seq: int) -> None:
    """Has these, whose locks are held, have read no more than up to there."""
    if users:
        conn.execute(_set_marker, [{"app": app_id, "group": group, "user": user, "seq": seq} for user in users])


_set_version = update(conversation).where(*_here).values(members_version=bindparam("version"))


def set_version(conn: Connection, app_id: str, group: str, version: int) -> None:
    conn.execute(_set_version, {"app": app_id, "group": group, "version": version})


_members = (
    select(b.user_id).where(*_current, b.user_id > bindparam("after")).order_by(b.user_id).limit(bindparam("count"))
)


def members(conn: Connection, app_id: str, group: str, *, after: str = "", limit: int) -> list[str]:
    """Who is a member now, in the order of their names."""
    params = {"app": app_id, "group": group, "after": after, "count": limit}
    return list(conn.execute(_members, params).scalars().all())


_count = select(func.count()).select_from(membership).where(*_current)


def count(conn: Connection, app_id: str, group: str) -> int:
    """How many members there are now."""
    return int(conn.execute(_count, {"app": app_id, "group": group}).scalar_one())


@per_dialect
def _among(sqlite: bool) -> Select[Any]:
    return select(b.user_id).where(*_current, in_list(b.user_id, "users", sqlite=sqlite))


def members_among(conn: Connection, app_id: str, group: str, users: Iterable[str]) -> set[str]:
    """Who of these is a member now."""
    params = {"app": app_id, "group": group, "users": as_list(conn, users)}
    return set(conn.execute(_among(conn), params).scalars().all())


def add(
    conn: Connection, app_id: str, group: str, users: Sequence[str], *, version: int, seq: int, notify: str = TELL_ALL
) -> None:
    """They are members from this version on."""
    head = {"app_id": app_id, "conversation_id": group}
    tail = {
        "joined_version": version,
        "left_version": None,
        "joined_seq": seq,
        "left_seq": None,
        "notify": notify,
        "wake_seq": seq,
    }
    insert_rows(conn, membership, [head | {"user_id": user} | tail for user in users])


# What woke it before it wanted to be told of everything is no reason to be told now.
_set_notify = update(membership).where(*_current, b.user_id == bindparam("user"), b.notify != bindparam("level"))
_set_notify = _set_notify.values(notify=bindparam("level"), wake_seq=0)


def set_notify(conn: Connection, app_id: str, group: str, user: str, level: str) -> None:
    """What a member is told of: everything (`all`), or mentions alone."""
    conn.execute(_set_notify, {"app": app_id, "group": group, "user": user, "level": level})


@per_dialect
def _end(sqlite: bool) -> Any:
    return (
        update(membership)
        .where(*_current, in_list(b.user_id, "users", sqlite=sqlite))
        .values(left_version=bindparam("version"), left_seq=bindparam("seq"))
    )


def end(conn: Connection, app_id: str, group: str, users: Iterable[str], *, version: int, seq: int) -> None:
    """They are members no more, from this version on."""
    params = {"app": app_id, "group": group, "users": as_list(conn, users), "version": version, "seq": seq}
    conn.execute(_end(conn), params)
