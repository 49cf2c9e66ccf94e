"""Who gets an entry, and how: what one device sees of it (protocol 10.3, 12.3, 12.4). All pure, from stored facts."""

import re
from enum import StrEnum

import msgspec

from relay.model import EVERYWHERE, Device, Entry, EntryState, Kind, Scope, Why


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
    scope = entry.scope
    if scope is not EVERYWHERE and not in_scope(scope, device):
        return View.NONE
    if (entry.only_device or scope.devices) and device.created_ms > entry.accepted_ms:
        return View.NONE  # it was named before it existed (or in an earlier life)
    if scope.online and entry.kind is Kind.MESSAGE and device.device_id not in (particulars_of(entry).online or ()):
        return View.NONE
    content = as_content(entry, device)
    if entry.kind is Kind.OWN and content is View.FULL:
        sent_here = entry.origin_device == device.device_id and entry.origin_session == device.session
        return View.OWN if sent_here else content
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
