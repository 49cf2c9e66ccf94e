"""What was passed without its full form comes again once it can be shown (protocol 10.2 step 8, 10.3)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from relay.inbox import visibility
from relay.inbox.ending import entry_row
from relay.inbox.locked import Locked, PolicyOf, flush, lock
from relay.inbox.reports import FAILED, RELEASED, Released, released
from relay.inbox.visibility import View
from relay.model import Device, DeviceKey, EntryState, Kind
from relay.store import entries as entry_rows
from relay.store import held_entries
from relay.store import messages as message_rows
from relay.store.engine import Conn

RELEASES_MAX = 1000  # in one transaction


class Release(NamedTuple):
    """`released` entries come again in full; `more`: not all of them fitted into this transaction."""

    released: int
    more: bool


def release(locked: Locked, old: Device, device: Device) -> Release:
    """What was passed without its full form, and can be shown now, comes again under a new number."""
    rows: list[dict[str, Any]] = []
    done: list[int] = []
    later: list[tuple[int, str, int]] = []
    on_their_way: list[int] = []
    everything = locked.held(device.device_id)
    # What another version refused beside its cursor comes again by itself: its refusal does not speak for this one.
    ahead = [row for row in everything if row[0] > device.acked_seq and visibility.may_read_now(row[1], old, device)]
    _put_off(locked, device, ahead)
    held = [row for row in everything if row[0] <= device.acked_seq]
    if not held:
        return Release(0, more=False)
    seqs = [seq for seq, _, _ in held]
    entries = {e.seq: e for e in entry_rows.entries_at(locked.conn, locked.key, seqs)}
    collapse_keys = entry_rows.collapse_keys_at(locked.conn, locked.key, seqs)
    over: list[int] = []  # before the device had it in any form
    for seq, why, tries in held:
        entry = entries.get(seq)
        if why == FAILED and entry is not None:
            continue
        if entry is None or entry.state is not EntryState.LIVE:
            done.append(seq)
            over += [seq] if entry is not None and why != "fallback" else []
            continue
        if why == RELEASED:
            continue
        # One that is over but not yet swept keeps its row: without it the sweep would take the delivery for acked.
        if not entry.live(locked.now_ms) or visibility.view(entry, device) is not View.FULL:
            continue
        if not visibility.may_read_now(why, old, device):
            continue
        if len(rows) == RELEASES_MAX:
            later.append((seq, why, tries))
            continue
        before = released(entry)
        was_fallback = why == "fallback" or (before is not None and before.was == "fallback")
        own = entry.kind is Kind.OWN or (before is not None and before.own)
        of = before.of if before is not None else 0 if was_fallback or own else seq
        at = visibility.particulars_of(entry).at
        data = Released("fallback" if was_fallback else "held", tries, own, of, visibility.mentions(entry), at)
        if of == seq:
            on_their_way.append(seq)
        rows.append(
            entry_row(
                locked,
                seq=locked.next_seq(),
                id_=entry.message_id,
                kind=Kind.RELEASE,
                expires_ms=entry.expires_ms,
                only_device=device.device_id,
                collapse_key=collapse_keys.get(seq),  # what replaces the message replaces its release
                notifiable=entry.notifiable and (not was_fallback or entry.notify_release),
                data=msgspec.json.encode(data).decode(),
            )
        )
        done.append(seq)
    if rows:
        message_rows.append(locked.conn, [], rows)
    locked.unhold(device.device_id, done)
    if over:
        acks = locked.acks_of(device.device_id)
        locked.put_acks(device.device_id, acks.passing_by(over, floor=locked.inbox.floor_seq))
    locked.hold(device.device_id, [(seq, RELEASED) for seq in on_their_way])
    _put_off(locked, device, later)
    return Release(len(rows) + len(later), more=bool(later))


def _put_off(locked: Locked, device: Device, later: Sequence[tuple[int, str, int]]) -> None:
    """What is left may be read by this version: that would not be known any more the next time."""
    refused = [(seq, tries) for seq, why, tries in later if why in {"unknown_type", "poison"}]
    locked.unhold(device.device_id, [seq for seq, _ in refused])
    locked.hold(device.device_id, [(seq, "held") for seq, _ in refused])
    for seq, tries in refused:
        held_entries.set_held_tries(locked.conn, device.key, seq=seq, tries=tries)


def release_rest(conn: Conn, now_ms: int, keys: Sequence[DeviceKey], policy_of: PolicyOf) -> list[DeviceKey]:
    """Goes on with these devices; gives those that are still not done."""
    users = lock(conn, now_ms, {key.user for key in keys}, policy_of)
    more = []
    for key in keys:
        device = None if key.user not in users else users[key.user].devices.get(key.device_id)
        if device is None:
            continue
        done = release(users[key.user], device, device)
        if done.released:
            users[key.user].rearm(key.device_id)
        if done.more:
            more.append(key)
    flush(conn, now_ms, users.values())
    return more
