"""Rows for comparing a device's store with the inbox: entries without their bodies, and what was released to it."""

from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, literal_column, select

from relay.model import DeviceKey, UserKey
from relay.store.entries import WITH_MESSAGE
from relay.store.schema.inboxes import inbox_entry, message
from relay.store.sql import device_params

e, m = inbox_entry.c, message.c


class ComparedRow(NamedTuple):
    """`plain`: a message that every device of the user sees in full, as nearly all are."""

    seq: int
    message_id: str
    kind: str
    state: str
    ended_by_seq: int | None
    expires_ms: int
    h: str | None
    fallback_h: str | None
    plain: int


_here = (e.app_id == bindparam("app"), e.user_id == bindparam("user"))
_plain = and_(
    e.kind == literal_column("'message'"),
    e.only_device == literal_column("''"),
    m.scope.is_(None),
    m.min_schema.is_(None),
    m.min_app_version.is_(None),
)
_compared = (
    select(
        e.seq,
        e.message_id,
        e.kind,
        e.state,
        e.ended_by_seq,
        e.expires_ms,
        m.h,
        m.fallback_h,
        case((_plain, literal_column("1")), else_=literal_column("0")).label("plain"),
    )
    .select_from(WITH_MESSAGE)
    .where(*_here, e.seq > bindparam("after"), e.seq <= bindparam("upto"))
    .order_by(e.seq)
    .limit(bindparam("count"))
)


def compared_rows(conn: Connection, key: UserKey, *, after: int, upto: int, limit: int) -> list[ComparedRow]:
    """What counts, or not, in (after, upto], in order, with the fingerprints of its forms."""
    params: dict[str, Any] = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit}
    return [ComparedRow(*row) for row in conn.execute(_compared, params).all()]


_releases = (
    select(e.seq, e.message_id, e.data)
    .where(
        *_here, e.kind == literal_column("'release'"), e.only_device == bindparam("device"), e.seq > bindparam("after")
    )
    .order_by(e.seq)
)


def releases(conn: Connection, key: DeviceKey, *, after: int) -> list[tuple[int, str, str | None]]:
    """What was released to this device: (seq, message id, data), in order."""
    params = device_params(key) | {"after": after}
    return [(seq, message_id, data) for seq, message_id, data in conn.execute(_releases, params).all()]
