"""Looking back at messages that are still kept (protocol §13). Never a substitute for sync: no promise goes with it.

A page is bounded work: so many rows are looked at, and a filter that lets few of them through makes it short, not slow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import astuple

from relay.clock import rfc3339
from relay.inbox import visibility
from relay.inbox.page import entry_json, snapshot
from relay.inbox.timeline import SharedSnapshot, shared_entry, shared_snapshots
from relay.inbox.visibility import View
from relay.list_cursor import Name, Number, parsed, printed
from relay.model import CARRIES_MESSAGE, SEQ_MAX, Device, DeviceKey, Entry, Kind, UserKey
from relay.store import entries as entry_rows
from relay.store import entry_pages, timelines
from relay.store import history as rows
from relay.store.engine import Conn
from relay.store.history import Place

LOOKED_AT_MAX = 2000
IN_TIMELINE = "s"  # begins the mark of a place in the timeline of an ultra group


class MessagePlace(msgspec.Struct, frozen=True, tag="m", array_like=True):
    """Before this message of an app's history."""

    accepted_ms: Number
    message_id: Name


class EntryPlace(msgspec.Struct, frozen=True, tag="i", array_like=True):
    """Before this number of an inbox."""

    seq: Number


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
    place = Place(asked.until_ms, "")
    if asked.cursor is not None:
        place = min(place, Place(*astuple(parsed(asked.cursor, MessagePlace, app_id=app_id))))
    found = rows.messages_back(conn, app_id, before=place, since_ms=asked.since_ms, limit=LOOKED_AT_MAX)
    return _page(
        found,
        asked,
        lambda row: printed(MessagePlace(row.accepted_ms, row.message_id), app_id=app_id),
        lambda row: {},
    )


def _of_user(conn: Conn, key: UserKey, asked: Asked) -> Pages:
    before = SEQ_MAX if asked.cursor is None else parsed(asked.cursor, EntryPlace, app_id=key.app_id).seq
    found = rows.entries_back(conn, key, before=before, limit=LOOKED_AT_MAX)
    return _page(
        found,
        asked,
        lambda row: printed(EntryPlace(row.seq), app_id=key.app_id),
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


def described(row: Any) -> dict[str, Any]:
    """What is kept of a message besides its text and its receivers."""
    return {
        "id": row.message_id,
        "type": row.type,
        "conversation": {"type": row.conversation_type, "id": row.conversation_id},
        "sender": None if row.sender_user is None else {"user": row.sender_user, "device": row.sender_device},
        "priority": row.priority,
        "collapse_key": row.collapse_key,
        "accepted_at": rfc3339(row.accepted_ms),
        "expires_at": rfc3339(row.expires_ms),
        "deliver_at": None if row.deliver_ms is None else rfc3339(row.deliver_ms),
    }


def message_json(row: Any) -> dict[str, Any]:
    """A message as it is kept."""
    return {
        **described(row),
        "client_ref": row.client_ref,
        "recipients": len(msgspec.json.decode(row.recipients)),
        "h": row.h,
        "body": None if row.body is None else msgspec.Raw(row.body.encode()),
    }


def of_device(
    conn: Conn, now_ms: int, key: DeviceKey, *, conversation: str | None, before: str | None, limit: int
) -> Pages:
    """What the device could see, in its own view, backwards; `before` is an earlier answer's `next`. Raises Unauthenticated.

    Of an ultra group: its timeline, and then what stands in the inbox from before it was one, or is kept for longer.
    """
    in_timeline, seq = _before(before)
    base = snapshot(conn, key)
    snap = (
        None
        if conversation is None
        else shared_snapshots(conn, base.store_epoch, base.device, [conversation]).get(conversation)
    )
    found: list[msgspec.Raw] = []
    if snap is not None and (in_timeline or before is None):
        found, place = _of_timeline(conn, now_ms, snap, before=seq, limit=limit)
        if place is not None:
            return Pages(items=found, next=f"{IN_TIMELINE}{place}")
    if in_timeline:
        seq = SEQ_MAX
    more = _of_inbox(conn, now_ms, base.device, conversation, snap, before=seq, limit=limit - len(found))
    return Pages(items=[*found, *more.items], next=more.next)


def _before(text: str | None) -> tuple[bool, int]:
    """Whether a page begins in the timeline of an ultra group, and before which number there, or of the inbox."""
    if text is None:
        return False, SEQ_MAX
    digits = text.removeprefix(IN_TIMELINE)
    return text != digits, int(digits)


def _of_timeline(
    conn: Conn, now_ms: int, snap: SharedSnapshot, *, before: int, limit: int
) -> tuple[list[msgspec.Raw], int | None]:
    """Entries, and the number before which the next page begins; None: there is nothing older."""
    items: list[msgspec.Raw] = []
    before = min(before, snap.head_seq + 1)
    found = timelines.page_rows_back(conn, snap.timeline.key, after=snap.start_seq, before=before, limit=LOOKED_AT_MAX)
    for entry, content in found:
        shown = shared_entry(snap, entry, content, now_ms, own=True) if entry.kind in CARRIES_MESSAGE else None
        if isinstance(shown, bytes):
            items.append(msgspec.Raw(shown))
        if len(items) == limit:
            return items, entry.seq
    return items, found[-1][0].seq if len(found) == LOOKED_AT_MAX else None


def _of_inbox(
    conn: Conn,
    now_ms: int,
    device: Device,
    conversation: str | None,
    snap: SharedSnapshot | None,
    *,
    before: int,
    limit: int,
) -> Pages:
    """`snap`: of the timeline in which the conversation's messages stand, so that what is still there is not said twice."""
    found = entry_pages.page_rows_back(conn, device.key.user, before=before, limit=LOOKED_AT_MAX)
    standing: set[str] = set()
    if snap is not None:
        ids = {entry.message_id for entry, _ in found if entry.conversation_id == conversation}
        standing = timelines.standing_in(conn, snap.timeline.key, ids)
    released = {entry.message_id for entry, _ in found if entry.kind is Kind.RELEASE}
    first = _first_places(conn, now_ms, device, released) if released else {}
    items: list[Any] = []
    for entry, content in found:
        if entry.seq <= device.start_seq:
            return Pages(items=items, next=None)
        seen = _seen(entry, device, now_ms)
        if seen is not None and (conversation is None or entry.conversation_id == conversation):
            one = entry_json(entry, content, seen)
            again = entry.message_id in standing or first.get(entry.message_id, entry.seq) < entry.seq
            if one is not None and not again:
                items.append(msgspec.Raw(one))
        if len(items) == limit:
            return Pages(items=items, next=str(entry.seq))
    return Pages(items=items, next=str(found[-1][0].seq) if len(found) == LOOKED_AT_MAX else None)


def _seen(entry: Entry, device: Device, now_ms: int) -> View | None:
    """In which form the device can look back at what this entry carries; None: not at all."""
    seen = visibility.view(entry, device)
    if seen is View.OWN:
        seen = visibility.as_content(entry, device)
    fits = entry.kind in CARRIES_MESSAGE and entry.live(now_ms) and seen in {View.FULL, View.FALLBACK}
    return seen if fits else None


def _first_places(conn: Conn, now_ms: int, device: Device, ids: set[str]) -> dict[str, int]:
    """The lowest number at which the device can look back at each of these messages: a release stands beside what it is of."""
    found = entry_rows.entries_of_messages(conn, device.key.user, ids)
    seen = [one for one in found if one.seq > device.start_seq and _seen(one, device, now_ms) is not None]
    return {one.message_id: one.seq for one in reversed(seen)}
