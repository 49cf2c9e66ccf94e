"""What a user was woken for in shared timelines, and whether a device is still to be told of it (protocol 6.5, 12.5).

The reason is a row: `membership.wake_seq` above what the device has acked and was told there. Nothing in a shared timeline
is owed as an inbox's entries are: what was told once is not told again.
"""

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from relay.inbox import notifying
from relay.model import Device, Entry, NotifyPolicy, TimelineKey
from relay.store import entries as entry_rows
from relay.store import timelines
from relay.store.readers import NEVER

if TYPE_CHECKING:
    from relay.inbox.locked import Locked

SCAN, SCAN_MAX = 5, 100
NEWS_MAX = 20  # newest entries of a timeline that are looked at in full


class Wish(NamedTuple):
    """A device is to be told of a timeline's numbers above `after`, up to `upto`."""

    key: TimelineKey
    after: int
    upto: int


class News(NamedTuple):
    """What there is to tell of one timeline: the newest entries, and the number of numbers that they stand for."""

    wish: Wish
    entries: tuple[Entry, ...]
    number: int
    since_ms: int  # when the oldest of all was accepted


def wishes(locked: "Locked", device: Device) -> list[Wish]:
    """The timelines that the device is to be told of, as far as the rows of its user say."""
    if not locked.woken:
        return []
    reads = locked.reads(device.device_id)
    found = []
    for one in locked.woken:
        after = max(one.joined_seq, *reads.get(one.conversation_id, NEVER))
        if one.wake_seq > after:
            found.append(Wish(TimelineKey(locked.key.app_id, one.conversation_id), after, one.wake_seq))
    return found


def first_untold_ms(locked: "Locked", device: Device) -> int | None:
    """When the oldest entry was accepted that this device is to be told of; None: there is none."""
    found = (_first_worth(locked, device, wish) for wish in wishes(locked, device))
    return min((entries[0].accepted_ms for entries in found if entries), default=None)


def _first_worth(locked: "Locked", device: Device, wish: Wish) -> list[Entry]:
    """The oldest ones, at least one if there is one."""
    after, limit = wish.after, SCAN
    while after < wish.upto:
        entries = timelines.notifiable_between(
            locked.conn, wish.key, locked.now_ms, after=after, upto=wish.upto, limit=limit
        )
        worth = _worth(locked, device, entries)
        if worth or len(entries) < limit:
            return worth
        after, limit = entries[-1][0].seq, SCAN_MAX
    return []


def news(locked: "Locked", device: Device) -> list[News]:
    """What to tell the device, by timeline."""
    found = []
    for wish in wishes(locked, device):
        oldest = _first_worth(locked, device, wish)
        if not oldest:
            continue
        entries = timelines.notifiable_between(
            locked.conn, wish.key, locked.now_ms, after=wish.after, upto=wish.upto, limit=NEWS_MAX, newest=True
        )
        worth = _worth(locked, device, entries) or oldest
        # More than were looked at: all numbers count, as they do in the app's own unread number.
        number = len(worth) if len(entries) < NEWS_MAX else wish.upto - wish.after
        found.append(News(wish, tuple(worth), number, oldest[0].accepted_ms))
    return found


def _worth(locked: "Locked", device: Device, entries: list[tuple[Entry, str | None]]) -> list[Entry]:
    others = [_alone(entry) for entry, sender in entries if sender != locked.key.user_id]
    if not others:
        return []
    facts = locked.facts()
    for entry in others:
        if notifying.muted(entry, facts.preferences):
            locked.note_muted()
    worth = [one for one in others if notifying.worth_telling(one, device, facts, locked.policy, locked.now_ms)]
    if not worth:
        return []
    # Of a mention the inbox tells.
    mentioned = entry_rows.entries_of_messages(locked.conn, locked.key, [one.message_id for one in worth])
    told = {one.message_id for one in mentioned}
    return [one for one in worth if one.message_id not in told]


def _alone(entry: Entry) -> Entry:
    """Which device reads a shared timeline first decides nothing for the others: read markers do."""
    if entry.notify_policy is NotifyPolicy.EACH_DEVICE:
        return entry
    return replace(entry, notify_policy=NotifyPolicy.UNTIL_READ)
