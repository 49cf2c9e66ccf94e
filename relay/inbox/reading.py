"""Reading an inbox: pages after a cursor, of a range, of single messages; on one snapshot, without locks (protocol 8)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from relay.errors import Problem
from relay.inbox.batch import Batch
from relay.inbox.cursor import Cursor, CursorKeys
from relay.inbox.page import Snapshot, check, page, signed_out, snapshot, snapshots
from relay.inbox.shared import Opened, Pages, Wanted, ahead, opened, pages
from relay.model import CARRIES_MESSAGE, DeviceKey, Kind
from relay.store import entries as entry_rows
from relay.store.engine import Conn
from relay.store.sql import StoreError, is_there

NOTHING_SHARED = Wanted()
NEXT_NUMBERS = 400  # about as many are read for connections at once, so that nobody waits long for what others read
FIRST_ENTRIES = frozenset({Kind.MESSAGE, Kind.OWN})  # by which a message enters an inbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a sync found: a page, or that there is nothing newer."""

    snap: Snapshot
    batch: Batch | None  # None: not modified
    shared: Pages | None = None  # of the shared timelines that were asked for

    @property
    def etag(self) -> str:
        """The data version of all that was asked for."""
        return self.snap.etag_with("" if self.shared is None else self.shared.opened.mark)

    @property
    def caught_up(self) -> bool:
        return self.batch is not None and self.batch.caught_up and (self.shared is None or self.shared.caught_up)

    @property
    def says_nothing(self) -> bool:
        """Not modified, or an empty page at the head of everything."""
        if self.batch is None:
            return True
        return self.batch.to_seq == self.batch.from_seq and (self.shared is None or self.shared.says_nothing)


def place_of(conn: Conn, device: DeviceKey, message_id: str) -> tuple[int | None, str]:
    """A message's number in the inbox of the device's user, if it has one there, and the epoch. Raises Unauthenticated."""
    snap = snapshot(conn, device)
    found = entry_rows.entries_of_messages(conn, device.user, [message_id])
    return next((one.seq for one in found if one.kind in FIRST_ENTRIES), None), snap.epoch8.hex()


def read(
    conn: Conn,
    now_ms: int,
    device: DeviceKey,
    cursor: Cursor | None,
    keys: CursorKeys,
    *,
    limit: int,
    bytes_max: int,
    tail: int,
    etag: str | None,
    range_: tuple[int, int] | None,
    asked: Wanted,
) -> Reading:
    """See `InboxReader.read`. `tail`: how many numbers of a shared timeline a device catches up with by itself."""
    snap = snapshot(conn, device)
    page_of = partial(page, conn, now_ms, snap, keys, limit=limit, bytes_max=bytes_max)
    if range_ is not None:
        low, high = range_
        return Reading(snap=snap, batch=page_of(after=low, upto=high, cursor=False))
    # Who brings an inbox's cursor of before another version shook hands has shared ones of before, whatever they say.
    session = None if cursor is None else snap.session_after(cursor)
    found = opened(conn, snap, asked, keys, session=session)
    if cursor is not None and etag is not None and cursor.seq == snap.inbox.head_seq:
        if etag == snap.etag_with(found.mark) and cursor.epoch8 == snap.epoch8 and found.at_heads:
            return Reading(snap=snap, batch=None, shared=Pages(opened=found))
    if cursor is None:
        batch = page_of(after=snap.start_seq)
    else:
        check(conn, snap, cursor, keys)
        batch = page_of(after=cursor.seq, session=session)
    shared = pages(
        conn,
        now_ms,
        found,
        keys,
        tail=tail,
        limit=limit - batch.entries,
        bytes_max=bytes_max - len(batch.json),
    )
    return Reading(snap=snap, batch=batch, shared=shared.beside(ahead(conn, snap, found.snaps)))


def read_messages(
    conn: Conn, now_ms: int, device: DeviceKey, message_ids: Sequence[str], keys: CursorKeys, *, bytes_max: int
) -> tuple[Snapshot, list[Batch]]:
    """See `InboxReader.read_messages`."""
    snap = snapshot(conn, device)
    found = entry_rows.entries_of_messages(conn, device.user, message_ids)
    newest = {one.message_id: one.seq for one in found if one.kind in CARRIES_MESSAGE}
    one_page = partial(page, conn, now_ms, snap, keys, limit=1, bytes_max=bytes_max, cursor=False)
    return snap, [one_page(after=seq - 1, upto=seq) for seq in sorted(newest.values())]


class Next(NamedTuple):
    """A connection asks for its next page: its device was sent everything up to `seq`.

    On its `first` look, and if its user is woken for shared timelines, with a list of those that lie ahead and are not
    `followed`.
    """

    device: DeviceKey
    seq: int
    limit: int
    bytes_max: int
    followed: tuple[str, ...]
    first: bool


def read_next(conn: Conn, now_ms: int, asked: Collection[Next], keys: CursorKeys) -> dict[Next, Reading | Exception]:
    """The next page of each of these connections; of the last ones none, if it is enough for one reading before."""
    snaps = snapshots(conn, {one.device for one in asked})
    found: dict[Next, Reading | Exception] = {}
    numbers = 0
    for one in asked:
        if numbers >= NEXT_NUMBERS:
            break
        given = found[one] = _next(conn, now_ms, one, snaps.get(one.device), keys)
        if isinstance(given, Reading) and given.batch is not None:
            numbers += given.batch.to_seq - given.batch.from_seq  # gaps are read, too
    return found


def _next(conn: Conn, now_ms: int, asked: Next, snap: Snapshot | None, keys: CursorKeys) -> Reading | Exception:
    if snap is None:
        return signed_out()
    try:
        others = ahead(conn, snap, asked.followed) if asked.first or snap.inbox.woken else ()
        batch = page(conn, now_ms, snap, keys, after=asked.seq, limit=asked.limit, bytes_max=asked.bytes_max)
    except Problem as problem:  # of this inbox alone
        return problem
    except Exception as error:  # what is stored for one device must not take the others' pages from them
        if isinstance(error, StoreError) or not is_there(conn):
            raise
        return error
    return Reading(snap=snap, batch=batch, shared=Pages(opened=Opened(), ahead=others) if others else None)
