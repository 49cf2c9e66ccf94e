"""The steps of messages that nobody has acked by their deadlines (protocol 7.5): one transaction under the users' locks.

A step that pushes only says so in the device's job: when and through which address is the planner's to say, as of any push.
One that tells the backend is an event of this very transaction.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from relay.clock import rfc3339
from relay.inbox import notifying
from relay.inbox.escalation import Step, due, from_store, next_ms
from relay.inbox.locked import Locked, PolicyOf, flush, lock
from relay.inbox.reports import Ledger
from relay.model import Device, Entry, PushJob
from relay.push.planner import TRIES_PER_ADDRESS
from relay.store import attempts as attempt_rows
from relay.store import entries as entry_rows
from relay.store import escalations
from relay.store import messages as message_rows
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id

EVENT = "delivery.escalated"
STEPS_MAX = 500  # entries in one transaction


def is_due(conn: Conn, now_ms: int) -> bool:
    """Whether some step is to be taken."""
    return bool(escalations.escalating(conn, now_ms, limit=1))


def escalate(conn: Conn, now_ms: int, policy_of: PolicyOf) -> int:
    """Takes the steps that are due, of at most STEPS_MAX entries; gives of how many."""
    found = escalations.escalating(conn, now_ms, limit=STEPS_MAX)
    users = lock(conn, now_ms, found, policy_of)
    for key, locked in users.items():
        steps = message_rows.escalations_of(conn, key.app_id, found[key].values())
        ledger = Ledger(locked)
        for entry in entry_rows.entries_at(conn, key, found[key]):
            _take(locked, entry, from_store(steps[entry.message_id]) if entry.message_id in steps else (), ledger)
    flush(conn, now_ms, users.values())
    return sum(map(len, found.values()))


def _take(locked: Locked, entry: Entry, steps: Sequence[Step], ledger: Ledger) -> None:
    done = entry.escalated or 0
    concerned = [one for one in locked.devices.values() if ledger.concerned(entry, one)]
    waiting = [one for one in concerned if _waits(locked, entry, one, ledger)]
    if not entry.live(locked.now_ms) or (concerned and not waiting):
        escalations.set_escalated(locked.conn, locked.key, entry.seq, done=done, next_ms=None)
        return
    for step in due(steps, done, entry.accepted_ms, locked.now_ms):
        done += 1
        if step.by == "webhook":
            names: list[str | None] = [device.device_id for device in waiting]
            locked.events += [_event(locked, entry, name, step, done) for name in names or [None]]
        else:
            for device in waiting:
                if (job := _pushes_again(locked, entry, device)) is not None:
                    locked.put_job(job)
    following = next_ms(steps, done, entry.accepted_ms)
    escalations.set_escalated(locked.conn, locked.key, entry.seq, done=done, next_ms=following)


def _waits(locked: Locked, entry: Entry, device: Device, ledger: Ledger) -> bool:
    """Whether this delivery is still waited for, and its user has not had the message elsewhere."""
    return (
        ledger.open(entry, device)
        and not ledger.comes_again(entry, device)
        and not notifying.answered(entry, locked.facts(), locked.policy)
    )


def _pushes_again(locked: Locked, entry: Entry, device: Device) -> PushJob | None:
    """The device's job after a step that pushes; None: its first push is still to come, and waits for no address."""
    job = locked.jobs.get(device.device_id)
    if job is None or not entry.notifiable:
        return None
    if entry.seq <= max(device.pushed_seq, _under_way_upto(locked, device, job)):
        after, upto = entry.seq - 1, entry.seq
        if job.escalate_seq > device.acked_seq:  # others wait for theirs
            after, upto = min(after, job.escalate_after), max(upto, job.escalate_seq)
        return replace(job, escalate_seq=upto, escalate_after=after, escalate_on=0)
    if job.tries == 0:
        return None
    return replace(job, tries=(job.tries // TRIES_PER_ADDRESS + 1) * TRIES_PER_ADDRESS, retry_ms=None)


def _under_way_upto(locked: Locked, device: Device, job: PushJob) -> int:
    """Up to where a push tells that is under way to the device; 0: none is."""
    if (job.claim_until_ms or 0) <= locked.now_ms:
        return 0
    one = attempt_rows.attempt(locked.conn, device.key, job.claim_token)
    return 0 if one is None else int(one.upto_seq)


def _event(locked: Locked, entry: Entry, device_id: str | None, step: Step, number: int) -> NewEvent:
    """No device: the user has none that it is for."""
    name = (*locked.key, device_id or "", entry.message_id, number)
    return NewEvent(
        app_id=locked.key.app_id,
        event_id=derived_id("evt_", EVENT, *name),
        type=EVENT,
        data={
            "user": locked.key.user_id,
            "device": device_id,
            "at": rfc3339(locked.now_ms),
            "deliveries": [
                {
                    "id": derived_id("dlv_", *name, EVENT),
                    "message_id": entry.message_id,
                    "seq": entry.seq,
                    "step": number,
                    "after_s": step.after_s,
                }
            ],
        },
    )
