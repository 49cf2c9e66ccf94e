"""What became of a message: its state for each device, and every attempt to tell, with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.clock import rfc3339
from relay.errors import Missing
from relay.inbox import escalation, notifying, visibility
from relay.inbox.history import described
from relay.inbox.locked import Locked, PolicyOf, with_rows
from relay.inbox.preferences import of_user
from relay.inbox.push_due import Rest, someone_looks, waits_until
from relay.inbox.reports import Ledger
from relay.inbox.visibility import View
from relay.model import GATEWAY, Device, DeviceKey, Entry, EntryState, Kind, TimelineKey, UserKey
from relay.store import attempts as attempt_rows
from relay.store import devices as device_rows
from relay.store import entries as entry_rows
from relay.store import escalations, readers, timelines
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import receipts as receipt_rows
from relay.store.engine import Conn

ATTEMPTS_MAX = 100  # of one receiver
OPEN = frozenset({"queued", "pushed", "held"})  # states of a delivery that is still to come to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A message's row and, by user, what its devices have of it. JSON-ready, without its content."""

    message: dict[str, Any]
    recipients: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the store has of a message, read for all receivers at once whom its row names: a mention of everybody has more."""

    message: Any
    entries: Mapping[str, Sequence[Entry]]  # by user
    escalating: set[str]  # users for whom another step is to come
    attempts: Mapping[str, Sequence[Any]]  # by user
    receipts: Mapping[tuple[DeviceKey, int], Sequence[Any]]  # by device and claim
    gone: Mapping[UserKey, Sequence[Device]]


def trace(conn: Conn, now_ms: int, policy_of: PolicyOf, *, app_id: str, message_id: str) -> Trace:
    """Reads it all on one snapshot. Raises Missing."""
    row = message_rows.messages(conn, app_id, [message_id]).get(message_id)
    if row is None:
        raise Missing("There is no such message.")
    answered = msgspec.json.decode(row.recipients)
    users = [UserKey(app_id, user) for user, seq, _ in answered if seq is not None]
    rows = with_rows(conn, now_ms, inbox_rows.inboxes_of(conn, users), policy_of)
    names = [user.user_id for user in users]
    found = _Found(
        message=row,
        entries=entry_rows.entries_of_message(conn, app_id, message_id, names),
        escalating=escalations.escalating_for(conn, app_id, message_id, names) if row.escalate is not None else set(),
        attempts=attempt_rows.attempts_of_message(conn, app_id, message_id, names, limit=ATTEMPTS_MAX),
        receipts=receipt_rows.receipts_of_message(conn, app_id, message_id, names),
        gone=device_rows.gone_devices_of(conn, rows),
    )
    shared = _shared(conn, now_ms, row) if row.conversation_type == timelines.ULTRA else None
    message = {**described(row), "timeline": shared}
    recipients = []
    for user, seq, refusal in answered:
        locked = rows.get(UserKey(app_id, user))
        if seq is None and refusal is None:
            recipients.append({"user": user, "seq": None, "status": "waiting", "devices": []})
        elif refusal is not None or locked is None:
            recipients.append({"user": user, "seq": seq, "status": "rejected", "code": refusal, "devices": []})
        else:
            recipients.append(_of_user(locked, found, seq))
    return Trace(message=message, recipients=recipients)


def _shared(conn: Conn, now_ms: int, row: Any) -> dict[str, Any] | None:
    """Where it stands in a shared timeline, and how many have it: nothing is kept of each reader and message."""
    found = timelines.posted(conn, row.app_id, row.message_id)
    if found is None:
        return None
    key = TimelineKey(row.app_id, found.conversation_id)
    over = found.state == EntryState.LIVE and found.expires_ms <= now_ms
    return {
        "conversation": found.conversation_id,
        "seq": found.seq,
        "state": "expired" if over else found.state,
        "acked": readers.acked_by(conn, key, found.seq),
    }


def _of_user(locked: Locked, found: _Found, seq: int) -> dict[str, Any]:
    user = locked.key.user_id
    original = next((e for e in found.entries.get(user, ()) if e.kind in {Kind.MESSAGE, Kind.POINTER}), None)
    head: dict[str, Any] = {"user": user, "seq": seq, "status": "accepted"}
    if original is None:
        return head | {"state": "pruned", "devices": []}
    ledger = Ledger(locked)
    if original.escalated is not None and found.message.escalate is not None:
        steps, done = escalation.from_store(found.message.escalate), original.escalated
        here = [device for device in locked.devices.values() if ledger.concerned(original, device)]
        over = (
            not original.live(locked.now_ms)
            or user not in found.escalating
            or bool(here and not any(ledger.open(original, device) for device in here))
        )
        head["escalation"] = escalation.described(steps, done, original.accepted_ms, over=over)
    gone = [d for d in found.gone[locked.key] if d.created_ms <= original.accepted_ms]
    devices = []
    for device in [*locked.devices.values(), *gone]:
        if not ledger.concerned(original, device):
            continue
        mine = [one for one in found.attempts.get(user, ()) if one.device_id == device.device_id]
        # What was released to the device stands for the message there.
        last = max((e for e in found.entries[user] if e.only_device == device.device_id), default=original, key=_seq)
        state = device_state(original, device, ledger, pushed=any(a.verdict == "accepted" for a in mine), last=last)
        devices.append(
            {
                "device": device.device_id,
                "state": state,
                "form": str(visibility.view(original, device)),
                "waiting": _waiting(locked, original, device) if state in OPEN else None,
                "attempts": [_attempt(one, found.receipts.get((device.key, one.claim_token), ())) for one in mine],
            }
        )
    return head | {"state": str(original.state), "devices": devices}


def _seq(entry: Entry) -> int:
    return entry.seq


def device_state(entry: Entry, device: Device, ledger: Ledger, *, pushed: bool, last: Entry) -> str:
    """The delivery's state: final words first, then how far it has come. `last`: of the message's entries for this device."""
    if ledger.acked(entry, device):
        return "acked"
    if device.state == "gone" or ledger.failed(entry, device):
        return "failed"
    if entry.state is not EntryState.LIVE:
        return "cancelled" if entry.state is EntryState.RECALLED else str(entry.state)
    passed = ledger.unshown(last, device) is not None and not ledger.comes_again(last, device)
    if passed or visibility.view(entry, device) is View.HELD:
        return "held"
    return "pushed" if pushed else "queued"


def _waiting(locked: Locked, entry: Entry, device: Device) -> dict[str, Any] | None:
    """When the device is told next, or why it is not; of what it is not told of at all, that. None: nothing can be pushed."""
    job = locked.jobs.get(device.device_id)
    if job is None or device.acked_high >= entry.seq:
        return None
    if not notifying.worth_telling(entry, device, locked.facts(), locked.policy, locked.now_ms):
        muted = entry.notifiable and notifying.muted(entry, locked.preferences)
        return {"reason": Rest.MUTED if muted else Rest.NOTHING_OWED, "until": None}
    reason = job.reason
    if reason == Rest.NOTHING_OWED and not device.has_address:
        reason = Rest.NO_ADDRESS  # a send leaves the job of a device that nobody can reach as it is
    elif job.due_ms is not None and reason is None:  # it has just been lowered, for what was accepted
        _, reason = waits_until(
            device,
            accepted_ms=entry.accepted_ms,
            policy=of_user(locked.policy, locked.preferences),
            now_ms=locked.now_ms,
            elsewhere=someone_looks(device, locked.devices.values()),
            gateway=device.node_id == GATEWAY,
        )
    return {"reason": reason, "until": None if job.due_ms is None else rfc3339(job.due_ms)}


def _attempt(row: Any, reported: Sequence[Any]) -> dict[str, Any]:
    return {
        "account": row.account,
        "form": row.form,
        "from_seq": row.from_seq,
        "upto_seq": row.upto_seq,
        "started_at": rfc3339(row.started_ms),
        "ended_at": None if row.ended_ms is None else rfc3339(row.ended_ms),
        "verdict": row.verdict,
        "vendor_id": row.vendor_id,
        "vendor_code": row.vendor_code,
        "left_out": row.left_out.split(",") if row.left_out else [],
        "receipts": [
            {
                "push_id": one.push_id,
                "fact": one.fact,
                "code": one.code,
                "reason": one.reason,
                "at": None if one.at_ms is None else rfc3339(one.at_ms),
                "taken_at": rfc3339(one.taken_ms),
            }
            for one in reported
        ],
    }
