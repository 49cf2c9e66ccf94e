"""Rows of those who read shared timelines: what each may see of one, how far its devices are, what it was woken for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, exists, func, literal_column, or_, select, update

from relay.model import DeviceKey, TimelineKey, UserKey
from relay.store.schema.conversations import conversation, membership
from relay.store.schema.devices import device_shared
from relay.store.schema.inboxes import inbox, inbox_entry, message
from relay.store.schema.push import push_attempt
from relay.store.sql import as_list, by_app, device_params, in_list, is_sqlite, per_dialect, upsert
from relay.store.timelines import ULTRA

b, c, d = membership.c, conversation.c, device_shared.c
TELL_ALL = "all"
_mine = (b.app_id == bindparam("app"), b.user_id == bindparam("user"))
_shared = and_(c.app_id == b.app_id, c.conversation_id == b.conversation_id, c.type == literal_column(f"'{ULTRA}'"))
_told = and_(b.notify == literal_column("'all'"), b.left_version.is_(None))

# --- what a user may see ----------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """A stay in a conversation: its member sees the numbers above `joined_seq`, up to `left_seq` once it has left."""

    joined_seq: int
    left_seq: int | None


_spans = (
    select(b.joined_seq, b.left_seq).where(*_mine, b.conversation_id == bindparam("place")).order_by(b.joined_version)
)


def spans_of(conn: Connection, user: UserKey, conversation_id: str) -> list[Span]:
    """Every stay of the user, the first one first; none: it never was a member."""
    params = {"app": user.app_id, "user": user.user_id, "place": conversation_id}
    return [Span(*row) for row in conn.execute(_spans, params).all()]


_places = select(b.conversation_id).distinct().select_from(membership.join(conversation, _shared)).where(*_mine)


def places_of(conn: Connection, user: UserKey) -> list[str]:
    """The conversations with a shared timeline that the user is or was a member of."""
    return sorted(conn.execute(_places, {"app": user.app_id, "user": user.user_id}).scalars().all())


class Place(NamedTuple):
    """A shared timeline of a member, and how far its device has acked in it."""

    conversation_id: str
    head_seq: int
    floor_seq: int
    joined_seq: int
    acked_seq: int | None


_acked = func.nullif(d.acked_seq, 0)  # where that is not known, it stands where its user joined
_current = (
    select(c.conversation_id, c.head_seq, c.floor_seq, b.joined_seq, d.acked_seq)
    .select_from(
        membership.join(conversation, _shared).outerjoin(
            device_shared,
            and_(
                d.app_id == b.app_id,
                d.user_id == b.user_id,
                d.device_id == bindparam("device"),
                d.conversation_id == b.conversation_id,
            ),
        )
    )
    .where(*_mine, b.left_version.is_(None), c.head_seq > func.coalesce(_acked, b.joined_seq))
    .order_by(b.conversation_id)
    .limit(bindparam("count"))
)


def ahead_of(conn: Connection, key: DeviceKey, *, limit: int) -> list[Place]:
    """Shared timelines of the device's user that stand above what the device has acked."""
    params = device_params(key) | {"count": limit}
    return [Place(*row) for row in conn.execute(_current, params).all()]


_pointers = (
    select(message.c.conversation_id, func.count())
    .select_from(
        inbox_entry.join(
            message, and_(message.c.app_id == inbox_entry.c.app_id, message.c.message_id == inbox_entry.c.message_id)
        )
    )
    .where(
        inbox_entry.c.app_id == bindparam("app"),
        inbox_entry.c.user_id == bindparam("user"),
        inbox_entry.c.seq > bindparam("after"),
        or_(
            inbox_entry.c.kind == "pointer",
            and_(
                inbox_entry.c.kind == "release",
                inbox_entry.c.only_device == bindparam("device"),
                inbox_entry.c.data.contains('"mention":true'),
            ),
        ),
        inbox_entry.c.state == literal_column("'live'"),
    )
    .group_by(message.c.conversation_id)
)


def mentions_above(conn: Connection, key: DeviceKey, seq: int) -> dict[str, int]:
    """How many mentions stand in the inbox above this number for the device, by conversation."""
    params = device_params(key) | {"after": seq}
    return {row[0]: row[1] for row in conn.execute(_pointers, params)}


# --- how far devices are ----------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """How far a device has acked and been told in a shared timeline. The store that is there now may have acked less than one
    before it, `acked_high`: that stays acked."""

    acked_seq: int
    acked_high: int
    pushed_seq: int

    @classmethod
    def acked(cls, seq: int) -> "Read":
        return cls(seq, seq, seq)

    @classmethod
    def told(cls, seq: int) -> "Read":
        return cls(0, 0, seq)


NEVER = Read.told(0)


@per_dialect
def _of_users(sqlite: bool) -> Select[Any]:
    return select(d.user_id, d.device_id, d.conversation_id, d.acked_seq, d.acked_high, d.pushed_seq).where(
        d.app_id == bindparam("app"), in_list(d.user_id, "users", sqlite=sqlite)
    )


def reads_of(conn: Connection, users: Iterable[UserKey]) -> dict[DeviceKey, dict[str, Read]]:
    """By device and conversation; where a device has neither acked nor been told anything, nothing."""
    found: dict[DeviceKey, dict[str, Read]] = {}
    for app_id, names in by_app(users).items():
        for user_id, device_id, place, *read in conn.execute(
            _of_users(conn), {"app": app_id, "users": as_list(conn, names)}
        ).all():
            found.setdefault(DeviceKey(app_id, user_id, device_id), {})[place] = Read(*read)
    return found


def raise_read(conn: Connection, key: DeviceKey, reads: Mapping[str, Read]) -> None:
    """Raises how far the device has acked and been told, by conversation. The one falls by `forget`, the other by `untell`."""
    most = "max" if is_sqlite(conn) else "greatest"
    rows = [
        {
            "app_id": key.app_id,
            "user_id": key.user_id,
            "device_id": key.device_id,
            "conversation_id": place,
            "acked_seq": read.acked_seq,
            "acked_high": read.acked_high,
            "pushed_seq": read.pushed_seq,
        }
        for place, read in sorted(reads.items())
    ]
    raised = {name: f"{most}(device_shared.{name}, excluded.{name})" for name in Read._fields}
    upsert(conn, device_shared, rows, set_=raised)


_here = (
    d.app_id == bindparam("app"),
    d.user_id == bindparam("user"),
    d.device_id == bindparam("device"),
)
_forget = (
    update(device_shared).where(*_here, d.conversation_id == bindparam("place")).values(acked_seq=literal_column("0"))
)


def forget(conn: Connection, key: DeviceKey, places: Iterable[str]) -> None:
    """What the device's store has of these timelines is not known any more. What was acked and told stays so."""
    rows = [device_params(key) | {"place": place} for place in sorted(places)]
    if rows:
        conn.execute(_forget, rows)


_set_told = (
    update(device_shared).where(*_here, d.conversation_id == bindparam("place")).values(pushed_seq=bindparam("told"))
)


def set_told(conn: Connection, key: DeviceKey, told: Mapping[str, int]) -> None:
    """How far the device counts as told, by conversation; there is a row of each."""
    if told:
        conn.execute(_set_told, [device_params(key) | {"place": one, "told": told[one]} for one in sorted(told)])


_told_by = (
    update(device_shared).where(*_here, d.conversation_id == bindparam("place")).values(told_claim=bindparam("claim"))
)


def note_told(conn: Connection, key: DeviceKey, places: Iterable[str], *, claim_token: int) -> None:
    """Which attempt told the device of these timelines; there is a row of each."""
    rows = [device_params(key) | {"place": place, "claim": claim_token} for place in sorted(places)]
    if rows:
        conn.execute(_told_by, rows)


_untell = (
    update(device_shared)
    .where(
        *_here,
        d.pushed_seq > d.acked_high,
        exists().where(
            push_attempt.c.app_id == d.app_id,
            push_attempt.c.user_id == d.user_id,
            push_attempt.c.device_id == d.device_id,
            push_attempt.c.claim_token == d.told_claim,
            push_attempt.c.account == bindparam("of"),
            push_attempt.c.token_hash == bindparam("hash"),
        ),
    )
    .values(pushed_seq=d.acked_high)
)


def untell(conn: Connection, key: DeviceKey, *, account: str, token_hash: bytes) -> None:
    """What this address of the device was told last, and the device has not acked, counts as told no more."""
    conn.execute(_untell, device_params(key) | {"of": account, "hash": token_hash})


_told_of = (
    select(d.user_id)
    .distinct()
    .where(
        d.app_id == bindparam("app"),
        d.conversation_id == bindparam("place"),
        d.acked_high < bindparam("seq"),
        d.pushed_seq >= bindparam("seq"),
    )
    .order_by(d.user_id)
    .limit(bindparam("count"))
)


def told_of(conn: Connection, key: TimelineKey, seq: int, *, limit: int) -> list[UserKey]:
    """Users with a device that was told of this number through a vendor, and has not acked it."""
    params = {"app": key.app_id, "place": key.conversation_id, "seq": seq, "count": limit}
    return [UserKey(key.app_id, user) for user in conn.execute(_told_of, params).scalars()]


_stay = and_(b.app_id == d.app_id, b.conversation_id == d.conversation_id, b.user_id == d.user_id)
_acked_by = (
    select(func.count(d.user_id.distinct()))
    .select_from(device_shared.join(membership, _stay))
    .where(
        d.app_id == bindparam("app"),
        d.conversation_id == bindparam("place"),
        d.acked_high >= bindparam("seq"),
        b.joined_seq < bindparam("seq"),
        or_(b.left_seq.is_(None), b.left_seq >= bindparam("seq")),
    )
)


def acked_by(conn: Connection, key: TimelineKey, seq: int) -> int:
    """How many users who were members at this number have acked it on some device."""
    params = {"app": key.app_id, "place": key.conversation_id, "seq": seq}
    return int(conn.execute(_acked_by, params).scalar_one())


_acked_above = (
    select(b.joined_seq, b.left_seq, func.max(d.acked_high))
    .select_from(device_shared.join(membership, _stay))
    .where(d.app_id == bindparam("app"), d.conversation_id == bindparam("place"), d.acked_high > bindparam("floor"))
    .group_by(b.user_id, b.joined_version, b.joined_seq, b.left_seq)
)


def acked_above(conn: Connection, key: TimelineKey, floor: int) -> list[tuple[int, int]]:
    """What was acked of each stay in the conversation, the numbers (from, to], by users who have acked beyond `floor`."""
    params = {"app": key.app_id, "place": key.conversation_id, "floor": floor}
    stays = [
        (joined, min(acked, acked if left is None else left))
        for joined, left, acked in conn.execute(_acked_above, params)
    ]
    return [(low, high) for low, high in stays if low < high]


# --- what users are woken for -----------------------------------------------------------------------------------------

_to_wake = (
    select(b.user_id)
    .where(
        b.app_id == bindparam("app"),
        b.conversation_id == bindparam("place"),
        _told,
        b.user_id > bindparam("after"),
        b.joined_seq < bindparam("seq"),
    )
    .order_by(b.user_id)
    .limit(bindparam("count"))
)


def to_wake(conn: Connection, key: TimelineKey, *, seq: int, after: str, limit: int) -> list[str]:
    """Members that want to be told of everything and may see this number, in the order of their names."""
    params = {"app": key.app_id, "place": key.conversation_id, "seq": seq, "after": after, "count": limit}
    return list(conn.execute(_to_wake, params).scalars().all())


_seeing = (
    select(b.user_id)
    .where(
        b.app_id == bindparam("app"),
        b.conversation_id == bindparam("place"),
        b.user_id > bindparam("after"),
        b.joined_seq < bindparam("seq"),
        or_(b.left_seq.is_(None), b.left_seq >= bindparam("seq")),
    )
    .order_by(b.user_id)
    .limit(bindparam("count"))
)


def seeing(conn: Connection, key: TimelineKey, *, seq: int, after: str, limit: int) -> list[str]:
    """Everybody who was a member when this number was given, in the order of their names."""
    params = {"app": key.app_id, "place": key.conversation_id, "seq": seq, "after": after, "count": limit}
    return list(conn.execute(_seeing, params).scalars().all())


@per_dialect
def _wake(sqlite: bool) -> Any:
    raised = (func.max if sqlite else func.greatest)(b.wake_seq, bindparam("seq"))
    return (
        update(membership)
        .where(
            b.app_id == bindparam("app"),
            b.conversation_id == bindparam("place"),
            in_list(b.user_id, "users", sqlite=sqlite),
            b.left_version.is_(None),
        )
        .values(wake_seq=raised)
    )


@per_dialect
def _mark(sqlite: bool) -> Any:
    return (
        update(inbox)
        .where(inbox.c.app_id == bindparam("app"), in_list(inbox.c.user_id, "users", sqlite=sqlite), inbox.c.woken == 0)
        .values(woken=1)
    )


def wake(conn: Connection, key: TimelineKey, users: Sequence[str], *, seq: int) -> None:
    """The reason why these members are to be told: the timeline up to `seq`. Under their locks."""
    place = {"app": key.app_id, "users": as_list(conn, users)}
    conn.execute(_wake(conn), place | {"place": key.conversation_id, "seq": seq})
    conn.execute(_mark(conn), place)


class Woken(NamedTuple):
    """A member's wish to be told of a timeline up to `wake_seq`."""

    conversation_id: str
    joined_seq: int
    wake_seq: int


@per_dialect
def _woken(sqlite: bool) -> Select[Any]:
    return (
        select(b.user_id, b.conversation_id, b.joined_seq, b.wake_seq)
        .where(
            b.app_id == bindparam("app"),
            in_list(b.user_id, "users", sqlite=sqlite),
            _told,
            b.wake_seq > b.joined_seq,
        )
        .order_by(b.conversation_id)
    )


def woken(conn: Connection, users: Iterable[UserKey]) -> dict[UserKey, list[Woken]]:
    """What each user was woken for, ever, and still wants to be told of."""
    found: dict[UserKey, list[Woken]] = {}
    for app_id, names in by_app(users).items():
        for user_id, *rest in conn.execute(_woken(conn), {"app": app_id, "users": as_list(conn, names)}).all():
            found.setdefault(UserKey(app_id, user_id), []).append(Woken(*rest))
    return found
