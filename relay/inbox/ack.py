"""A device's word that it has stored something: cumulative, selective, refused, read (protocol 8.6)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from relay.errors import Conflict, CursorRefused, Malformed, Problem, Unauthenticated
from relay.inbox import visibility
from relay.inbox.advancing import Step, advance, report_acked
from relay.inbox.cursor import NO_TAIL, Cursor, epoch8, tail8
from relay.inbox.ending import append_control
from relay.inbox.locked import Locked, PolicyOf, device_in, flush, lock
from relay.inbox.reports import (
    FAILED,
    RECEIPT,
    RELEASED,
    Ledger,
    Reported,
    complete,
    is_delivery,
    released,
    tell,
)
from relay.inbox.shared_ack import limits_of_markers, take_shared
from relay.inbox.store_owner import check_owner
from relay.inbox.visibility import View
from relay.model import CARRIES_MESSAGE, Device, DeviceKey, Entry, EntryState, Kind, NotifyPolicy, UserKey
from relay.store import entries as entry_rows
from relay.store import entry_ends, held_entries
from relay.store import inbox as inbox_rows
from relay.store.engine import Conn
from relay.store.spans import ids_at

TRIES_MAX = 3  # app versions that may fail to decode a message before its delivery has failed
NACK_WHY = {"unknown_type": "unknown_type", "undecodable": "poison", "too_big": "poison"}
UNREAD = frozenset(["held", *NACK_WHY.values()])  # what a device has in no form that it can show


class Nack(NamedTuple):
    """A message that the device could not read."""

    message_id: str
    code: str
    version: str | None = None  # of the app that could not


class AckRequest(Struct, frozen=True, kw_only=True):
    """Everything a device may say in one ack. All parts are optional and idempotent."""

    device: DeviceKey
    session: int | None = None  # of the socket it came from; None for plain HTTP
    upto: int | None = None  # a socket's: at most what this connection was sent
    cursor: Cursor | None = None
    ids: tuple[str, ...] = ()
    nacks: tuple[Nack, ...] = ()
    reads: tuple[tuple[str, int], ...] = ()  # (conversation, read_seq)
    receipts: tuple[tuple[str, str], ...] = ()  # (message id, shown | opened)
    shared: tuple[Cursor, ...] = ()  # of shared timelines
    shared_anew: bool = False  # a handshake's: so far its store is, be it less than was acked
    shared_upto: tuple[tuple[str, int], ...] = ()  # a socket's: (conversation, what it was sent at most)
    store_id: str | None = None  # said where no handshake has
    store_user: str | None = None


class AckAnswer(Struct, frozen=True, kw_only=True):
    """What the device is told, and what follows for others."""

    acked_seq: int
    results: dict[str, str]
    shared: dict[str, int]  # how far the device is in the shared timelines that the request named
    wakes: bool  # other devices of the user have something new to read
    moot: bool = False  # or may show what is of no use any more
    answered: tuple[str, ...] = ()  # messages that ended for the user's other devices by this


class _Heard(NamedTuple):
    """A request that nothing speaks against, once its words about single messages are taken."""

    locked: Locked
    device: Device  # as it was before
    request: AckRequest
    upto: int | None
    results: dict[str, str]


def ack(conn: Conn, now_ms: int, requests: Sequence[AckRequest], policy_of: PolicyOf) -> list[AckAnswer | Exception]:
    """Takes acks of many devices in one transaction."""
    users = lock(conn, now_ms, {request.device.user for request in requests}, policy_of)
    by_cursor = any(one.cursor is not None or one.shared for one in requests)  # a socket's number names no epoch
    store_epoch = inbox_rows.store_epoch(conn) if by_cursor else ""
    forked = _forked(conn, users, requests) if by_cursor else set()
    answers: dict[int, AckAnswer | Exception] = {}
    for turn in _turns(requests):
        heard: dict[int, _Heard] = {}
        for place in turn:
            try:
                heard[place] = _hear(users, requests[place], store_epoch, forked=place in forked)
            except Problem as problem:
                answers[place] = problem
        advance(conn, now_ms, [_step(one, one.upto) for one in heard.values() if one.upto is not None])
        answers |= {place: _answer(one, store_epoch) for place, one in heard.items()}
    flush(conn, now_ms, users.values())
    return [answers[place] for place in range(len(requests))]


def _turns(requests: Sequence[AckRequest]) -> list[list[int]]:
    """The places of the requests, each user's in order and in different turns: what is read and written for all of a turn at
    once, none of its requests changes for another."""
    turns: list[list[int]] = []
    come: dict[UserKey, int] = {}
    for place, request in enumerate(requests):
        user = request.device.user
        turn = come[user] = come.get(user, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(place)
    return turns


def _forked(conn: Conn, users: Mapping[UserKey, Locked], requests: Sequence[AckRequest]) -> set[int]:
    """The places of the requests whose cursor ends at another message than stands at its number."""
    tails: dict[int, tuple[UserKey, int, bytes]] = {}
    for place, request in enumerate(requests):
        cursor, found = request.cursor, device_in(users, request.device)
        if cursor is None or found is None or cursor.tail8 == NO_TAIL:
            continue
        locked, _ = found
        if locked.inbox.floor_seq < cursor.seq <= locked.head_seq:  # below the floor that can't be told
            tails[place] = locked.key, cursor.seq, cursor.tail8
    ids = ids_at(conn, [(key, seq) for key, seq, _ in tails.values()])
    return {place for (place, (*_, tail)), id_ in zip(tails.items(), ids, strict=True) if tail8(id_) != tail}


def _known(users: Mapping[UserKey, Locked], key: DeviceKey, session: int | None) -> tuple[Locked, Device]:
    """The device as it stands; refuses one that is gone, and words of a session that a newer one has replaced."""
    found = device_in(users, key)
    if found is None:
        raise Unauthenticated("This device has been signed out; ask the app's backend for a new token.")
    if session is not None and session != found[1].session:
        raise Conflict("A newer session of this device has taken over.")
    return found


def _hear(users: Mapping[UserKey, Locked], request: AckRequest, store_epoch: str, *, forked: bool) -> _Heard:
    """Raises Problem; then nothing of the request is taken."""
    locked, device = _known(users, request.device, request.session)
    check_owner(locked, device, store_id=request.store_id, store_user=request.store_user)
    upto = _target(locked, device, request, store_epoch, forked=forked)
    # What may be refused has been; from here on everything is applied.
    refused: set[int] = set()
    if request.nacks and not _past(device, request.cursor):
        refused = _take_nacks(locked, device, request.nacks)
    results: dict[str, str] = {}
    if request.ids:
        results = _take_ids(locked, locked.devices[device.device_id], request.ids, refused)
    return _Heard(locked, device, request, upto, results)


def _step(one: _Heard, upto: int) -> Step:
    device = one.locked.devices[one.device.device_id]
    confirmed = _confirmed(device, one.request, upto)
    if confirmed > device.conf_session:
        device = replace(device, conf_session=confirmed)
        one.locked.put(device)
    return Step(one.locked, device, upto)


def _answer(one: _Heard, store_epoch: str) -> AckAnswer:
    """Takes the request's other words; what the device is told."""
    locked, device, request, upto, results = one
    shared = take_shared(
        locked,
        locked.devices[device.device_id],
        request.shared,
        request.shared_upto,
        anew=request.shared_anew,
        store_epoch=store_epoch,
    )
    wakes = _take_reads(locked, request)
    _take_receipts(locked, request)
    seen = device.foreground and locked.policy.notify is NotifyPolicy.FIRST_DEVICE
    return AckAnswer(
        acked_seq=locked.devices[device.device_id].acked_seq,
        results=results,
        shared=shared,
        wakes=wakes,
        moot=wakes or locked.ended or (seen and bool(results or upto)),
        answered=tuple(id_ for id_, by in locked.answered.items() if by == device.device_id),
    )


def _target(locked: Locked, device: Device, request: AckRequest, store_epoch: str, *, forked: bool) -> int | None:
    """The number up to which the request acks; None if it says nothing of that, or speaks of a past lineage."""
    cursor = request.cursor
    if cursor is not None:
        if cursor.epoch8 != epoch8(store_epoch, locked.inbox.epoch):
            raise CursorRefused("The numbering has begun anew; shake hands again.")
        if _past(device, cursor):
            return None
        if cursor.seq > locked.head_seq or cursor.session > device.session:
            raise CursorRefused("This cursor is ahead of the inbox; shake hands again.")
        if forked:
            raise CursorRefused("This cursor ends at another message; shake hands again.")
        return cursor.seq
    if request.upto is not None and request.upto > locked.head_seq:
        raise Malformed("`upto` is beyond what was sent on this connection.", code="invalid_cursor")
    return request.upto


def _confirmed(device: Device, request: AckRequest, upto: int) -> int:
    """The session of which the device has stored a cursor; 0 if this does not tell. A number on a socket speaks of pages that
    came there, with cursors of its session."""
    if request.cursor is not None:
        return request.cursor.session
    return request.session or 0 if upto > device.acked_seq else 0


def _past(device: Device, cursor: Cursor | None) -> bool:
    """Whether it speaks of a past lineage: of another version of the app, or of a store that is no more."""
    return cursor is not None and cursor.session < device.lineage_session


def _take_ids(locked: Locked, device: Device, ids: Sequence[str], refused: set[int]) -> dict[str, str]:
    """Selective acks: what came by push or range. They never move the cursor."""
    results = dict.fromkeys(ids, "unknown")
    acks = locked.acks_of(device.device_id)
    unread = {seq for seq, why, _ in locked.held(device.device_id) if why in UNREAD}
    newly: list[Entry] = []
    late: list[Reported] = []
    for entry in entry_rows.entries_of_messages(locked.conn, locked.key, ids):
        if (
            entry.kind not in CARRIES_MESSAGE
            or entry.seq <= device.start_seq
            or entry.seq in refused
            or (seen := visibility.view(entry, device)) in {View.NONE, View.HELD}  # that was never offered to it
        ):
            continue
        open_ = entry.seq in unread and (entry.seq > device.acked_seq or seen is View.FULL)
        had = (entry.seq <= device.acked_seq and not acks.missing(entry.seq)) or acks.reported(entry.seq)
        if had and not open_:
            results[entry.message_id] = "already"
        elif entry.state is not EntryState.LIVE or entry.expires_ms <= locked.now_ms:
            results[entry.message_id] = "expired"
            late.append((entry, str(entry.state)))
        else:
            results[entry.message_id] = "acked"
            newly.append(entry)
    if newly:
        beyond = acks.adding(entry.seq for entry in newly if entry.seq > device.acked_seq)
        locked.put_acks(device.device_id, beyond)
        locked.put(replace(device, progress_ms=locked.now_ms, contact_ms=locked.now_ms))
        # What it had refused before it can read after all: else the delivery would end once more.
        locked.unhold(device.device_id, [entry.seq for entry in newly if entry.seq in unread])
        reportable = [entry for entry in newly if entry.seq > device.acked_high or entry.seq in unread]
        completed = report_acked(locked, device.device_id, reportable)
        entry_ends.mark_completed(locked.conn, locked.now_ms, {locked.key: completed})
        locked.rearm(device.device_id, anew=True)
    tell(locked, device, "delivery.late_ack", late)
    return results


def _take_nacks(locked: Locked, device: Device, nacks: Sequence[Nack]) -> set[int]:
    """What the device could not read stays owed, in rows of its own; undecodable thrice has failed."""
    # What an earlier version says late, or again, speaks for no other: it would be taken for a try of this one.
    codes = {one.message_id: one.code for one in nacks if device.app_version in {None, one.version} or not one.version}
    if not codes:
        return set()
    known = {seq: (why, tries) for seq, why, tries in locked.held(device.device_id)}
    acks = locked.acks_of(device.device_id)
    refused: set[int] = set()
    failed: list[Reported] = []
    unread: list[Reported] = []
    for entry in entry_rows.entries_of_messages(locked.conn, locked.key, codes):
        if (
            not entry.live(locked.now_ms)
            or visibility.view(entry, device) is View.NONE
            or entry.seq <= device.start_seq
        ):
            continue
        was, before = known.get(entry.seq, ("", 0))
        reported = entry.seq <= device.acked_high or acks.reported(entry.seq)
        if was in {RELEASED, FAILED} or (reported and was in {"", "fallback"}):
            continue  # acked and reported before, be it with its fallback: an ack is not taken back
        refused.add(entry.seq)
        why = NACK_WHY[codes[entry.message_id]]
        # A release is another version's try; the same refusal said twice is still one.
        release = released(entry)
        if release is not None:
            tries = release.tries + 1
        elif was == "held":  # put off when this version came (see `release`)
            tries = before + 1
        else:
            tries = max(1, before)
        if why == "poison" and tries >= TRIES_MAX:
            locked.unhold(device.device_id, [entry.seq])
            if is_delivery(entry):  # no copy of one's own, nor the full form of what was acked with its fallback
                failed.append((entry, "undecodable"))
                first = release.of if release is not None else entry.seq
                locked.unhold(device.device_id, [first])
                locked.hold(device.device_id, [(first, FAILED)])
            locked.put_acks(device.device_id, locked.acks_of(device.device_id).reporting(entry.seq))
            continue
        if not was and release is None and is_delivery(entry):  # later refusals of it are tries of the same delivery
            unread.append((entry, codes[entry.message_id]))
        locked.unhold(device.device_id, [entry.seq])
        locked.hold(device.device_id, [(entry.seq, why)])
        held_entries.set_held_tries(locked.conn, device.key, seq=entry.seq, tries=tries)
    tell(locked, device, "delivery.held", unread)
    tell(locked, device, "delivery.failed", failed)
    complete(locked, device.device_id, [entry for entry, _ in failed], Ledger(locked), state="failed")
    locked.rearm(device.device_id, anew=True)
    return refused


def _take_reads(locked: Locked, request: AckRequest) -> bool:
    """Read markers belong to the user, grow only, and reach the other devices as `read` entries."""
    if not request.reads:
        return False
    changed = False
    limits = limits_of_markers(locked, request.reads)
    for conversation_id, read_seq in request.reads:
        seq = min(read_seq, limits.get(conversation_id, locked.head_seq))
        if seq <= locked.read_markers.get(conversation_id, 0):
            continue
        inbox_rows.set_read_marker(locked.conn, locked.key, locked.now_ms, conversation_id=conversation_id, seq=seq)
        locked.read_markers[conversation_id] = seq
        append_control(
            locked,
            Kind.READ,
            data={"conversation": conversation_id, "read_seq": seq},
            collapse_key=f"\x1fread:{conversation_id}",
        )
        changed = True
    if changed:
        locked.rearm_all()
    return changed


def _take_receipts(locked: Locked, request: AckRequest) -> None:
    """`shown` and `opened` are passed on to the sender, and end reminders (protocol 7.5)."""
    if not request.receipts:
        return
    device = locked.devices[request.device.device_id]
    entries = {
        entry.message_id: entry  # of two forms the later
        for entry in entry_rows.entries_of_messages(locked.conn, locked.key, {id_ for id_, _ in request.receipts})
        if entry.kind in CARRIES_MESSAGE and visibility.view(entry, device) is not View.NONE
    }
    said = [(entries[id_], what) for id_, what in dict.fromkeys(request.receipts) if id_ in entries]
    tell(locked, device, RECEIPT, said)
    locked.note_shown(request.device.device_id, max((entry.seq for entry in entries.values()), default=0))
