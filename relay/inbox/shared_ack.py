"""A device's word that it has stored a shared timeline up to some number (protocol 8.6, 12.5)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from relay.inbox.cursor import KIND_SHARED, Cursor, epoch8, short
from relay.inbox.timeline import tail_same
from relay.model import Device, TimelineKey
from relay.store import readers, timelines
from relay.store.readers import NEVER, Read

if TYPE_CHECKING:
    from relay.inbox.locked import Locked


def take_shared(
    locked: "Locked",
    device: Device,
    cursors: Sequence[Cursor],
    upto: Sequence[tuple[str, int]],
    *,
    anew: bool,
    store_epoch: str,
) -> dict[str, int]:
    """Notes how far the device is, by conversation; gives that. A cursor that is no good any more says nothing.

    `anew`: it counts also where it is less than was acked.
    """
    if not cursors and not upto:
        return {}
    places = readers.places_of(locked.conn, locked.key)
    by_hash = {short(name): name for name in places}
    named = {by_hash[one.timeline8] for one in cursors if one.timeline8 in by_hash} | {name for name, _ in upto}
    found = timelines.timelines(locked.conn, [TimelineKey(locked.key.app_id, name) for name in named & set(places)])
    by_name = {key.conversation_id: one for key, one in found.items()}
    seqs: dict[str, int] = {}

    def note(name: str, seq: int) -> None:
        if seq <= by_name[name].head_seq:
            seqs[name] = max(seq, seqs.get(name, 0))

    for cursor in cursors:
        name = by_hash.get(cursor.timeline8)
        if cursor.kind != KIND_SHARED or name not in by_name or name is None:
            continue
        current = cursor.epoch8 == epoch8(store_epoch, by_name[name].epoch)
        ours = device.lineage_session <= cursor.session <= device.session
        if current and ours and tail_same(locked.conn, by_name[name], cursor):
            note(name, cursor.seq)
    for name, seq in upto:
        if name in by_name:
            note(name, seq)
    if seqs:
        if anew:
            before = locked.reads(device.device_id)
            locked.forget_reads(
                device.device_id, [n for n, seq in seqs.items() if before.get(n, NEVER).acked_seq > seq]
            )
        locked.raise_reads(device.device_id, {name: Read.acked(seq) for name, seq in seqs.items()})
        locked.put(replace(device, progress_ms=locked.now_ms, contact_ms=locked.now_ms))
        locked.rearm(device.device_id, anew=True)
    reads = locked.reads(device.device_id)
    return {name: reads[name].acked_seq for name in sorted(seqs)}


def limits_of_markers(locked: "Locked", reads: Sequence[tuple[str, int]]) -> dict[str, int]:
    """How far conversations with a shared timeline can have been read: their markers are numbers of that timeline."""
    keys = [TimelineKey(locked.key.app_id, name) for name, _ in reads]
    found = timelines.timelines(locked.conn, keys) if keys else {}
    return {key.conversation_id: one.head_seq for key, one in found.items()}
