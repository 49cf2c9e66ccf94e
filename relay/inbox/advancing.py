"""The cumulative ack: devices have stored everything up to some number (protocol 8.6)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from relay.inbox.ending import end_for_others
from relay.inbox.locked import Locked
from relay.inbox.passage import Passage
from relay.inbox.reports import Ledger, end, is_delivery, released, tell, tell_completed
from relay.model import Device, Entry, EntryState, UserKey
from relay.store import entries as entry_rows
from relay.store import entry_ends
from relay.store.engine import Conn
from relay.store.spans import Span, entries_in


class Step(NamedTuple):
    """A device has stored everything up to this number; judged by the device's facts as they stand here."""

    locked: Locked
    device: Device
    upto: int


def advance(conn: Conn, now_ms: int, steps: Sequence[Step]) -> None:
    """Cumulative acks of devices of different users. What is read and written of entries is so for all of them at once."""
    steps = [step for step in steps if step.upto > step.device.acked_seq]
    completed: dict[UserKey, list[int]] = {}
    for step, entries in zip(steps, entries_in(conn, [_span(step) for step in steps]), strict=True):
        completed[step.locked.key] = _advance_one(step, entries)
    entry_ends.mark_completed(conn, now_ms, completed)


def _span(step: Step) -> Span:
    """What it passes; at or below the floor nothing is left."""
    locked, device, upto = step
    return Span(*locked.key, min(upto, max(device.acked_seq, locked.inbox.floor_seq)), upto)


def _advance_one(step: Step, entries: Iterable[Entry]) -> list[int]:
    """Numbers of the messages that are completed by it, as `tell_completed` gives them."""
    locked, device, upto = step
    acks = locked.acks_of(device.device_id)
    why_held = {seq: why for seq, why, _ in locked.held(device.device_id)}
    passed = Passage(device, locked.now_ms, acks, why_held)
    for entry in entries:
        passed.take(entry)
    # What is over but not yet swept ends here: once this ack has passed it, the sweep would take it for acked.
    end(locked, passed.overdue, EntryState.EXPIRED)
    locked.unhold(device.device_id, passed.unhold)
    if passed.hold:
        _hold(locked, device, passed)
    locked.put_acks(device.device_id, acks.passing(upto).passing_by(passed.missed, floor=locked.inbox.floor_seq))
    high = max(device.acked_high, upto)
    locked.put(
        replace(
            device,
            acked_seq=upto,
            acked_high=high,
            pushed_seq=max(device.pushed_seq, high),
            progress_ms=locked.now_ms,
            contact_ms=locked.now_ms,
        )
    )
    completed = report_acked(locked, device.device_id, passed.acked)
    locked.rearm(device.device_id, anew=True)
    return completed


def _hold(locked: Locked, device: Device, passed: Passage) -> None:
    """Notes what it has passed without the full form, and tells so."""
    locked.hold(device.device_id, passed.hold)
    fallbacks = {seq for seq, why in passed.hold if why == "fallback"}
    tell(locked, device, "delivery.held", [(e, None) for e in _at(locked, passed.hold, "held")])
    tell(locked, device, "delivery.fallback", [(e, None) for e in passed.acked if e.seq in fallbacks])


def _at(locked: Locked, rows: Sequence[tuple[int, str]], why: str) -> list[Entry]:
    seqs = [seq for seq, reason in rows if reason == why]
    if not seqs:
        return []
    return [entry for entry in entry_rows.entries_at(locked.conn, locked.key, seqs) if is_delivery(entry)]


def report_acked(locked: Locked, device_id: str, newly: Sequence[Entry]) -> list[int]:
    """Reports deliveries that have just been acked, and what follows from that for the user's other devices.

    Gives the numbers of messages that are completed, as `tell_completed` does.
    """
    ended = [entry for entry in newly if is_delivery(entry)]
    if not ended:
        return []
    tell(locked, locked.devices[device_id], "delivery.acked", [(entry, None) for entry in ended])
    locked.unhold(device_id, [again.of for entry in ended if (again := released(entry)) and again.of])
    first_wins = [entry for entry in ended if entry.scope.first_ack_wins]
    if first_wins:
        end_for_others(locked, device_id, first_wins)
        ended = [entry for entry in ended if entry not in first_wins]
    for other in locked.devices:
        if other != device_id:
            locked.rearm(other)
    return tell_completed(locked, device_id, ended, Ledger(locked), state="acked")
