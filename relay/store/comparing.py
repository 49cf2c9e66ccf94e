"""Rows for comparing a device's store with the inbox: entries without their bodies, and what was released to it."""

from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, literal_column, select

from relay.model import DeviceKey, Entry, UserKey
from relay.store.inbox import DECIDING, WITH_MESSAGE, entry_of
from relay.store.schema import inbox_entry, message

e, m = inbox_entry.c, message.c


class ComparedRow(NamedTuple):
    entry: Entry
    h: str | None
    fallback_h: str | None
    ended_by_seq: int | None


_here = (e.app_id == bindparam("app"), e.user_id == bindparam("user"))
_compared = (
    select(*DECIDING, m.h, m.fallback_h.label("lesser_h"), e.ended_by_seq)
    .select_from(WITH_MESSAGE)
    .where(*_here, e.seq > bindparam("after"), e.seq <= bindparam("upto"))
    .order_by(e.seq)
    .limit(bindparam("count"))
)


def compared_rows(conn: Connection, key: UserKey, *, after: int, upto: int, limit: int) -> list[ComparedRow]:
    """Entries in (after, upto], in order, with the fingerprints of their forms."""
    params: dict[str, Any] = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit}
    split = len(DECIDING)
    return [ComparedRow(entry_of(row), *row[split:]) for row in conn.execute(_compared, params).all()]


_releases = (
    select(e.seq, e.message_id, e.data)
    .where(
        *_here, e.kind == literal_column("'release'"), e.only_device == bindparam("device"), e.seq > bindparam("after")
    )
    .order_by(e.seq)
)


def releases(conn: Connection, key: DeviceKey, *, after: int) -> list[tuple[int, str, str | None]]:
    """What was released to this device: (seq, message id, data), in order."""
    params = {"app": key.app_id, "user": key.user_id, "device": key.device_id, "after": after}
    return [(seq, message_id, data) for seq, message_id, data in conn.execute(_releases, params).all()]
