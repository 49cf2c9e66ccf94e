"""How entries end: by a word, by their time, and in the end by pruning."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from relay.model import EntryState, UserKey
from relay.store.entries import HERE, LIVE
from relay.store.inbox import set_inbox
from relay.store.schema.inboxes import inbox_entry
from relay.store.sql import as_list, in_list, per_dialect, update_rows

e = inbox_entry.c


@per_dialect
def _end(sqlite: bool) -> Any:
    return (
        update(inbox_entry)
        .where(*HERE, in_list(e.seq, "seqs", sqlite=sqlite), LIVE)
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


_NUMBER = ("app_id", "user_id", "seq")


def mark_completed(conn: Connection, now_ms: int, seqs: Mapping[UserKey, Iterable[int]]) -> None:
    """The last delivery of each of these to its user has ended."""
    rows = [(*key, seq, now_ms) for key, some in seqs.items() for seq in some]
    columns = (*_NUMBER, "completed_ms")
    update_rows(conn, inbox_entry, columns, rows, key=_NUMBER, set_={"completed_ms": "v.completed_ms"})


_expiring = (
    select(e.app_id, e.user_id, e.seq)
    .where(LIVE, e.expires_ms <= bindparam("now"))
    .order_by(e.expires_ms)
    .limit(bindparam("count"))
)


def expiring(conn: Connection, now_ms: int, *, limit: int) -> dict[UserKey, list[int]]:
    """Live entries whose time is over, by user. Read again under the lock before ending them."""
    found: dict[UserKey, list[int]] = {}
    for row in conn.execute(_expiring, {"now": now_ms, "count": limit}).all():
        found.setdefault(UserKey(row.app_id, row.user_id), []).append(row.seq)
    return found


_prune = delete(inbox_entry).where(*HERE, e.seq <= bindparam("floor"))


def prune_entries(conn: Connection, key: UserKey, *, floor: int) -> None:
    """Removes everything up to `floor` and raises the floor. Messages go by their own age, when nobody can ask for them."""
    conn.execute(_prune, {"app": key.app_id, "user": key.user_id, "floor": floor})
    set_inbox(conn, key, floor_seq=floor)
