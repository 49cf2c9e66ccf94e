"""One reading path for every transport: `page(device, cursor, limit)` (protocol §8).

A page covers a range: its entries and its gaps together name every number of (from, to] exactly once, so a client can
tell a skip from a hole.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.clock import rfc3339
from relay.errors import CursorRefused, Malformed, Unauthenticated, Unavailable
from relay.inbox import judging, visibility
from relay.inbox.batch import PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, Batch, Cover
from relay.inbox.cursor import INBOX, INBOX8, KIND_INBOX, Cursor, CursorKeys, epoch8, seal, short, tail8
from relay.inbox.visibility import View
from relay.model import CARRIES_MESSAGE, Device, DeviceKey, Entry, Inbox, Kind, Why
from relay.store import devices as device_rows
from relay.store import entries as entry_rows
from relay.store import entry_pages
from relay.store import inbox as inbox_rows
from relay.store.engine import Conn
from relay.store.entry_pages import Content
from relay.store.versions import Version

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A device and its inbox as of one reading."""

    store_epoch: str
    inbox: Inbox
    device: Device

    @property
    def epoch8(self) -> bytes:
        return epoch8(self.store_epoch, self.inbox.epoch)

    @property
    def start_seq(self) -> int:
        """Where a device without a cursor begins."""
        return max(self.inbox.floor_seq, self.device.start_seq)

    def session_after(self, cursor: Cursor) -> int:
        """The session of a cursor that follows on this one. One of a past lineage stays of it: what another version passed
        before stands behind it, and an ack must not count that as this version's."""
        return cursor.session if cursor.session < self.device.lineage_session else self.device.session

    def cursor(self, seq: int, last_id: str | None, keys: CursorKeys, *, session: int | None = None) -> str:
        """The cursor that says "everything up to `seq`". Hand it out only with the page, or the reset, that it covers."""
        return seal(
            Cursor(
                epoch8=self.epoch8,
                timeline8=INBOX8,
                session=self.device.session if session is None else session,
                seq=seq,
                store8=short(self.device.store_id or ""),
                tail8=tail8(last_id),
            ),
            self.device.key,
            keys,
        )

    @property
    def version(self) -> Version:
        """What the entity tag is made from, with the shared timelines that are asked for."""
        return Version(
            store_epoch=self.store_epoch,
            inbox_epoch=self.inbox.epoch,
            head_seq=self.inbox.head_seq,
            schema=self.device.schema,
            session=self.device.session,
        )

    @property
    def etag(self) -> str:
        """The server's data version: changes whenever a page for this device could."""
        return self.etag_with("")

    def etag_with(self, shared: str) -> str:
        """The same with the marks of the shared timelines that are asked for."""
        own = f"{self.epoch8.hex()}:{self.device.schema}:{self.device.session}:{self.inbox.head_seq}"
        return f'"{short(own + shared).hex()}"'


def snapshot(conn: Conn, key: DeviceKey) -> Snapshot:
    """Head, floor and device from one snapshot. Raises Unauthenticated for a device that is gone."""
    device = device_rows.device_row(conn, key)
    inbox = inbox_rows.inbox_of(conn, key.user)
    if device is None or inbox is None or device.state == "gone":
        raise signed_out()
    return Snapshot(store_epoch=inbox_rows.store_epoch(conn), inbox=inbox, device=device)


def signed_out() -> Unauthenticated:
    return Unauthenticated("This device has been signed out; ask the app's backend for a new token.")


def snapshots(conn: Conn, keys: Collection[DeviceKey]) -> dict[DeviceKey, Snapshot]:
    """As `snapshot`, of many devices; those that are gone are left out."""
    users = {key.user for key in keys}
    store_epoch, inboxes = inbox_rows.store_epoch(conn), inbox_rows.inboxes_of(conn, users)
    devices = {one.key: one for some in device_rows.devices_of(conn, users).values() for one in some}
    return {
        key: Snapshot(store_epoch=store_epoch, inbox=inboxes[key.user], device=devices[key])
        for key in keys
        if key in devices and key.user in inboxes
    }


def check(conn: Conn, snap: Snapshot, cursor: Cursor, keys: CursorKeys) -> None:
    """Refuses a cursor that is no good, by the table of protocol 8.5, with what the client needs to begin again."""
    if cursor.kind != KIND_INBOX or cursor.timeline8 != INBOX8:
        raise Malformed("This cursor belongs to another timeline.", code="invalid_cursor")
    if cursor.epoch8 != snap.epoch8:
        raise refused(conn, snap, keys, reason="epoch")
    if judging.below_floor(cursor.seq, snap.device, snap.inbox.floor_seq):
        raise refused(conn, snap, keys, reason="too_old", past=cursor.seq)
    forked = cursor.seq > snap.inbox.head_seq or cursor.session > snap.device.session
    if forked or not tail_same(conn, snap.inbox, cursor):
        raise refused(conn, snap, keys, reason="forked")


def tail_same(conn: Conn, inbox: Inbox, cursor: Cursor) -> bool:
    """Whether the number the cursor ends at still stands for the same message, as far as that can be told."""
    if cursor.tail8 == tail8(None) or cursor.seq <= inbox.floor_seq:
        return True
    found = entry_rows.id_at(conn, inbox.key, cursor.seq)
    return found is not None and tail8(found) == cursor.tail8


def reset_data(conn: Conn, snap: Snapshot, keys: CursorKeys, *, reason: str, past: int | None = None) -> dict[str, Any]:
    """Where to begin again, and what ended or went unread in between."""
    start = snap.start_seq
    data: dict[str, Any] = {
        "reason": reason,
        "epoch": snap.epoch8.hex(),
        "cursor": snap.cursor(start, entry_rows.id_at(conn, snap.inbox.key, start), keys),
        "floor": start,  # the number at which the cursor stands
        "head": snap.inbox.head_seq,
    }
    if past is not None:
        data["loss"] = {"from": past + 1, "to": start, "count": start - past, "known": True}
    return data


def refused(conn: Conn, snap: Snapshot, keys: CursorKeys, *, reason: str, past: int | None = None) -> CursorRefused:
    """The refusal, with where the device begins again."""
    code = "cursor_too_old" if reason == "too_old" else "cursor_epoch_changed"
    return CursorRefused(
        "Store the cursor of `resync`, keep your messages, and go on from there.",
        code=code,
        extra={"resync": reset_data(conn, snap, keys, reason=reason, past=past)},
    )


def page(
    conn: Conn,
    now_ms: int,
    snap: Snapshot,
    keys: CursorKeys,
    *,
    after: int,
    limit: int = PAGE_ENTRIES_MAX,
    bytes_max: int = PAGE_BYTES_MAX,
    upto: int | None = None,
    cursor: bool = True,
    session: int | None = None,
) -> Batch:
    """The page after number `after`: at most `limit` numbers, cut at `bytes_max` (but never before its first entry).

    `upto` bounds it for filling a range; then `cursor` is False, since filling never moves a cursor. A fill also gives what
    the device sent itself, so that it can have back whatever it finds lacking. `session`: that the cursor is to be of, in place
    of the device's.
    """
    head, floor = snap.inbox.head_seq, snap.inbox.floor_seq
    cover = Cover(after, bytes_max=bytes_max)
    if after < floor:
        cover.skip(min(floor, head if upto is None else upto), Why.EXPIRED if cursor else Why.PRUNED)
    bound = head if upto is None else min(upto, head)
    rows = entry_pages.page_rows(conn, snap.inbox.key, after=cover.position, upto=bound, limit=limit)
    for entry, content in rows:
        if entry.seq != cover.position + 1:
            raise Unavailable("A number of this inbox has no row: the store is damaged.", code="storage_failed")
        seen = visibility.view(entry, snap.device)
        if seen is View.OWN and not cursor:
            seen = visibility.as_content(entry, snap.device)  # it may be another version that asks
        why_not = Why.PRUNED if entry.seq <= snap.device.start_seq else visibility.gap_reason(entry, seen, now_ms)
        shown = why_not or entry_json(entry, content, seen) or Why.QUARANTINED
        if not cover.take(entry.seq, entry.message_id, shown):
            break
    if not rows and cover.position < bound:
        raise Unavailable("Numbers of this inbox have no rows: the store is damaged.", code="storage_failed")
    sealed = ""
    if cursor:
        last_id = cover.last_id or entry_rows.id_at(conn, snap.inbox.key, cover.position)
        sealed = snap.cursor(cover.position, last_id, keys, session=session)
    return cover.batch(timeline=INBOX, epoch8=snap.epoch8, head_seq=head, more=cover.position < bound, cursor=sealed)


class _Line(msgspec.Struct):
    seq: int
    id: str
    kind: str
    h: str
    accepted_at: str
    expires_at: str
    conversation: "_Conversation"
    sender: "_Sender | None"
    type: str
    body: msgspec.Raw
    form: str
    priority: str
    collapse_key: str | None
    client_ref: str | None


class _Conversation(msgspec.Struct):
    type: str
    id: str | None


class _Sender(msgspec.Struct):
    user: str
    device: str | None


def entry_json(entry: Entry, content: Content, seen: View) -> bytes | None:
    """One entry as the device sees it; None if its message can't be rendered (it is quarantined, others go on)."""
    if entry.kind not in CARRIES_MESSAGE:
        head = {"seq": entry.seq, "kind": entry.kind, "id": entry.message_id}
        return _encode(head | msgspec.json.decode(entry.data or "{}"))
    full = seen is View.FULL
    body, h = (content.body, content.h) if full else (content.fallback, content.fallback_h)
    if body is None or h is None:
        return None
    came_ms = entry.accepted_ms
    if entry.kind is Kind.RELEASE:  # as its lesser form said: whoever shows times sees the message stay where it was
        came_ms = content.accepted_ms if content.deliver_ms is None else content.deliver_ms
    sender = None if content.sender_user is None else _Sender(content.sender_user, content.sender_device)
    return _encode(
        _Line(
            entry.seq,
            entry.message_id,
            entry.kind,
            h,
            rfc3339(came_ms),
            rfc3339(entry.expires_ms),
            _Conversation(content.conversation_type, entry.conversation_id),
            sender,
            content.type,
            msgspec.Raw(body.encode()),
            "full" if full else "fallback",
            content.priority,
            content.collapse_key,
            content.client_ref,
        )
    )
