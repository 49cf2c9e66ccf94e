"""How deliveries end: one final state each, with the event for the sender in the same transaction (protocol 11)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from relay.clock import rfc3339
from relay.inbox import visibility
from relay.inbox.locked import Locked
from relay.inbox.visibility import View
from relay.model import Device, Entry, EntryState, Kind
from relay.store import entries as entry_rows
from relay.store import entry_ends, held_entries
from relay.store.attempts import attempt
from relay.store.engine import Conn
from relay.store.events import DELIVERIES_MAX, NewEvent, derived_id, emit

Reported = tuple[Entry, str | None]  # an entry, with the detail of its end

# Only these are deliveries of a message to a receiver. Copies for the sender's own devices and control entries are not.
DELIVERIES = frozenset({Kind.MESSAGE, Kind.RELEASE, Kind.POINTER})

RECEIPT = "delivery.receipt"  # of one delivery there is one for each detail: it was shown, and then opened

# Why a device passed a message's first entry: it comes again; no version of its app could read it.
RELEASED, FAILED = "released", "failed"


class Released(msgspec.Struct, frozen=True, omit_defaults=True):
    """`data` of a release: what the device had of the message before, and how many versions of its app choked on it."""

    was: Literal["fallback", "held"]  # with its fallback a delivery was reported already
    tries: int = 0
    own: bool = False  # of a copy for the sender's own device, which is no delivery
    of: int = 0  # the number of the message's first entry, where a delivery waits for this one
    mention: bool = False  # as `visibility.Particulars` has it
    at: int = 0  # likewise


def released(entry: Entry) -> Released | None:
    """What a release says of its message; None for any other entry."""
    if entry.kind is not Kind.RELEASE or entry.data is None:
        return None
    return msgspec.json.decode(entry.data, type=Released)


def is_delivery(entry: Entry) -> bool:
    """Whether an end of this entry is to be reported."""
    if entry.kind not in DELIVERIES:
        return False
    release = released(entry)
    return release is None or not (release.was == "fallback" or release.own)


def tell(locked: Locked, device: Device | None, type_: str, items: Sequence[Reported]) -> None:
    """Adds events of `type_` about these deliveries, some in each. No device: nobody had one."""
    app_id, user_id = locked.key
    device_id = None if device is None else device.device_id
    head = {"user": user_id, "device": device_id, "at": rfc3339(locked.now_ms)}
    for start in range(0, len(items), DELIVERIES_MAX):
        ids: list[str] = []
        listed: list[dict[str, Any]] = []
        for entry, detail in items[start : start + DELIVERIES_MAX]:
            fact = (type_, detail) if type_ == RECEIPT else (type_,)
            id_ = derived_id("dlv_", app_id, user_id, device_id or "", entry.message_id, *fact)
            one = {"id": id_, "message_id": entry.message_id, "seq": entry.seq}
            if detail is not None:
                one["detail"] = detail
            ids.append(id_)
            listed.append(one)
        event_id = derived_id("evt_", type_, *ids)
        locked.events.append(
            NewEvent(app_id=app_id, event_id=event_id, type=type_, data={**head, "deliveries": listed})
        )


def tell_device(locked: Locked, device: Device, type_: str, **data: object) -> None:
    """Adds an event about a device itself."""
    locked.events.append(
        NewEvent(
            app_id=locked.key.app_id,
            event_id=derived_id("evt_", type_, *device.key, device.session, locked.now_ms, *map(str, data.values())),
            type=type_,
            data={"user": locked.key.user_id, "device": device.device_id, "at": rfc3339(locked.now_ms), **data},
        )
    )


def tell_undelivered(
    conn: Conn,
    now_ms: int,
    app_id: str,
    message_id: str,
    receivers: Iterable[tuple[str, str]],
    state: EntryState = EntryState.FAILED,
) -> None:
    """Tells how a message ended for receivers (each with the reason) for whom it was accepted and in whose inbox it never
    stood: one was full when its turn came, or its user no more, or the sender took the message back before."""
    type_ = EVENT_OF[state]
    events = []
    for user, why in receivers:
        delivery = derived_id("dlv_", app_id, user, "", message_id, type_)
        head = {"user": user, "at": rfc3339(now_ms)}
        message = {"message_id": message_id, "seq": None}
        events += [
            NewEvent(
                app_id=app_id,
                event_id=derived_id("evt_", type_, delivery),
                type=type_,
                data={**head, "device": None, "deliveries": [{"id": delivery, **message, "detail": why}]},
            ),
            NewEvent(
                app_id=app_id,
                event_id=derived_id("evt_", "completed", app_id, user, message_id),
                type="message.completed",
                data={**head, "messages": [{**message, "counts": {str(state): 1}}]},
            ),
        ]
    emit(conn, now_ms, events)


class Ledger:
    """Which devices' deliveries of an entry are still open. Read once per transaction and user."""

    def __init__(self, locked: Locked) -> None:
        self._locked = locked
        self._unshown: dict[int, dict[str, str]] | None = None
        self._attempts: dict[str, Any] = {}

    def unshown(self, entry: Entry, device: Device) -> str | None:
        """Why the device passed this entry without showing it in any form; None if it did not."""
        if self._unshown is None:
            locked = self._locked
            self._unshown = held_entries.unshown_of_user(locked.conn, locked.key) if locked.holds else {}
        return self._unshown.get(entry.seq, {}).get(device.device_id)

    def acked(self, entry: Entry, device: Device) -> bool:
        """Whether this delivery ended by an ack."""
        acks = self._locked.acks_of(device.device_id)
        done = device.acked_high >= entry.seq or acks.reported(entry.seq)
        return done and not acks.missing(entry.seq) and self.unshown(entry, device) is None

    def failed(self, entry: Entry, device: Device) -> bool:
        """Whether this delivery ended because no version of the device's app could read it."""
        return self.unshown(entry, device) == FAILED

    def open(self, entry: Entry, device: Device) -> bool:
        """Whether there is a delivery to this device that has not ended."""
        return self.concerned(entry, device) and not (self.acked(entry, device) or self.failed(entry, device))

    def comes_again(self, entry: Entry, device: Device) -> bool:
        """Whether the device gets it once more, in full: the delivery is that entry's, then."""
        return self.unshown(entry, device) == RELEASED

    def holds(self, entry: Entry, device: Device) -> bool:
        """Whether the device has this entry by a selective ack (one that is offered again does not count)."""
        return self._locked.acks_of(device.device_id).has(entry.seq)

    def refusal(self, entry: Entry, device: Device) -> str | None:
        """The vendor's code, if the last attempt to tell the device was about this entry and came to nothing."""
        device_id, job = device.device_id, self._locked.jobs.get(device.device_id)
        if device_id not in self._attempts:
            tried = job is not None and job.claim_token
            self._attempts[device_id] = attempt(self._locked.conn, device.key, tried) if tried else None
        last = self._attempts[device_id]
        if last is None or last.verdict == "accepted" or not last.from_seq <= entry.seq <= last.upto_seq:
            return None
        code: str | None = last.vendor_code
        return code

    def concerned(self, entry: Entry, device: Device) -> bool:
        """Whether there is a delivery of this entry to this device at all."""
        return entry.seq > device.start_seq and visibility.view(entry, device) is not View.NONE


def complete(
    locked: Locked,
    device_id: str,
    entries: Sequence[Entry],
    ledger: Ledger,
    *,
    state: Literal["acked", "failed"],
) -> None:
    """Tells of messages whose last delivery to this user has just ended, at this device, by an ack or as failed."""
    seqs = tell_completed(locked, device_id, entries, ledger, state=state)
    entry_ends.mark_completed(locked.conn, locked.now_ms, {locked.key: seqs})


def tell_completed(
    locked: Locked,
    device_id: str,
    entries: Sequence[Entry],
    ledger: Ledger,
    *,
    state: Literal["acked", "failed"],
) -> list[int]:
    """As `complete`, but only tells: gives the numbers of those entries, for whoever marks them together with other users'.
    That is before anybody reads them again."""
    others = [device for name, device in locked.devices.items() if name != device_id]
    done: list[tuple[Entry, dict[str, int]]] = []
    for entry in _originals(locked, entries):
        if entry.completed_ms is not None:
            continue
        counts: dict[str, int] = {state: 1}
        if concerned := [d for d in others if ledger.concerned(entry, d)]:
            if any(ledger.open(entry, d) for d in concerned):
                continue
            counts = Counter([state, *_ends(entry, concerned, ledger)])
        done.append((entry, counts))
    _add_completed(locked, done)
    return [entry.seq for entry, _ in done]


def _originals(locked: Locked, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The same deliveries by their messages' first entries, where they are still kept."""
    released_ids = {entry.message_id for entry in entries if entry.kind is Kind.RELEASE}
    if not released_ids:
        return entries
    known = entry_rows.entries_of_messages(locked.conn, locked.key, released_ids)
    first = {entry.message_id: entry for entry in known if entry.kind in DELIVERIES and entry.kind is not Kind.RELEASE}
    return [first.get(entry.message_id, entry) for entry in entries]


def _ends(entry: Entry, devices: Iterable[Device], ledger: Ledger) -> Iterator[str]:
    """How the deliveries to these devices have ended."""
    for device in devices:
        if not ledger.open(entry, device):
            yield "failed" if ledger.failed(entry, device) else "acked"


def _add_completed(locked: Locked, done: Sequence[tuple[Entry, Mapping[str, int]]]) -> None:
    """Adds events about these messages, some in each."""
    for start in range(0, len(done), DELIVERIES_MAX):
        chunk = done[start : start + DELIVERIES_MAX]
        locked.events.append(
            NewEvent(
                app_id=locked.key.app_id,
                event_id=derived_id("evt_", "completed", *locked.key, *(entry.message_id for entry, _ in chunk)),
                type="message.completed",
                data={
                    "user": locked.key.user_id,
                    "at": rfc3339(locked.now_ms),
                    "messages": [
                        {"message_id": entry.message_id, "seq": entry.seq, "counts": counts} for entry, counts in chunk
                    ],
                },
            )
        )


EVENT_OF = {
    EntryState.EXPIRED: "delivery.expired",
    EntryState.CANCELLED: "delivery.cancelled",
    EntryState.RECALLED: "delivery.cancelled",
    EntryState.SUPERSEDED: "delivery.superseded",
    EntryState.FAILED: "delivery.failed",
}


def end(
    locked: Locked, entries: Sequence[Entry], state: EntryState, *, by: int | None = None, detail: str | None = None
) -> None:
    """Ends live entries for every device that has not acked them, with a report each. Acked deliveries stay acked.

    `by` is the number of the entry that replaced or recalled them; `detail` why, where that is not each device's own.
    """
    entries = [entry for entry in entries if entry.state is EntryState.LIVE]
    if not entries:
        return
    entry_ends.end_entries(
        locked.conn, locked.key, locked.now_ms, seqs=[entry.seq for entry in entries], state=state, by=by
    )
    locked.ended = True
    ledger = Ledger(locked)
    open_: dict[str, list[Reported]] = {}
    nobody: list[Reported] = []
    completed: list[tuple[Entry, Counter[str]]] = []
    for entry in entries:
        if not is_delivery(entry):
            continue
        concerned = [d for d in locked.devices.values() if ledger.concerned(entry, d)]
        waiting = [d for d in concerned if ledger.open(entry, d)]
        for device in waiting:
            if not ledger.comes_again(entry, device):
                open_.setdefault(device.device_id, []).append((entry, detail or _detail(entry, device, ledger)))
        if not concerned and entry.kind is not Kind.RELEASE:  # that was for one device, whose end has been told
            nobody.append((entry, detail or "never_online"))
        if entry.completed_ms is None and entry.kind is not Kind.RELEASE:
            ends = [*_ends(entry, concerned, ledger), *[str(state) for _ in waiting]]
            completed.append((entry, Counter(ends or [str(state)])))
    for device_id, items in open_.items():
        tell(locked, locked.devices[device_id], EVENT_OF[state], items)
        locked.rearm(device_id)
    if nobody:
        tell(locked, None, EVENT_OF[state], nobody)
    _add_completed(locked, completed)
    seqs = [entry.seq for entry, _ in completed]
    entry_ends.mark_completed(locked.conn, locked.now_ms, {locked.key: seqs})


def _detail(entry: Entry, device: Device, ledger: Ledger) -> str:
    """Why the delivery had not been acked when it ended."""
    if ledger.unshown(entry, device) is not None or visibility.view(entry, device) is View.HELD:
        return f"held: needs schema {entry.min_schema}" if entry.min_schema is not None else "held"
    if was_online(device, since_ms=entry.accepted_ms):
        return "online_not_acked"
    if not device.has_address:
        return "no_address"
    return ledger.refusal(entry, device) or "never_online"


def was_online(device: Device, *, since_ms: int) -> bool:
    """Whether it was so at some time since then."""
    return device.online_since_ms is not None and (device.online or (device.offline_since_ms or 0) > since_ms)


def _somebody(locked: Locked, entry: Entry, but: Device, ledger: Ledger) -> bool:
    return any(ledger.concerned(entry, d) for name, d in locked.devices.items() if name != but.device_id)


def fail_device(locked: Locked, device: Device, *, detail: str) -> None:
    """A device is gone: what it had not acked has failed for it."""
    ledger = Ledger(locked)
    after = device.start_seq
    while True:
        entries = entry_rows.entries_between(
            locked.conn, locked.key, after=after, upto=locked.head_seq, limit=DELIVERIES_MAX
        )
        items: list[Reported] = [
            (entry, detail)
            for entry in entries
            if entry.state is EntryState.LIVE
            and is_delivery(entry)
            and ledger.open(entry, device)
            and not ledger.comes_again(entry, device)
        ]
        tell(locked, device, "delivery.failed", items)
        # Where there is no other device, the message waits for the next one.
        shared = [
            entry for entry in _originals(locked, [e for e, _ in items]) if _somebody(locked, entry, device, ledger)
        ]
        complete(locked, device.device_id, shared, ledger, state="failed")
        if len(entries) < DELIVERIES_MAX:
            return
        after = entries[-1].seq
