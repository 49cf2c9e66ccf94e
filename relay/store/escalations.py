"""Which entries have a step of theirs due while nobody has acked them (protocol 7.5), and which they have taken."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, update

from relay.model import UserKey
from relay.store.entries import BY_MESSAGE, HERE, LIVE
from relay.store.schema.inboxes import inbox_entry
from relay.store.sql import as_list, in_list, per_dialect

e = inbox_entry.c


_escalating = (
    select(e.app_id, e.user_id, e.seq, e.message_id)
    .where(LIVE, e.escalate_ms.is_not(None), e.escalate_ms <= bindparam("now"))
    .order_by(e.escalate_ms)
    .limit(bindparam("count"))
)


def escalating(conn: Connection, now_ms: int, *, limit: int) -> dict[UserKey, dict[int, str]]:
    """Live entries with a step that is due: by user, numbers and messages. Read again under the lock before taking it."""
    found: dict[UserKey, dict[int, str]] = {}
    for row in conn.execute(_escalating, {"now": now_ms, "count": limit}):
        found.setdefault(UserKey(row.app_id, row.user_id), {})[row.seq] = row.message_id
    return found


@per_dialect
def _going_on(sqlite: bool) -> Select[Any]:
    return (
        select(e.user_id)
        .where(
            e.app_id == bindparam("app"),
            e.message_id == bindparam("id"),
            in_list(e.user_id, "users", sqlite=sqlite),
            e.escalate_ms.is_not(None),
        )
        .with_hint(*BY_MESSAGE)
    )


def escalating_for(conn: Connection, app_id: str, message_id: str, users: Iterable[str]) -> set[str]:
    """Those of these users for whom the message has another step to come."""
    params = {"app": app_id, "id": message_id, "users": as_list(conn, users)}
    return {row.user_id for row in conn.execute(_going_on(conn), params)}


_set_escalated = (
    update(inbox_entry)
    .where(*HERE, e.seq == bindparam("at"))
    .values(escalated=bindparam("done"), escalate_ms=bindparam("following"))
)


def set_escalated(conn: Connection, key: UserKey, seq: int, *, done: int, next_ms: int | None) -> None:
    """How many steps have been taken, and when the next one is; None: no more are."""
    params = {"app": key.app_id, "user": key.user_id, "at": seq, "done": done, "following": next_ms}
    conn.execute(_set_escalated, params)
