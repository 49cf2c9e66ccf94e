"""What a device may still show although it is of no use any more: read elsewhere, taken back, expired (protocol 7.4)."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

from providers.contract import Capabilities
from relay.inbox import notifying, push_due
from relay.inbox.locked import Locked, PolicyOf, with_rows
from relay.model import Address, Device, DeviceKey, Entry, EntryState, Notification, TimelineKey, UserKey
from relay.push.notes import OF_EACH, shows, summary_id
from relay.store import addresses as address_rows
from relay.store import attempts as attempt_rows
from relay.store import entries as entry_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import shown, timelines
from relay.store.engine import Conn
from relay.store.readers import Read

TOLD_MAX = 500  # entries looked at, of one device
TELLINGS_MAX = 50
IDS_MAX = 20  # messages named in one go
UNREAD_MAX = 1_000  # beyond that many, a badge is left as it is
WITHDRAWN, NOT_WITHDRAWN = "withdrawn", "not_withdrawn"  # facts of a push, beside those that vendors report

CapabilitiesOf = Callable[[str, str], Capabilities | None]  # (app, account); None: there is no such account


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One notification that stands on a screen, as far as we know. `claim_token`: the attempt that brought it."""

    push_id: str
    collapse_key: str
    claim_token: int
    vendor_id: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)  # by provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Moot:
    """What one address of a device was told and need not show any more."""

    device: DeviceKey
    platform: str | None
    address: Address
    messages: Mapping[str, int]  # id -> the attempt that told of it; at most IDS_MAX
    notes: tuple[Shown, ...]  # whose every message is moot
    badge: int | None  # what it should be, if a higher number was sent
    woken_ms: int | None


def find_moot(
    conn: Conn, now_ms: int, users: Collection[UserKey], policy_of: PolicyOf, capabilities_of: CapabilitiesOf
) -> list[Moot]:
    """Of devices that are not here to be told otherwise: at most one for each address that can be helped."""
    inboxes = inbox_rows.inboxes_of(conn, users)
    addresses = address_rows.addresses_of(conn, list(inboxes))
    found: list[Moot] = []
    for key, user in with_rows(conn, now_ms, inboxes, policy_of).items():
        for device in user.devices.values():
            able = {
                (one.account, one.token_hash): one
                for one in addresses.get(device.key, [])
                if _can_be_helped(one, capabilities_of(key.app_id, one.account))
                and not push_due.is_stale(device, one, policy=user.policy, now_ms=now_ms)
            }
            if able and not device.online:
                told = _told_of_shared(user, device)
                found += _joined(_of_device(user, device, able, told), _of_shared(user, device, able, told))
    return found


def _can_be_helped(address: Address, capabilities: Capabilities | None) -> bool:
    """Calls and live activities are none of this: they end by other means."""
    if capabilities is None or address.state != "active":
        return False
    return shows(address) and (capabilities.recall or capabilities.withdraw)


def _joined(ones: list[Moot], others: list[Moot]) -> list[Moot]:
    """One for each address."""
    beside = {(one.address.account, one.address.token_hash): one for one in others}
    joined = []
    for one in ones:
        other = beside.pop((one.address.account, one.address.token_hash), None)
        if other is not None:
            one = replace(one, messages={**one.messages, **other.messages}, notes=(*one.notes, *other.notes))
        joined.append(one)
    return [*joined, *beside.values()]


class _Told(NamedTuple):
    """A shared timeline of which a notification tells. `moot`: nothing of it is alive and unread."""

    conversation: str
    read: Read
    telling: shown.Telling
    moot: bool


def _told_of_shared(user: Locked, device: Device) -> list[_Told]:
    reads = {name: read for name, read in user.reads(device.device_id).items() if read.pushed_seq > read.acked_high}
    tellings = shown.tellings_of_shared(user.conn, device.key) if reads else {}
    found = []
    for name, read in reads.items():
        if name in tellings:
            key, seen = TimelineKey(user.key.app_id, name), max(read.acked_high, user.read_markers.get(name, 0))
            live = timelines.notifiable_between(user.conn, key, user.now_ms, after=seen, upto=read.pushed_seq, limit=1)
            found.append(_Told(name, read, tellings[name], not live))
    return found


def _of_shared(
    user: Locked, device: Device, able: Mapping[tuple[str, bytes], Address], told: Sequence[_Told]
) -> list[Moot]:
    """What tells of shared timelines: each has one notification, or all of them have one."""
    conn = user.conn
    done = shown.known_of(conn, device.key, [WITHDRAWN, NOT_WITHDRAWN]) if told else set()
    whole = summary_id(device.device_id, None)
    # It may tell of the inbox as well: then that says when it is over.
    all_over = device.pushed_seq <= device.acked_seq and all(one.moot for one in told if one.telling.push_id == whole)
    notes: dict[tuple[str, bytes], list[tuple[Shown, list[str]]]] = {}
    for one in told:
        telling = one.telling
        alone = telling.push_id == whole and telling.from_seq > telling.upto_seq
        name = whole if alone else summary_id(device.device_id, one.conversation)
        if not one.moot or (telling.claim_token, name) in done or (telling.account, telling.token_hash) not in able:
            continue
        if alone and not all_over:
            continue
        note = Shown(
            push_id=name,
            collapse_key=name,
            claim_token=telling.claim_token,
            vendor_id=telling.vendor_id if telling.push_id == name else None,
        )
        key = TimelineKey(user.key.app_id, one.conversation)
        named = timelines.announced_between(
            conn, key, after=one.read.acked_high, upto=one.read.pushed_seq, limit=IDS_MAX
        )
        ids = [id_ for id_ in named if (telling.claim_token, id_) not in done]
        notes.setdefault((telling.account, telling.token_hash), []).append((note, ids))
    return [
        Moot(
            device=device.key,
            platform=device.platform,
            address=able[place],
            messages={id_: note.claim_token for note, ids in some for id_ in ids},
            notes=tuple({note.push_id: note for note, _ in some}.values()),
            badge=None,
            woken_ms=attempt_rows.last_wake_ms(conn, device.key, place[0]),
        )
        for place, some in notes.items()
    ]


def _of_device(
    user: Locked, device: Device, able: Mapping[tuple[str, bytes], Address], shared: Sequence[_Told]
) -> list[Moot]:
    conn, after = user.conn, device.acked_seq
    if device.pushed_seq <= after:
        return []
    tellings = [
        one
        for one in shown.tellings(conn, device.key, after=after, limit=TELLINGS_MAX)
        if (one.account, one.token_hash) in able
    ]
    if not tellings:
        return []
    entries = [
        entry
        for entry in entry_rows.entries_between(conn, user.key, after=after, upto=device.pushed_seq, limit=TOLD_MAX)
        if entry.notifiable
    ]
    gone = [entry for entry in entries if is_moot(user, device, entry)]
    if not gone:
        return []
    contents = message_rows.pushes_of(conn, user.key.app_id, {entry.message_id for entry in entries})
    done = shown.known_of(conn, device.key, [WITHDRAWN, NOT_WITHDRAWN])
    badge = _badge(user, entries, contents)
    whole = summary_id(device.device_id, None)
    kept = {whole} if any(one.telling.push_id == whole and not one.moot for one in shared) else set()
    found = []
    for place, address in able.items():
        mine = [one for one in tellings if (one.account, one.token_hash) == place]
        notes = {
            note.push_id: note
            for one in reversed(mine)  # the newest of a name counts
            for note in _moot_notes(device, one, entries, gone, contents)
            if (note.claim_token, note.push_id) not in done and note.push_id not in kept
        }
        messages = {
            entry.message_id: newest
            for entry in gone
            if (newest := next((one.claim_token for one in mine if _covers(one, entry)), None)) is not None
            and (newest, entry.message_id) not in done
        }
        if messages:
            found.append(
                Moot(
                    device=device.key,
                    platform=device.platform,
                    address=address,
                    messages=dict(list(messages.items())[-IDS_MAX:]),
                    notes=tuple(notes.values())[-IDS_MAX:],
                    badge=badge,
                    woken_ms=attempt_rows.last_wake_ms(conn, device.key, address.account),
                )
            )
    return found


def is_moot(user: Locked, device: Device, entry: Entry) -> bool:
    """Whether this device need not show it any more."""
    acks = user.acks_of(device.device_id)
    if acks.has(entry.seq):  # the app has it, and hides by itself what is over; but not what was taken back since
        return entry.state is EntryState.RECALLED
    if not entry.live(user.now_ms):
        return True
    return notifying.is_read(entry, user.read_markers) or notifying.answered(entry, user.facts(), user.policy)


def _covers(one: shown.Telling, entry: Entry) -> bool:
    return one.from_seq <= entry.seq <= one.upto_seq


def _moot_notes(
    device: Device,
    one: shown.Telling,
    entries: Sequence[Entry],
    gone: Sequence[Entry],
    contents: Mapping[str, message_rows.Push],
) -> Iterable[Shown]:
    """The notifications of one attempt that tell of nothing but what is moot."""
    covered = [entry for entry in gone if _covers(one, entry)]
    alive = [entry for entry in entries if entry not in gone]
    if one.form in OF_EACH:
        kept = {contents[entry.message_id].collapse_key for entry in alive if entry.message_id in contents}
        for entry in covered:
            content = contents.get(entry.message_id)
            if content is None:
                continue
            replaced = content.collapse_key is not None and (
                content.collapse_key in kept
                or (entry.state is EntryState.SUPERSEDED and not entry.scope.first_ack_wins)
            )
            if not replaced:  # else its place on the screen belongs to a newer one
                yield Shown(
                    push_id=entry.message_id,
                    collapse_key=content.collapse_key or entry.message_id,
                    claim_token=one.claim_token,
                    vendor_id=one.vendor_id if one.push_id == entry.message_id else None,
                    overrides=_notification(content).overrides,
                )
        return
    about_all = one.push_id == summary_id(device.device_id, None)
    for conversation in {None} if about_all else {entry.conversation_id for entry in covered}:
        if not any(about_all or entry.conversation_id == conversation for entry in alive):
            name = summary_id(device.device_id, conversation)
            yield Shown(
                push_id=name,
                collapse_key=name,
                claim_token=one.claim_token,
                vendor_id=one.vendor_id if one.push_id == name else None,
            )


def _badge(user: Locked, entries: Sequence[Entry], contents: Mapping[str, message_rows.Push]) -> int | None:
    """How many messages of the user are unread by the read markers, if the newest number that was sent is higher."""
    sent = [
        badge
        for entry in entries
        if entry.message_id in contents and (badge := _notification(contents[entry.message_id]).badge) is not None
    ]
    if not sent or sent[-1] == 0:
        return None
    live = entry_rows.notifiable_between(
        user.conn, user.key, user.now_ms, after=user.inbox.floor_seq, upto=user.head_seq, limit=UNREAD_MAX
    )
    unread = sum(not notifying.is_read(entry, user.read_markers) for entry in live)
    return unread if len(live) < UNREAD_MAX and unread < sent[-1] else None


def _notification(content: message_rows.Push) -> Notification:
    return msgspec.json.decode(content.push or content.push_held or "{}", type=Notification)
