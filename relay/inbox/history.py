"""Looking back at messages that are still kept (protocol §13). Never a substitute for sync: no promise goes with it.

A page is bounded work: so many rows are looked at, and a filter that lets few of them through makes it short, not slow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.clock import rfc3339
from relay.errors import Malformed
from relay.inbox import rules
from relay.inbox.page import entry_json, snapshot
from relay.inbox.rules import View
from relay.model import CARRIES_MESSAGE, SEQ_MAX, DeviceKey, UserKey
from relay.store import entries as entry_rows
from relay.store import history as rows
from relay.store.engine import Conn
from relay.store.history import Place

LOOKED_AT_MAX = 2000
NEWEST = Place(SEQ_MAX, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which messages. Without a user, all of the app."""

    limit: int
    cursor: str | None = None
    user: str | None = None
    conversation: str | None = None
    sender: str | None = None
    state: str | None = None
    since_ms: int = 0
    until_ms: int = SEQ_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Items, the newest first, and where the next page begins; None: there is nothing older."""

    items: list[Any]
    next: str | None


def of_app(conn: Conn, app_id: str, asked: Asked) -> Pages:
    """Raises Malformed (invalid_cursor)."""
    if asked.user is not None:
        return _of_user(conn, UserKey(app_id, asked.user), asked)
    place = NEWEST if asked.cursor is None else _place(asked.cursor)
    place = min(place, Place(asked.until_ms, ""))
    found = rows.messages_back(conn, app_id, before=place, since_ms=asked.since_ms, limit=LOOKED_AT_MAX)
    return _page(found, asked, lambda row: f"{row.accepted_ms}.{row.message_id}", lambda row: {})


def _of_user(conn: Conn, key: UserKey, asked: Asked) -> Pages:
    if asked.cursor is not None and not (asked.cursor.isdecimal() and len(asked.cursor) < 17):
        raise _refused()
    before = SEQ_MAX if asked.cursor is None else int(asked.cursor)
    found = rows.entries_back(conn, key, before=before, limit=LOOKED_AT_MAX)
    return _page(
        found,
        asked,
        lambda row: str(row.seq),
        lambda row: {"seq": row.seq, "kind": row.kind, "state": row.state},
    )


def _page(found: Any, asked: Asked, place_of: Callable[[Any], str], more: Callable[[Any], dict[str, Any]]) -> Pages:
    items: list[Any] = []
    for row in found:
        if _fits(row, asked):
            items.append(message_json(row) | more(row))
        if len(items) == asked.limit:
            return Pages(items=items, next=place_of(row))
    return Pages(items=items, next=place_of(found[-1]) if len(found) == LOOKED_AT_MAX else None)


def _fits(row: Any, asked: Asked) -> bool:
    return (
        asked.since_ms <= row.accepted_ms < asked.until_ms
        and (asked.conversation is None or row.conversation_id == asked.conversation)
        and (asked.sender is None or row.sender_user == asked.sender)
        and (asked.state is None or row.state == asked.state)
    )


def _place(text: str) -> Place:
    ms, dot, id_ = text.partition(".")
    if not (dot and ms.isdecimal() and len(ms) < 17 and id_):
        raise _refused()
    return Place(int(ms), id_)


def _refused() -> Malformed:
    return Malformed("A cursor is what an earlier answer gave you; send it back unchanged.", code="invalid_cursor")


def message_json(row: Any) -> dict[str, Any]:
    """A message as it is kept."""
    return {
        "id": row.message_id,
        "type": row.type,
        "conversation": {"type": row.conversation_type, "id": row.conversation_id},
        "sender": None if row.sender_user is None else {"user": row.sender_user, "device": row.sender_device},
        "client_ref": row.client_ref,
        "priority": row.priority,
        "collapse_key": row.collapse_key,
        "accepted_at": rfc3339(row.accepted_ms),
        "expires_at": rfc3339(row.expires_ms),
        "deliver_at": None if row.deliver_ms is None else rfc3339(row.deliver_ms),
        "recipients": len(msgspec.json.decode(row.recipients)),
        "h": row.h,
        "body": None if row.body is None else msgspec.Raw(row.body.encode()),
    }


def of_device(
    conn: Conn, now_ms: int, key: DeviceKey, *, conversation: str | None, before: int | None, limit: int
) -> Pages:
    """What the device could see, in its own view, backwards from a number. Raises Unauthenticated."""
    device = snapshot(conn, key).device
    found = entry_rows.page_rows_back(conn, key.user, before=before or SEQ_MAX, limit=LOOKED_AT_MAX)
    items: list[Any] = []
    for entry, content in found:
        if entry.seq <= device.start_seq:
            return Pages(items=items, next=None)
        seen = rules.view(entry, device)
        if seen is View.OWN:
            seen = rules.as_content(entry, device)
        fits = entry.kind in CARRIES_MESSAGE and entry.live(now_ms) and seen in {View.FULL, View.FALLBACK}
        if fits and (conversation is None or entry.conversation_id == conversation):
            one = entry_json(entry, content, seen)
            if one is not None:
                items.append(msgspec.Raw(one))
        if len(items) == limit:
            return Pages(items=items, next=str(entry.seq))
    return Pages(items=items, next=str(found[-1][0].seq) if len(found) == LOOKED_AT_MAX else None)
