"""Reading shared timelines: the same pages as an inbox's, of a numbering that many read (protocol 12.5).

What a reader may see follows from when it was a member; where it goes on, from its own cursor. Nothing of it is pinned: by
itself a device catches up with the last numbers alone, and fills what lies before that as it likes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from relay.errors import Unavailable
from relay.inbox import visibility
from relay.inbox.batch import PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, Batch, Cover
from relay.inbox.cursor import KIND_SHARED, Cursor, CursorKeys, epoch8, seal, short, tail8
from relay.inbox.page import entry_json
from relay.inbox.visibility import View
from relay.model import Device, Entry, Kind, TimelineKey, Why
from relay.store import readers
from relay.store import timelines as rows
from relay.store.engine import Conn
from relay.store.entry_pages import Content
from relay.store.readers import Span
from relay.store.timelines import Timeline

FORKED = "forked"  # a cursor that proves that numbers were lost (protocol 4.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSnapshot:
    """A shared timeline as one device may see it, as of one reading."""

    store_epoch: str
    timeline: Timeline
    device: Device
    session: int  # of the cursors that it is given
    spans: tuple[Span, ...]  # the stays of its user, the first one first

    @property
    def name(self) -> str:
        return self.timeline.conversation_id

    @property
    def epoch8(self) -> bytes:
        return epoch8(self.store_epoch, self.timeline.epoch)

    @property
    def head_seq(self) -> int:
        """The newest number that the reader may see: for one that has left, the last one of its stay."""
        left_seq = self.spans[-1].left_seq
        return self.timeline.head_seq if left_seq is None else left_seq

    @property
    def start_seq(self) -> int:
        """Where a device without a cursor begins."""
        return min(max(self.timeline.floor_seq, self.spans[0].joined_seq), self.head_seq)

    @property
    def mark(self) -> str:
        """Changes whenever a page of this reader could."""
        return f"{self.name}:{self.epoch8.hex()}:{self.head_seq}:{len(self.spans)}"

    def sees(self, seq: int) -> bool:
        return any(one.joined_seq < seq and (one.left_seq is None or seq <= one.left_seq) for one in self.spans)

    def cursor(self, seq: int, last_id: str | None, keys: CursorKeys) -> str:
        """The cursor that says "everything up to `seq`". Hand it out only with the page, or the reset, that it covers."""
        return seal(
            Cursor(
                epoch8=self.epoch8,
                timeline8=short(self.name),
                session=self.session,
                seq=seq,
                store8=short(self.device.store_id or ""),
                tail8=tail8(last_id),
                kind=KIND_SHARED,
            ),
            self.device.key,
            keys,
        )


def shared_snapshots(conn: Conn, store_epoch: str, device: Device, names: Sequence[str]) -> dict[str, SharedSnapshot]:
    """By name; left out: what is no shared timeline, or one that the device's user never was a member of.

    As for the store that shook hands last.
    """
    found = rows.timelines(conn, [TimelineKey(device.app_id, name) for name in names])
    snaps = {}
    for key, timeline in found.items():
        spans = readers.spans_of(conn, device.key.user, key.conversation_id)
        if spans:
            snaps[key.conversation_id] = SharedSnapshot(
                store_epoch=store_epoch, timeline=timeline, device=device, session=device.session, spans=tuple(spans)
            )
    return snaps


def refusal(conn: Conn, snap: SharedSnapshot, cursor: Cursor) -> str | None:
    """Why this cursor of the timeline is no good; None: the device goes on from it (protocol 8.5).

    There is no "too old": what is gone is named in a gap, as what it skips is.
    """
    if cursor.epoch8 != snap.epoch8:
        return "epoch"
    if cursor.seq > snap.timeline.head_seq or cursor.session > snap.device.session:
        return FORKED
    return None if tail_same(conn, snap.timeline, cursor) else FORKED


def tail_same(conn: Conn, timeline: Timeline, cursor: Cursor) -> bool:
    """As of an inbox: whether the number the cursor ends at still stands for the same message, as far as that can be told."""
    if cursor.tail8 == tail8(None) or cursor.seq <= timeline.floor_seq:
        return True
    found = rows.id_at(conn, timeline.key, cursor.seq)
    return found is not None and tail8(found) == cursor.tail8


def shared_reset(conn: Conn, snap: SharedSnapshot, keys: CursorKeys, *, reason: str) -> dict[str, Any]:
    """Where the device begins again, in this timeline alone."""
    start = snap.start_seq
    return {
        "timeline": snap.name,
        "reason": reason,
        "epoch": snap.epoch8.hex(),
        "cursor": snap.cursor(start, rows.id_at(conn, snap.timeline.key, start), keys),
        "floor": start,  # the number at which the cursor stands
        "head": snap.head_seq,
    }


def shared_page(
    conn: Conn,
    now_ms: int,
    snap: SharedSnapshot,
    keys: CursorKeys,
    *,
    after: int,
    tail: int,
    limit: int = PAGE_ENTRIES_MAX,
    bytes_max: int = PAGE_BYTES_MAX,
    upto: int | None = None,
    cursor: bool = True,
) -> Batch:
    """The page after number `after`, as `page` gives it of an inbox; it begins at most `tail` numbers before the head.

    `upto` bounds it for filling a range; then `cursor` is False, nothing is skipped, and nothing moved.
    """
    head = snap.head_seq
    bound = head if upto is None else min(upto, head)
    cover = Cover(after, bytes_max=bytes_max)
    cover.skip(min(snap.spans[0].joined_seq, bound), Why.SCOPE)
    cover.skip(min(snap.timeline.floor_seq, bound), Why.PRUNED)
    if cursor:
        cover.skip(bound - tail, Why.SKIPPED)
    found = rows.page_rows(conn, snap.timeline.key, after=cover.position, upto=bound, limit=limit)
    for entry, content in found:
        if entry.seq != cover.position + 1:
            raise Unavailable("A number of this timeline has no row: the store is damaged.", code="storage_failed")
        if not cover.take(entry.seq, entry.message_id, shared_entry(snap, entry, content, now_ms, own=not cursor)):
            break
    if not found and cover.position < bound:
        raise Unavailable("Numbers of this timeline have no rows: the store is damaged.", code="storage_failed")
    sealed = ""
    if cursor:
        last_id = cover.last_id or rows.id_at(conn, snap.timeline.key, cover.position)
        sealed = snap.cursor(cover.position, last_id, keys)
    return cover.batch(
        timeline=snap.name, epoch8=snap.epoch8, head_seq=head, more=cover.position < bound, cursor=sealed
    )


def shared_entry(snap: SharedSnapshot, entry: Entry, content: Content, now_ms: int, *, own: bool) -> bytes | Why:
    """The entry as its reader is shown it, or why it is not. `own`: what this session has sent itself as well."""
    if not snap.sees(entry.seq):
        return Why.SCOPE
    if content.sender_user == snap.device.user_id and entry.kind is Kind.MESSAGE:
        entry = replace(entry, kind=Kind.OWN)  # the sender's devices read the same entry as everybody
    seen = visibility.view(entry, snap.device)
    if seen is View.OWN and own:
        seen = visibility.as_content(entry, snap.device)
    return visibility.gap_reason(entry, seen, now_ms) or entry_json(entry, content, seen) or Why.QUARANTINED
