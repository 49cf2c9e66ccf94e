"""Entries that end, and entries of the relay's own: expiry, cancelling, superseding, pruning, control entries."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from relay.errors import Conflict, Missing
from relay.ids import message_id, tag_of
from relay.inbox.locked import Locked, PolicyOf, flush, lock
from relay.inbox.recalling import recall_post
from relay.inbox.registry import remove
from relay.inbox.reports import DELIVERIES, Ledger, end, tell_undelivered, was_online
from relay.model import CARRIES_MESSAGE, Device, DeviceState, Entry, EntryState, Kind, UserKey
from relay.store import attempts as attempt_rows
from relay.store import entries as entry_rows
from relay.store import entry_ends, held_entries
from relay.store import fanout as fanout_rows
from relay.store import messages as message_rows
from relay.store.engine import Conn, Overtaken
from relay.store.timelines import ULTRA

CONTROL_TTL_MS = 28 * 86_400_000
SWEEP_ENTRIES_MAX = 250  # a send waits for no longer transaction than that (safety FLT-36)
PRUNE_STEP = 500


def entry_row(
    locked: Locked,
    *,
    seq: int,
    id_: str,
    kind: Kind,
    expires_ms: int,
    only_device: str = "",
    origin_device: str | None = None,
    origin_session: int | None = None,
    collapse_key: str | None = None,
    notifiable: bool = False,
    data: str | None = None,
    escalate_ms: int | None = None,
) -> dict[str, Any]:
    """A live entry's row."""
    return {
        "app_id": locked.inbox.app_id,
        "user_id": locked.inbox.user_id,
        "seq": seq,
        "message_id": id_,
        "kind": str(kind),
        "only_device": only_device,
        "origin_device": origin_device,
        "origin_session": origin_session,
        "collapse_key": collapse_key,
        "notifiable": int(notifiable),
        "data": data,
        "state": str(EntryState.LIVE),
        "ended_by_seq": None,
        "ended_ms": None,
        "completed_ms": None,
        "accepted_ms": locked.now_ms,
        "expires_ms": expires_ms,
        "escalated": None if escalate_ms is None else 0,
        "escalate_ms": escalate_ms,
    }


def append_control(locked: Locked, kind: Kind, *, data: Mapping[str, Any], collapse_key: str | None = None) -> int:
    """Appends an entry of the relay's own (recall, read, notice); an older one of the same key is superseded."""
    seq = locked.next_seq()
    if collapse_key is not None:
        old = entry_rows.live_of_collapse_key(locked.conn, locked.key, collapse_key)
        entry_ends.end_entries(locked.conn, locked.key, locked.now_ms, seqs=old, state=EntryState.SUPERSEDED, by=seq)
    # Its id is derived from where it stands, so that a repeated transaction gives the same one.
    place = f"{locked.inbox.epoch}:{locked.key.user_id}:{seq}"
    id_ = message_id(locked.now_ms, tag_of(place, namespace="control", secret=locked.inbox.epoch.encode()))
    row = entry_row(
        locked,
        seq=seq,
        id_=id_,
        kind=kind,
        expires_ms=locked.now_ms + CONTROL_TTL_MS,
        collapse_key=collapse_key,
        data=msgspec.json.encode(data).decode(),
    )
    message_rows.append(locked.conn, [], [row])
    return seq


def end_for_others(locked: Locked, device_id: str, entries: Sequence[Entry]) -> None:
    """`first_ack_wins`: this device has acked, so the message ends for the others, be it released to some."""
    of_messages = entry_rows.entries_of_messages(locked.conn, locked.key, {entry.message_id for entry in entries})
    live = [entry for entry in of_messages if entry.kind in DELIVERIES and entry.state is EntryState.LIVE]
    locked.answered |= {entry.message_id: device_id for entry in live}
    end(locked, live, EntryState.SUPERSEDED)


def expire(
    conn: Conn, now_ms: int, policy_of: PolicyOf, *, limit: int = SWEEP_ENTRIES_MAX
) -> tuple[int, list[UserKey]]:
    """Ends entries whose time is over, at most `limit`; gives their number, and whose. Each sweep is one transaction."""
    due = entry_ends.expiring(conn, now_ms, limit=limit)
    users = lock(conn, now_ms, due, policy_of)
    count = 0
    for key, locked in users.items():
        entries = [e for e in entry_rows.entries_at(conn, key, due[key]) if e.expires_ms <= now_ms]
        end(locked, entries, EntryState.EXPIRED)
        count += len(entries)
    flush(conn, now_ms, users.values())
    return count, list(users)


def cancel(conn: Conn, now_ms: int, policy_of: PolicyOf, *, app_id: str, message: str) -> tuple[str, list[UserKey]]:
    """Takes a message back: `cancelled` where nobody acked it yet, else `recalled`. An entry tells whoever may have it.

    Raises Missing for an unknown message, Conflict where every delivery has ended, Overtaken.
    """
    words: set[str | None] = set()
    _, type_ = _concerned(conn, app_id, message)
    if type_ == ULTRA and recall_post(conn, now_ms, policy_of(app_id), app_id=app_id, message=message):
        words.add("recalled")  # a timeline's lock comes before any job's
    if withdraw(conn, now_ms, app_id, message):
        words.add("cancelled")
    concerned, type_ = _concerned(conn, app_id, message)
    users = lock(conn, now_ms, concerned, policy_of)
    if len(users) < len(concerned) and _concerned(conn, app_id, message) != (concerned, type_):
        raise Overtaken  # who was renamed meanwhile has it under its new name
    words |= {take_back(locked, message) for locked in users.values()}
    words.discard(None)
    if not words:
        raise Conflict("Every delivery of this message has ended.")
    flush(conn, now_ms, users.values())
    return "recalled" if "recalled" in words else "cancelled", list(users)


def _concerned(conn: Conn, app_id: str, message: str) -> tuple[set[UserKey], str | None]:
    """In whose inboxes the message may stand, and the type of its conversation. Raises Missing."""
    row = message_rows.messages(conn, app_id, [message]).get(message)
    if row is None:
        raise Missing("There is no such message.")
    users = {user for user, seq, _ in msgspec.json.decode(row.recipients) if seq is not None}
    return {UserKey(app_id, user) for user in users | {row.sender_user} - {None}}, row.conversation_type


def take_back(locked: Locked, message: str) -> str | None:
    """Ends a message in one inbox: `cancelled`, `recalled`, or nothing where it did not live any more."""
    entries = [
        e
        for e in entry_rows.entries_of_messages(locked.conn, locked.key, [message])
        if e.live(locked.now_ms) and e.kind in CARRIES_MESSAGE
    ]
    if not entries:
        return None
    ledger = Ledger(locked)
    there = [(e, d) for e in entries for d in locked.devices.values() if ledger.concerned(e, d)]
    acked = any(ledger.acked(e, d) for e, d in there)
    # Not acked, a device may have it all the same: that sent it, or was handed it and has not been heard of since.
    kept = any(e.kind is Kind.OWN and e.origin_device in locked.devices for e in entries)
    kept = kept or any(was_online(d, since_ms=e.accepted_ms) for e, d in there)
    by = append_control(locked, Kind.RECALL, data={"of": [message]}) if acked or kept else None
    end(locked, entries, EntryState.RECALLED if acked else EntryState.CANCELLED, by=by)
    return "recalled" if acked else "cancelled"


def withdraw(conn: Conn, now_ms: int, app_id: str, message: str) -> bool:
    """Ends the fan-out of a message, if it still goes on: whoever waits for it will not get it. Its job is the lock."""
    if not fanout_rows.drop_job(conn, app_id, fanout_rows.job_id(app_id, message)):
        return False
    row = message_rows.lock_messages(conn, app_id, [message]).get(message)
    if row is None:  # it was erased with the only one who was to have it
        return True
    known = msgspec.json.decode(row.recipients)
    waiting = [(user, "waiting") for user, seq, refusal in known if seq is None and refusal is None]
    tell_undelivered(conn, now_ms, app_id, message, waiting, EntryState.CANCELLED)
    recipients = [
        (user, seq, "cancelled" if seq is None and refusal is None else refusal) for user, seq, refusal in known
    ]
    message_rows.set_recipients(conn, app_id, message, msgspec.json.encode(recipients).decode())
    return True


# --- the floor (protocol 11.3) ----------------------------------------------------------------------------------------


def prunable(
    entry: Entry, devices: Collection[Device], ledger: Ledger, held: set[int], *, now_ms: int, window_ms: int
) -> bool:
    """Whether this entry is ended for every device, or past the replay window and acked by one in scope, and by every active
    one there is in it. What is for a dormant device alone waits for it until it ends."""
    if entry.state is not EntryState.LIVE:
        return True
    active = [d for d in devices if d.state is DeviceState.ACTIVE]
    there = [d for d in devices if ledger.concerned(entry, d)]
    concerned = [d for d in there if d.state is DeviceState.ACTIVE]
    return (
        bool(active)
        and entry.accepted_ms + window_ms <= now_ms
        and entry.seq not in held
        and any(ledger.acked(entry, d) for d in there or active)
        and all(d.acked_seq >= entry.seq or ledger.holds(entry, d) for d in concerned)
    )


def prune(conn: Conn, now_ms: int, policy_of: PolicyOf, *, users: Sequence[UserKey], frozen_until_ms: int) -> int:
    """Raises the floor of these inboxes over what nobody needs any more; gives how many entries went.

    What a dormant device has not acked has failed for it: the floor did not wait, and no other end would be told.
    """
    if now_ms < frozen_until_ms:
        return 0
    gone = 0
    locked_users = lock(conn, now_ms, users, policy_of)
    for key, locked in locked_users.items():
        if now_ms < locked.inbox.pinned_until_ms:
            continue
        ledger = Ledger(locked)
        held = held_entries.held_seqs(conn, key)
        floor = locked.inbox.floor_seq
        entries = entry_rows.entries_between(conn, key, after=floor, upto=locked.head_seq, limit=PRUNE_STEP)
        missed: list[Entry] = []
        for entry in entries:
            if not prunable(
                entry,
                locked.devices.values(),
                ledger,
                held,
                now_ms=now_ms,
                window_ms=locked.policy.replay_window_ms,
            ):
                break
            floor = entry.seq
            if any(ledger.open(entry, device) for device in locked.devices.values()):
                missed.append(entry)
        if floor > locked.inbox.floor_seq:
            end(locked, missed, EntryState.FAILED, detail="device_dormant")
            entry_ends.prune_entries(conn, key, floor=floor)
            if locked.holds:
                held_entries.drop_held_below(conn, key, floor=floor)
            attempt_rows.forget_attempts(conn, key, upto=floor)
            gone += floor - locked.inbox.floor_seq
    flush(conn, now_ms, locked_users.values())
    return gone


def silence(conn: Conn, now_ms: int, policy_of: PolicyOf, *, users: Iterable[UserKey]) -> int:
    """Devices without contact for the policy's `dormant_ms` become dormant: they do not hold the floor any more. After
    `gone_ms` they are gone: what they have not acked has failed for them. Gives how many changed."""
    changed = 0
    locked_users = lock(conn, now_ms, users, policy_of)
    for locked in locked_users.values():
        for device in list(locked.devices.values()):
            idle_ms = now_ms - device.contact_ms
            if device.online:
                continue
            if idle_ms >= locked.policy.gone_ms:
                remove(locked, device, detail="device_gone")
                changed += 1
            elif device.state is DeviceState.ACTIVE and idle_ms >= locked.policy.dormant_ms:
                locked.put(replace(device, state=DeviceState.DORMANT))
                locked.rearm(device.device_id)
                changed += 1
    flush(conn, now_ms, locked_users.values())
    return changed
