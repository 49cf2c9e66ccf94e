"""What a device lacks, as the planner sees it: the rows of its inbox and of shared timelines, with what they show."""

from collections.abc import Mapping, Sequence

import msgspec

from relay.inbox import escalation, notifying, visibility
from relay.inbox.locked import Locked
from relay.inbox.woken import news
from relay.model import Device, Entry, Notification, PushJob
from relay.push.situation import ITEMS_MAX, AccountView, Item, SharedNews
from relay.store import entries as entry_rows
from relay.store import messages as message_rows
from relay.store import shown

_notification = msgspec.json.Decoder(Notification).decode


def items_of(locked: Locked, device: Device, *, after: int, upto: int, steps: bool = False) -> tuple[list[Item], int]:
    """What is worth telling in (after, upto]: the newest ones with their content, and the number of all. `steps`: only of
    what has steps of its own."""
    if after >= upto:
        return [], 0
    facts = locked.facts()
    mine = facts.of(device.device_id)
    worth: list[Entry] = []
    while after < upto:
        entries = locked.notifiable(after=after, upto=upto, limit=ITEMS_MAX)
        worth += [
            entry
            for entry in entries
            if (entry.escalated is not None or not steps)
            and not mine.has(entry.seq)
            and notifying.worth_telling(entry, device, facts, locked.policy, locked.now_ms)
        ]
        if len(entries) < ITEMS_MAX:
            break
        after = entries[-1].seq
    kept = worth if len(worth) <= ITEMS_MAX else [worth[0], *worth[-(ITEMS_MAX - 1) :]]
    contents = locked.pushes({entry.message_id for entry in kept})
    items = [_item(entry, device, contents[entry.message_id]) for entry in kept if entry.message_id in contents]
    return items, len(worth)


def with_steps(locked: Locked, device: Device, job: PushJob, told: Sequence[Item]) -> list[Item]:
    """What was told, and of it all that a step may be due of: it is not the newest of very many."""
    after, upto = max(device.acked_seq, job.escalate_after), min(device.pushed_seq, job.escalate_seq)
    stepping, _ = items_of(locked, device, after=after, upto=upto, steps=True)
    return sorted({one.entry.seq: one for one in (*told, *stepping)}.values(), key=lambda one: one.entry.seq)


def steps_taken(locked: Locked, told: Sequence[Item]) -> dict[str, int]:
    """Of messages that take steps, how many of these push again by now."""
    done = {item.entry.message_id: item.entry.escalated for item in told if item.entry.escalated is not None}
    steps = message_rows.escalations_of(locked.conn, locked.key.app_id, done)
    return {id_: escalation.pushed(escalation.from_store(text), done[id_]) for id_, text in steps.items()}


def shared_news(locked: Locked, device: Device) -> tuple[SharedNews, ...]:
    """What the device is to be told of shared timelines."""
    found = []
    for one in news(locked, device):
        contents = message_rows.pushes_of(locked.conn, locked.key.app_id, {entry.message_id for entry in one.entries})
        items = [
            _item(entry, device, contents[entry.message_id]) for entry in one.entries if entry.message_id in contents
        ]
        if items:
            found.append(
                SharedNews(
                    conversation_id=one.wish.key.conversation_id,
                    items=tuple(items),
                    count=one.number,
                    since_ms=one.since_ms,
                    upto_seq=one.wish.upto,
                )
            )
    return tuple(found)


def told_count(locked: Locked, device: Device, job: PushJob, views: Mapping[str, AccountView]) -> int:
    """How many told entries may still wait at the vendor: neither acked nor shown. 0 if no account has few collapse keys."""
    low = max(device.acked_seq, job.shown_seq)
    if device.pushed_seq <= low or not _few_keys(device, views):
        return 0
    return entry_rows.count_notifiable(locked.conn, locked.key, locked.now_ms, after=low, upto=device.pushed_seq)


def shared_keys(locked: Locked, device: Device, fresh: Sequence[SharedNews], views: Mapping[str, AccountView]) -> int:
    """How many shared timelines have a notification that may still wait at the vendor, or are to have one.

    A device that has been here since then was reached: the vendor has delivered what waited, though nobody opened it.
    """
    if not locked.inbox.woken or not _few_keys(device, views):
        return 0
    told = any(read.pushed_seq > read.acked_high for read in locked.reads(device.device_id).values())
    waiting = shown.told_since(locked.conn, device.key, device.contact_ms) if told else set()
    return len(waiting | {one.conversation_id for one in fresh})


def _few_keys(device: Device, views: Mapping[str, AccountView]) -> bool:
    """Whether some account keeps few of what collapses for it."""
    return any(view.capabilities.on(device.platform).collapse_keys_max is not None for view in views.values())


def _item(entry: Entry, device: Device, content: message_rows.Push) -> Item:
    return Item(
        entry=entry,
        push=_shown(entry, device, content),
        priority=content.priority,
        collapse_key=content.collapse_key,
    )


def _shown(entry: Entry, device: Device, content: message_rows.Push) -> Notification:
    """What this device shows of it: of what it can't read yet, that there is something."""
    held = entry.hold and visibility.view(entry, device) is visibility.View.HELD
    return _notification((content.push_held if held else content.push) or "{}")
