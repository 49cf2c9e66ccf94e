"""What is worth a notification to a device that does not have it (protocol 7.1). All pure."""

from collections.abc import Collection

from msgspec import Struct

from relay.inbox.preferences import NOTHING_SAID, Preferences, wanted
from relay.inbox.selective_acks import NO_ACKS, Acks
from relay.inbox.visibility import View, mentions, particulars_of, view
from relay.model import Device, Entry, NotifyPolicy, Policy


class UserFacts(Struct, frozen=True, kw_only=True):
    """What decides about a device's notifications besides its own row."""

    devices: Collection[Device]  # of the user; those that are gone count for nothing
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
            return any(_seen(entry, other, facts) for other in facts.devices)


def _seen(entry: Entry, device: Device, facts: UserFacts) -> bool:
    """Whether the device has acked it with its app in the foreground, now or earlier."""
    if device.foreground and (device.acked_high >= entry.seq or facts.of(device.device_id).has(entry.seq)):
        return True
    return device.seen_seq >= entry.seq


def is_read(entry: Entry, markers: dict[str, int]) -> bool:
    """Whether the user's read marker of the conversation covers it. `markers`: conversation -> read_seq."""
    marker = markers.get(entry.conversation_id or "", 0)
    return marker > 0 and 0 < (particulars_of(entry).at or entry.seq) <= marker


def muted(entry: Entry, preferences: Preferences) -> bool:
    """Whether the user does not want to be told of it."""
    if preferences is NOTHING_SAID:
        return False
    return not wanted(preferences, entry.conversation_id, mention=mentions(entry), accepted_ms=entry.accepted_ms)


def _tells(entry: Entry, seen: View) -> bool:
    """Whether there is something to show to a device that sees the entry so."""
    if seen is View.HELD:
        return entry.tells_held
    return (seen is View.FULL or seen is View.FALLBACK) and not entry.only_held
