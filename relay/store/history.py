"""Rows for looking back: messages by the time they were accepted, and what was accepted or happened in one hour."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, select

from relay.model import UserKey
from relay.store.schema.conversations import fanout_job
from relay.store.schema.inboxes import inbox_entry, message
from relay.store.schema.webhooks import event
from relay.store.sql import before, beyond

m, e, v, f = message.c, inbox_entry.c, event.c, fanout_job.c


class Place(NamedTuple):
    """Where a walk by time stands: after or before this row."""

    ms: int
    id: str


_back = (
    select(message)
    .where(
        m.app_id == bindparam("app"),
        before((m.accepted_ms, m.message_id), "ms", "id"),
        m.accepted_ms >= bindparam("since"),
    )
    .order_by(m.accepted_ms.desc(), m.message_id.desc())
    .limit(bindparam("count"))
)


def messages_back(conn: Connection, app_id: str, *, before: Place, since_ms: int, limit: int) -> Sequence[Row[Any]]:
    """Messages accepted before that place and not before `since_ms`, the newest first."""
    params = {"app": app_id, "ms": before.ms, "id": before.id, "since": since_ms, "count": limit}
    return conn.execute(_back, params).all()


_of_user = (
    select(message, e.seq, e.kind, e.state, e.accepted_ms.label("entered_ms"))
    .select_from(inbox_entry.join(message, and_(m.app_id == e.app_id, m.message_id == e.message_id)))
    .where(
        e.app_id == bindparam("app"),
        e.user_id == bindparam("user"),
        e.seq < bindparam("before"),
        e.kind.in_(("message", "own", "pointer")),
    )
    .order_by(e.seq.desc())
    .limit(bindparam("count"))
)


def entries_back(conn: Connection, key: UserKey, *, before: int, limit: int) -> Sequence[Row[Any]]:
    """Messages of one inbox, with what became of them there, the newest number first."""
    params = {"app": key.app_id, "user": key.user_id, "before": before, "count": limit}
    return conn.execute(_of_user, params).all()


_hour = (
    select(message)
    .where(
        m.app_id == bindparam("app"),
        m.accepted_ms < bindparam("end"),
        beyond((m.accepted_ms, m.message_id), "ms", "id"),
    )
    .order_by(m.accepted_ms, m.message_id)
    .limit(bindparam("count"))
)


def messages_of(conn: Connection, app_id: str, *, after: Place, end_ms: int, limit: int) -> Sequence[Row[Any]]:
    """Messages accepted after that place and before `end_ms`, in order."""
    params = {"app": app_id, "ms": after.ms, "id": after.id, "end": end_ms, "count": limit}
    return conn.execute(_hour, params).all()


_events = (
    select(v.event_id, v.type, v.data, v.created_ms)
    .where(
        v.app_id == bindparam("app"),
        v.created_ms < bindparam("end"),
        beyond((v.created_ms, v.event_id), "ms", "id"),
    )
    .order_by(v.created_ms, v.event_id)
    .limit(bindparam("count"))
)


def events_of(conn: Connection, app_id: str, *, after: Place, end_ms: int, limit: int) -> Sequence[Any]:
    """Events that happened after that place and before `end_ms`, in order."""
    params = {"app": app_id, "ms": after.ms, "id": after.id, "end": end_ms, "count": limit}
    return conn.execute(_events, params).all()


_message_at, _event_at = (
    select(at)
    .where(app == bindparam("app"), at >= bindparam("since"), at < bindparam("end"))
    .order_by(at, id_)
    .limit(1)
    for app, at, id_ in ((m.app_id, m.accepted_ms, m.message_id), (v.app_id, v.created_ms, v.event_id))
)


def spans_in_use(conn: Connection, app_id: str, *, since_ms: int, end_ms: int, span_ms: int) -> set[int]:
    """Where those spans of time begin in which a message was accepted or an event happened: two looks at an index for each."""
    found: set[int] = set()
    for first in (_message_at, _event_at):
        at_ms = since_ms
        while (ms := conn.execute(first, {"app": app_id, "since": at_ms, "end": end_ms}).scalar()) is not None:
            found.add(ms - ms % span_ms)
            at_ms = ms - ms % span_ms + span_ms
    return found


_fanouts = (
    select(f.job_id)
    .where(f.app_id == bindparam("app"), f.accepted_ms < bindparam("end"))
    .order_by(f.accepted_ms, f.job_id)
    .limit(bindparam("count"))
)


def open_fanouts(conn: Connection, app_id: str, *, end_ms: int, limit: int) -> list[str]:
    """Fan-outs of what was accepted before `end_ms` that are not done, the oldest first."""
    return list(conn.execute(_fanouts, {"app": app_id, "end": end_ms, "count": limit}).scalars().all())
