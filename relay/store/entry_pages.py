"""Entries with everything that a page shows of their messages."""

import msgspec
from sqlalchemy import Connection, bindparam, select

from relay.model import Entry, UserKey
from relay.store.entries import DECIDING, HERE, WITH_MESSAGE, entry_of
from relay.store.schema.inboxes import inbox_entry, message
from relay.store.sql import many_rows

e, m = inbox_entry.c, message.c


class Content(msgspec.Struct, frozen=True):
    """What a page shows of an entry's message; all None for control entries."""

    type: str
    body: str | None
    h: str
    fallback: str | None
    fallback_h: str | None
    conversation_type: str
    sender_user: str | None
    sender_device: str | None
    client_ref: str | None
    priority: str
    collapse_key: str | None
    accepted_ms: int
    deliver_ms: int | None


# The key is the entry's: a copy for the sender's own devices replaces nothing, and nothing replaces it.
_content = [
    (e.collapse_key if name == "collapse_key" else m[name]).label(f"content_{name}")
    for name in Content.__struct_fields__
]
_page = (
    select(*DECIDING, *_content)
    .select_from(WITH_MESSAGE)
    .where(*HERE, e.seq > bindparam("after"), e.seq <= bindparam("upto"))
    .order_by(e.seq)
    .limit(bindparam("count"))
)


def page_rows(conn: Connection, key: UserKey, *, after: int, upto: int, limit: int) -> list[tuple[Entry, Content]]:
    """Entries in (after, upto] with everything that a page shows, in order."""
    params = {"app": key.app_id, "user": key.user_id, "after": after, "upto": upto, "count": limit}
    split = len(DECIDING)
    return [(entry_of(row), Content(*row[split:])) for row in many_rows(conn, _page, params)]


_page_back = (
    select(*DECIDING, *_content)
    .select_from(WITH_MESSAGE)
    .where(*HERE, e.seq < bindparam("before"))
    .order_by(e.seq.desc())
    .limit(bindparam("count"))
)


def page_rows_back(conn: Connection, key: UserKey, *, before: int, limit: int) -> list[tuple[Entry, Content]]:
    """As `page_rows`, backwards from a number."""
    params = {"app": key.app_id, "user": key.user_id, "before": before, "count": limit}
    split = len(DECIDING)
    return [(entry_of(row), Content(*row[split:])) for row in many_rows(conn, _page_back, params)]
