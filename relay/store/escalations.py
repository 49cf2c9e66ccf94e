"""Which entries have a step of theirs due while nobody has acked them (protocol 7.5), and which they have taken."""

from sqlalchemy import Connection, bindparam, select, update

from relay.model import UserKey
from relay.store.entries import BY_MESSAGE, HERE, LIVE
from relay.store.schema.inboxes import inbox_entry

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


_going_on = (
    select(e.user_id)
    .where(e.app_id == bindparam("app"), e.message_id == bindparam("id"), e.escalate_ms.is_not(None))
    .with_hint(*BY_MESSAGE)
)


def escalating_for(conn: Connection, app_id: str, message_id: str) -> set[str]:
    """Users for whom the message has another step to come."""
    return {row.user_id for row in conn.execute(_going_on, {"app": app_id, "id": message_id})}


_set_escalated = (
    update(inbox_entry)
    .where(*HERE, e.seq == bindparam("at"))
    .values(escalated=bindparam("done"), escalate_ms=bindparam("following"))
)


def set_escalated(conn: Connection, key: UserKey, seq: int, *, done: int, next_ms: int | None) -> None:
    """How many steps have been taken, and when the next one is; None: no more are."""
    params = {"app": key.app_id, "user": key.user_id, "at": seq, "done": done, "following": next_ms}
    conn.execute(_set_escalated, params)
