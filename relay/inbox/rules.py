"""What an inbox decides: who gets an entry and how, when a device must be told, what a cursor is worth. All pure.

The order of a user's transactions comes from the lock on the inbox row (protocol 6.4); these functions only say what
each of them decides from the rows it read under that lock.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec

from relay.inbox.preferences import NOTHING_SAID, Preferences, wanted
from relay.model import (
    Address,
    Device,
    DeviceState,
    Entry,
    EntryState,
    Kind,
    NotifyPolicy,
    Policy,
    PushJob,
    Scope,
    Why,
)

# --- who gets an entry, and how (protocol 10.3, 12.3, 12.4) -----------------------------------------------------------


class View(StrEnum):
    """How one device sees one live entry."""

    FULL = "full"
    FALLBACK = "fallback"
    HELD = "held"
    OWN = "own"  # it sent this itself, in the session that it still has, and its version can show it
    NONE = "none"  # out of its scope


def in_scope(scope: Scope, device: Device) -> bool:
    """Whether a message of this scope is for this device at all."""
    return (
        (not scope.devices or device.device_id in scope.devices)
        and device.device_id not in scope.exclude_devices
        and (not scope.platforms or device.platform in scope.platforms)
    )


class Particulars(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is particular to one receiver of a message: facts of the moment it was accepted, kept with the entry."""

    online: tuple[str, ...] | None = None  # which devices were, of a message that is for those alone
    mention: bool = False
    at: int = 0  # a pointer's number in its shared timeline: read markers count by that one


NOTHING_PARTICULAR = Particulars()


def particulars_of(entry: Entry) -> Particulars:
    """Of a release, what was noted of the entry that it comes for."""
    if entry.data is None or entry.kind not in {Kind.MESSAGE, Kind.RELEASE, Kind.POINTER}:
        return NOTHING_PARTICULAR
    return msgspec.json.decode(entry.data, type=Particulars)


def mentions(entry: Entry) -> bool:
    """Whether the message mentions this inbox's user."""
    return entry.kind is Kind.POINTER or particulars_of(entry).mention


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Orders app versions by their numbers: 5.10 after 5.9; a word sorts before a number ("5.4.beta" < "5.4.0")."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    return tuple((1, int(p)) if p.isdigit() else (0, p) for p in parts)


def shows(entry: Entry, device: Device) -> bool:
    """Whether the device's version can show the full form."""
    if entry.min_schema is not None and (device.schema is None or device.schema < entry.min_schema):
        return False
    if entry.min_app_version is not None:
        return device.app_version is not None and version_key(device.app_version) >= version_key(entry.min_app_version)
    return True


def view(entry: Entry, device: Device) -> View:
    """How `device` sees `entry`, whatever the entry's state. Evaluated when reading and planning, from stored facts."""
    if entry.only_device and entry.only_device != device.device_id:
        return View.NONE
    if not in_scope(entry.scope, device):
        return View.NONE
    if (entry.only_device or entry.scope.devices) and device.created_ms > entry.accepted_ms:
        return View.NONE  # it was named before it existed (or in an earlier life)
    if (
        entry.scope.online
        and entry.kind is Kind.MESSAGE
        and device.device_id not in (particulars_of(entry).online or ())
    ):
        return View.NONE
    content = as_content(entry, device)
    sent_here = entry.origin_device == device.device_id and entry.origin_session == device.session
    if entry.kind is Kind.OWN and sent_here and content is View.FULL:
        return View.OWN
    return content


def as_content(entry: Entry, device: Device) -> View:
    """The form in which it carries the entry, if it has anything to do with it."""
    if shows(entry, device):
        return View.FULL
    if entry.has_fallback:
        return View.FALLBACK
    return View.HELD if entry.hold else View.NONE


ENDED_WHY: dict[EntryState, Why] = {
    EntryState.EXPIRED: Why.EXPIRED,
    EntryState.CANCELLED: Why.CANCELLED,
    EntryState.RECALLED: Why.RECALLED,
    EntryState.SUPERSEDED: Why.SUPERSEDED,
    EntryState.FAILED: Why.QUARANTINED,
}
VIEW_WHY: dict[View, Why] = {View.OWN: Why.OWN, View.HELD: Why.HELD, View.NONE: Why.SCOPE}


def gap_reason(entry: Entry, seen: View, now_ms: int) -> Why | None:
    """Why a page skips this entry for a device that sees it so; None if it carries it."""
    if entry.state is not EntryState.LIVE:
        return ENDED_WHY[entry.state]
    if seen in VIEW_WHY:
        return VIEW_WHY[seen]
    return Why.EXPIRED if entry.expires_ms <= now_ms else None


def may_read_now(why: str, before: Device, device: Device) -> bool:
    """Whether what the device could not read is worth another try: it is another version by now (protocol 8.6)."""
    if why == "poison":
        return device.app_version != before.app_version
    if why == "unknown_type":
        return (device.app_version, device.schema, device.types) != (before.app_version, before.schema, before.types)
    return True


# --- sets of acked numbers --------------------------------------------------------------------------------------------

RANGES_MAX = 64  # ranges of selective acks a device may have; of more, the lowest are offered again


@dataclass(frozen=True, slots=True)
class Acks:
    """What a device has acked: everything up to `acked_seq`, and ranges beyond. `again` are ranges it reported but is
    to get once more (after a rewind, or beyond 64 ranges): they count as reported, not as held. `missed` are ranges that
    its cursor passed although they had ended before it had them: the last 64."""

    ranges: tuple[tuple[int, int], ...] = ()
    again: tuple[tuple[int, int], ...] = ()
    missed: tuple[tuple[int, int], ...] = ()

    def has(self, seq: int) -> bool:
        return any(low <= seq <= high for low, high in self.ranges)

    def reported(self, seq: int) -> bool:
        return self.has(seq) or any(low <= seq <= high for low, high in self.again)

    def missing(self, seq: int) -> bool:
        """Whether the number had ended before the device had it."""
        return any(low <= seq <= high for low, high in self.missed)

    def adding(self, seqs: Iterable[int]) -> "Acks":
        kept = merged([*self.ranges, *((seq, seq) for seq in seqs)])
        forgotten = kept[: max(0, len(kept) - RANGES_MAX)]
        return replace(self, ranges=kept[len(forgotten) :], again=merged([*self.again, *forgotten]))

    def reporting(self, seq: int) -> "Acks":
        """Counts the number as reported, although it is not held."""
        return replace(self, again=merged([*self.again, (seq, seq)]))

    def passing(self, acked_seq: int) -> "Acks":
        """After a cumulative ack: what lies at or below it needs no range of its own."""
        return replace(self, ranges=above(self.ranges, acked_seq), again=above(self.again, acked_seq))

    def passing_by(self, seqs: Iterable[int], *, floor: int) -> "Acks":
        """These were passed, and had ended before the device had them; what is at or below the floor is kept no more."""
        missed = above(merged([*self.missed, *((seq, seq) for seq in seqs)]), floor)
        return replace(self, missed=missed[-RANGES_MAX:])

    def rewound(self, acked_seq: int) -> "Acks":
        """After a rebase: what was held above the new number is offered again, but was reported."""
        return replace(self, ranges=(), again=above(merged([*self.again, *self.ranges]), acked_seq))


NO_ACKS = Acks()


def merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same numbers as disjoint ranges in order."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def above(ranges: Sequence[tuple[int, int]], seq: int) -> tuple[tuple[int, int], ...]:
    """What of these ranges lies above a number."""
    return tuple((max(low, seq + 1), high) for low, high in ranges if high > seq)


# --- what is worth a notification (protocol 7.1) ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFacts:
    """What decides about a device's notifications besides its own row."""

    devices: tuple[Device, ...]  # of the user, all of them
    read: dict[str, int]  # conversation -> read_seq
    acks: dict[str, Acks]  # device -> its ranges
    preferences: Preferences = NOTHING_SAID

    def of(self, device_id: str) -> Acks:
        return self.acks.get(device_id, NO_ACKS)


def worth_telling(entry: Entry, device: Device, facts: UserFacts, policy: Policy, now_ms: int) -> bool:
    """Whether this entry, if the device does not have it, is a reason to notify the device."""
    if not entry.notifiable or not entry.live(now_ms) or not _tells(entry, view(entry, device)):
        return False
    conversation = entry.conversation_id
    if muted(entry, facts.preferences):
        return False
    if conversation is not None and device.foreground and device.open_conversation == conversation:
        return False
    return not answered(entry, facts, policy)


def answered(entry: Entry, facts: UserFacts, policy: Policy) -> bool:
    """Whether the user has had it elsewhere, by the notify policy: no other device need be told."""
    match entry.notify_policy or policy.notify:
        case NotifyPolicy.EACH_DEVICE:
            return False
        case NotifyPolicy.UNTIL_READ:
            return is_read(entry, facts.read)
        case NotifyPolicy.FIRST_DEVICE:
            return any(
                other.foreground and (other.acked_high >= entry.seq or facts.of(other.device_id).has(entry.seq))
                for other in facts.devices
            )


def is_read(entry: Entry, markers: dict[str, int]) -> bool:
    """Whether the user's read marker of the conversation covers it. `markers`: conversation -> read_seq."""
    marker = markers.get(entry.conversation_id or "", 0)
    return 0 < (particulars_of(entry).at or entry.seq) <= marker


def muted(entry: Entry, preferences: Preferences) -> bool:
    """Whether the user does not want to be told of it."""
    return not wanted(preferences, entry.conversation_id, mention=mentions(entry), accepted_ms=entry.accepted_ms)


def _tells(entry: Entry, seen: View) -> bool:
    """Whether there is something to show to a device that sees the entry so."""
    if seen is View.HELD:
        return entry.tells_held
    return seen in {View.FULL, View.FALLBACK} and not entry.only_held


def owed(entry: Entry, device: Device, acks: Acks, now_ms: int) -> bool:
    """Protocol §1: the device has not acked this live entry of its scope (held rows apart)."""
    return (
        device.state is not DeviceState.GONE
        and entry.seq > device.start_seq
        and entry.seq > device.acked_seq
        and not acks.has(entry.seq)
        and entry.live(now_ms)
        and view(entry, device) is not View.NONE
    )


# --- when a push is due (protocol 6.1, 6.4) ---------------------------------------------------------------------------


class Rest(StrEnum):
    """Why a job rests. Each ends by an event that calls `rearm`, or lowers `due_ms`."""

    NOTHING_OWED = "nothing_owed"
    TOLD = "told"
    MUTED = "muted"
    NO_ADDRESS = "no_address"
    ACCOUNT_PARKED = "account_parked"
    QUARANTINED = "quarantined"  # it cannot be planned; an operator must look
    GONE = "gone"


class Later(StrEnum):
    """Why a job that is due waits on."""

    ONLINE = "online"
    LINGER = "linger"
    DEBOUNCE = "debounce"
    ELSEWHERE = "elsewhere"
    GRACE = "grace"  # the relay has just started; devices may be on their way back
    KNOCK = "knock"
    RATE = "rate"
    CIRCUIT = "circuit"
    QUOTA = "quota"  # the account's quota of the day is used up
    HOURS = "hours"  # the vendor takes nothing at this time of day
    BACKOFF = "backoff"
    QUIET_HOURS = "quiet_hours"
    STALE = "stale"  # nobody has heard of the device for long, and its address has had its push of the week


STALE_PUSH_MS = 7 * 86_400_000  # a stale address gets one push in this time: vendors dislike those who push to the dead


def is_stale(device: Device, address: Address, *, policy: Policy, now_ms: int) -> bool:
    """Whether nobody has heard of the device, nor of this token of its, for so long that it may be dead (protocol §5)."""
    heard_ms = max(device.contact_ms, address.registered_ms)
    return not device.online and heard_ms + policy.dormant_ms <= now_ms


TRUSTED_MS = 86_400_000  # an app that trusts its gateway's presence is told by its BYE; this is only a bound


def waits_until(
    device: Device, *, accepted_ms: int, policy: Policy, now_ms: int, elsewhere: bool = False, gateway: bool = False
) -> tuple[int, Later]:
    """Until when a push for an entry accepted then waits, by the table of protocol 6.1, and why.

    `elsewhere`: another device of the user is online in the foreground. `gateway`: somebody else owns the socket.
    """
    extra_ms = policy.elsewhere_ms if elsewhere else 0
    if device.online:
        assert device.online_since_ms is not None
        begin_ms = max(accepted_ms, device.online_since_ms)
        if gateway and policy.trust_presence:
            return begin_ms + TRUSTED_MS, Later.ONLINE
        wait_ms = policy.ack_wait_background_ms if device.background else policy.ack_wait_ms
        until_ms = max(begin_ms, device.progress_ms) + wait_ms + extra_ms
        return min(until_ms, begin_ms + policy.ack_wait_max_ms), Later.ONLINE
    until_ms = accepted_ms + policy.debounce_ms + extra_ms
    reason = Later.ELSEWHERE if elsewhere else Later.DEBOUNCE
    if device.linger_until_ms is not None and device.linger_until_ms > max(now_ms, until_ms):
        return device.linger_until_ms, Later.LINGER
    return until_ms, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """What a device has not acked and is worth a notification, as far as `rearm` must know it."""

    untold_ms: int | None  # accept time of the oldest entry above `pushed_seq`, or with a step due: W(d) is not empty
    told: bool  # something at or below `pushed_seq`
    seen: bool = False  # of that nothing is to be reminded of: the device has shown it, or it has steps of its own
    muted: bool = False  # something is not worth telling only because the user does not want it


NOTHING = Outstanding(untold_ms=None, told=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rearmed:
    """When a push job is due, and why then; None: it rests, and why."""

    due_ms: int | None
    reason: str | None
    told_ms: int | None


def someone_looks(device: Device, devices: Iterable[Device]) -> bool:
    """Whether another device of the user is online in the foreground."""
    return any(other.foreground and other.device_id != device.device_id for other in devices)


def rearm(
    device: Device,
    job: PushJob,
    outstanding: Outstanding,
    *,
    policy: Policy,
    now_ms: int,
    elsewhere: bool,
    gateway: bool,
) -> Rearmed:
    """When the device's push job is due, recomputed from the rows: the only thing that may raise or clear `due_ms`."""
    if device.state is DeviceState.GONE:
        return Rearmed(due_ms=None, reason=Rest.GONE, told_ms=None)
    if outstanding.untold_ms is not None:
        if not device.has_address:
            return Rearmed(due_ms=None, reason=Rest.NO_ADDRESS, told_ms=job.told_ms)
        due_ms, why = waits_until(
            device,
            accepted_ms=outstanding.untold_ms,
            policy=policy,
            now_ms=now_ms,
            elsewhere=elsewhere,
            gateway=gateway,
        )
        if job.retry_ms is not None and job.retry_ms > due_ms:
            due_ms, why = job.retry_ms, Later.BACKOFF
        return Rearmed(due_ms=due_ms, reason=why, told_ms=job.told_ms)
    if not outstanding.told:
        reason = Rest.MUTED if outstanding.muted else Rest.NOTHING_OWED
        return Rearmed(due_ms=None, reason=reason, told_ms=None)
    if not device.has_address:
        return Rearmed(due_ms=None, reason=Rest.NO_ADDRESS, told_ms=job.told_ms)
    if device.state is DeviceState.DORMANT or outstanding.seen or job.knock >= len(policy.knocks_ms):
        return Rearmed(due_ms=None, reason=Rest.TOLD, told_ms=job.told_ms)
    told_ms = now_ms if job.told_ms is None else job.told_ms
    due_ms = max(told_ms + policy.knocks_ms[job.knock], job.retry_ms or 0)
    return Rearmed(due_ms=due_ms, reason=Later.KNOCK, told_ms=told_ms)


# --- what a handshake's cursor is worth (protocol 10.2) ---------------------------------------------------------------


class Verdict(StrEnum):
    """What follows for a device from its handshake."""

    RESUME = "resume"
    DELTA = "delta"
    RESYNC = "resync"


class Reason(StrEnum):
    """Why a cursor was no good."""

    NO_CURSOR = "no_cursor"
    BAD_CURSOR = "bad_cursor"
    EPOCH = "epoch"
    STORE_CHANGED = "store_changed"
    FORKED = "forked"
    STORE_ROLLED_BACK = "store_rolled_back"
    TOO_OLD = "too_old"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a handshake's cursor shows, compared with the rows. `None` cursor fields: there was none, or it was not ours."""

    given: bool
    readable: bool = False
    epoch_same: bool = False
    store_same: bool = False  # cursor's store = stated store = the store we knew
    seq: int = 0
    session: int = 0
    tail_same: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the table says of a handshake."""

    verdict: Verdict
    reason: Reason | None
    acked_seq: int  # what the relay believes from now on
    rebase: bool  # the belief is made anew: rows above are dropped, a new lineage begins
    new_epoch: bool = False


def judge(evidence: Evidence, device: Device, inbox_head: int, inbox_floor: int) -> Judgement:
    """The verdict table of protocol 10.2, first match."""
    start = max(inbox_floor, device.start_seq)

    def resync(reason: Reason, *, new_epoch: bool = False) -> Judgement:
        return Judgement(verdict=Verdict.RESYNC, reason=reason, acked_seq=start, rebase=True, new_epoch=new_epoch)

    if not evidence.given:
        return resync(Reason.NO_CURSOR)
    if not evidence.readable:
        return resync(Reason.BAD_CURSOR)
    if not evidence.epoch_same:
        return resync(Reason.EPOCH)
    if not evidence.store_same:
        return resync(Reason.STORE_CHANGED)
    if evidence.seq > inbox_head or evidence.session > device.session or not evidence.tail_same:
        return resync(Reason.FORKED, new_epoch=True)
    if evidence.session < device.conf_session:
        return resync(Reason.STORE_ROLLED_BACK)
    if below_floor(evidence.seq, device, inbox_floor):
        return resync(Reason.TOO_OLD)
    if evidence.seq < device.acked_seq:
        # A cursor of an earlier life of this device may lie before the start of this one.
        acked_seq = max(evidence.seq, device.start_seq)
        return Judgement(verdict=Verdict.DELTA, reason=None, acked_seq=acked_seq, rebase=True)
    verdict = Verdict.RESUME if evidence.seq == inbox_head else Verdict.DELTA
    return Judgement(verdict=verdict, reason=None, acked_seq=evidence.seq, rebase=False)


def below_floor(seq: int, device: Device, floor: int) -> bool:
    """Whether something that this device should have seen may be gone (protocol 8.5): too old, not merely below."""
    return seq < floor and (device.state is DeviceState.DORMANT or seq < device.acked_seq)
