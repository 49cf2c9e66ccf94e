"""Comparing what a device has stored with what it should have, by fingerprints (protocol 8.7).

Both sides count the same entries: those that carry a message, in the form that the device got, that were not over at
`as_of` and that nothing up to the cursor has replaced or taken back. Control entries have no `h` and do not count.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from relay.inbox import visibility
from relay.inbox.page import Snapshot
from relay.inbox.reports import Released
from relay.inbox.selective_acks import Acks
from relay.inbox.visibility import View
from relay.model import CARRIES_MESSAGE, Entry, EntryState, Kind
from relay.store import ack_ranges, held_entries
from relay.store import comparing as rows
from relay.store import entries as entry_rows
from relay.store.engine import Conn

LISTED_MAX = 64  # a range of more numbers that differs is to be split
CHUNK = 1000
SUMS_MAX = 1024  # of one range: as many as ten entries make that may be there otherwise
FP_BITS = 128
FALLBACK, HELD = "fallback", "held"


class Item(NamedTuple):
    """An entry that counts."""

    seq: int
    message_id: str
    h: str


class Unsure(NamedTuple):
    """An entry that may be there otherwise: in another form, or (None) not at all. `listed`: a range would bring it."""

    item: Item
    instead: Item | None
    listed: bool = True


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers of (low, high], with how many entries the client counts there and the sum of their fingerprints."""

    low: int
    high: int
    n: int
    fp: int


@dataclass(frozen=True, slots=True)
class Compared:
    """What the relay has to say of a range. `items` only if it differs and is short enough to be listed; `unsure` of its `n`
    entries need not be there."""

    range: Range
    same: bool
    n: int
    items: tuple[Item, ...] | None = None
    unsure: int = 0

    @property
    def lacking(self) -> int:
        """How many messages the client lacks here, or has rotten: at least. Of one that has more than the relay counts,
        because a message ended without a word to those that had it, that can't be told from here."""
        if self.items is None:
            return 0
        return max(0, self.n - self.unsure - self.range.n) or int(self.n == self.range.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison showed, range by range."""

    base_seq: int  # nothing up to here counts: it is below the floor, or the device began after it
    as_of_ms: int
    ranges: tuple[Compared, ...]
    whole: bool  # the ranges are everything from the base to the cursor

    @property
    def same(self) -> bool:
        return all(one.same for one in self.ranges)


def fingerprint(item: Item) -> int:
    """The first 16 bytes of a SHA-256 over number, id and `h`, as a number (protocol 8.7)."""
    digest = hashlib.sha256(f"{item.seq}|{item.message_id}|{item.h}".encode()).digest()
    return int.from_bytes(digest[: FP_BITS // 8])


def compare(conn: Conn, snap: Snapshot, *, upto: int, as_of_ms: int, ranges: Sequence[Range]) -> Comparison:
    """Compares ranges, which are in order and apart, for a device whose cursor stands at `upto`."""
    counting = Counting(conn, snap, upto=upto, as_of_ms=as_of_ms)
    return Comparison(
        base_seq=snap.start_seq,
        as_of_ms=as_of_ms,
        ranges=tuple(_compared(counting, one) for one in ranges),
        whole=_whole(ranges, snap.start_seq, upto),
    )


def _whole(ranges: Sequence[Range], base: int, upto: int) -> bool:
    position = base
    for one in ranges:
        if one.low > position:
            return False
        position = max(position, one.high)
    return position >= upto


def _compared(counting: "Counting", one: Range) -> Compared:
    listed = one.high - one.low <= LISTED_MAX
    n, total, unsure = 0, 0, 0
    items: list[Item] = []
    sums = {(0, 0)}  # what the device's may differ by, and yet be right
    for counted in counting.items(one.low, one.high):
        item = counted.item if isinstance(counted, Unsure) else counted
        n += 1
        total += fingerprint(item)
        if listed and not (isinstance(counted, Unsure) and not counted.listed):
            items.append(item)
        unsure += isinstance(counted, Unsure) and counted.instead is None
        if isinstance(counted, Unsure) and len(sums) < SUMS_MAX:
            less = (-1, 0) if counted.instead is None else (0, fingerprint(counted.instead))
            sums |= {(more_n + less[0], more + less[1] - fingerprint(item)) for more_n, more in sums}
    if any(n + more_n == one.n and (total + more) % (1 << FP_BITS) == one.fp for more_n, more in sums):
        return Compared(one, same=True, n=n)
    return Compared(one, same=False, n=n, items=tuple(items) if listed else None, unsure=unsure)


@dataclass(slots=True)
class Counting:
    """Which entries count for one device, as of one reading."""

    conn: Conn
    snap: Snapshot
    upto: int
    as_of_ms: int
    _replaced: dict[str, int] = field(init=False)  # message -> the newest release up to the cursor
    _lesser: dict[str, str] = field(init=False)  # message -> what the device had before a release that is still to come
    _held: dict[int, str] = field(init=False)
    _acks: Acks = field(init=False)

    def __init__(self, conn: Conn, snap: Snapshot, *, upto: int, as_of_ms: int) -> None:
        self.conn, self.snap, self.upto, self.as_of_ms = conn, snap, upto, as_of_ms
        self._replaced, self._lesser = {}, {}
        for seq, message_id, data in rows.releases(conn, snap.device.key, after=snap.start_seq):
            if seq <= upto:
                self._replaced[message_id] = seq
            elif data is not None:
                self._lesser.setdefault(message_id, msgspec.json.decode(data, type=Released).was)
        kinds = ack_ranges.ack_ranges(conn, [snap.device.key.user]).get(snap.device.key, ())
        self._acks = Acks(*map(tuple, kinds))
        self._held = {seq: why for seq, why, _ in held_entries.held_rows(conn, snap.device.key)}

    def items(self, low: int, high: int) -> Iterator[Item | Unsure]:
        """What counts in (low, high]."""
        after, bound = max(low, self.snap.start_seq), min(high, self.upto)
        while after < bound:
            chunk = rows.compared_rows(self.conn, self.snap.inbox.key, after=after, upto=bound, limit=CHUNK)
            there = [row for row in chunk if self._there(row)]
            special = [row.seq for row in there if not row.plain]
            entries = (
                {e.seq: e for e in entry_rows.entries_at(self.conn, self.snap.inbox.key, special)} if special else {}
            )
            for row in there:
                h = row.h if row.plain else self._form(row, entries[row.seq])
                if h is None:
                    continue
                item = Item(row.seq, row.message_id, h)
                yield item if row.plain else self._unless_lesser(row, entries[row.seq], item)
            if len(chunk) < CHUNK:
                return
            after = chunk[-1].seq

    def _form(self, row: rows.ComparedRow, entry: Entry) -> str | None:
        """`h` of the form in which the device has this; None if it does not count."""
        device = self.snap.device
        seen = visibility.view(entry, device)
        if seen is View.NONE:
            return None
        if row.seq > device.acked_seq:  # read by the version of today, whatever an earlier one had of it
            had = {View.FALLBACK: FALLBACK, View.HELD: HELD}.get(seen)
        else:
            had = self._held.get(row.seq)
            if had not in {FALLBACK, HELD}:
                had = None if row.kind == Kind.RELEASE else self._lesser.get(row.message_id)
        # What it passed without being noted as lesser came in full, also if the version of today could not show it.
        return None if had == HELD else row.fallback_h if had == FALLBACK else row.h

    def _unless_lesser(self, row: rows.ComparedRow, entry: Entry, item: Item) -> Item | Unsure:
        """What the device may have passed without having it, with no note of that."""
        device = self.snap.device
        if row.state == EntryState.SUPERSEDED and row.ended_by_seq is None:
            return Unsure(item, None, listed=False)  # whoever answered has it, until that store is lost
        if row.seq > device.acked_seq or row.seq in self._held or item.h != row.h:
            return item
        seen = visibility.as_content(entry, device)
        if seen is not View.FULL:
            # An earlier version may have had it in full (or sent it itself). What of that was lost since, and what the version
            # of then left out as its own, comes by a range as the version of today can have it: as its fallback, or not at all.
            lesser = seen is View.FALLBACK and row.fallback_h is not None
            return Unsure(item, Item(row.seq, row.message_id, row.fallback_h or "") if lesser else None)
        for_newer = entry.min_schema is not None or entry.min_app_version is not None
        if for_newer and not entry.hold and not entry.has_fallback:
            return Unsure(item, None)  # a version that could not show it was never to get it
        return item

    def _there(self, row: rows.ComparedRow) -> bool:
        """Whether it carries a message that is not over, and that nothing up to the cursor has replaced or taken back."""
        if row.expires_ms <= self.as_of_ms or row.kind not in CARRIES_MESSAGE:
            return False
        if row.state in {EntryState.SUPERSEDED, EntryState.RECALLED}:
            if row.ended_by_seq is None:  # answered: the device that did so was told of no end
                if self._acks.missing(row.seq):
                    return False
            elif row.ended_by_seq <= self.upto:
                return False
        elif row.state in {EntryState.CANCELLED, EntryState.FAILED}:
            return False
        return row.seq >= self._replaced.get(row.message_id, 0)
