"""Erasing a user, for a request to be forgotten: one transaction, after which nothing of it can be read, pushed or sent.

What stays: messages that others received too, without its name; events already written, until their own time is over; its
devices' revoked tokens, until those are forgotten, since every node must see them revoked.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from relay.clock import rfc3339
from relay.inbox.locked import Locked, PolicyOf, flush, lock
from relay.inbox.naming import CHUNK, NamedMessages, name_in_jobs
from relay.inbox.registry import remove
from relay.inbox.reports import end, tell_undelivered
from relay.model import EntryState, UserKey
from relay.store import entries as entry_rows
from relay.store import groups as group_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import users as rows
from relay.store.engine import Conn, Overtaken
from relay.store.events import NewEvent, derived_id
from relay.store.timelines import ULTRA

ERASED = "erased"  # as the detail of what it had not received, and in place of its name


def erase(
    conn: Conn,
    now_ms: int,
    user: UserKey,
    policy_of: PolicyOf,
    *,
    named: NamedMessages,
    new_epoch: Callable[[], str],
) -> None:
    """Removes the user with all that belongs to it, be that its name in groups and messages alone. One that nothing names is
    erased already.

    `named`: messages that were found to name it, before this transaction. Raises Overtaken.
    """
    groups = group_rows.hold_groups_of(conn, user)
    named.hold(conn)
    locked = lock(conn, now_ms, [user], policy_of).get(user)
    if locked is None:
        if not groups and not named.by_now(conn):
            return
        # For its lock: nobody may come by this name meanwhile.
        inbox_rows.create_inboxes(conn, now_ms, {user: new_epoch()})
        locked = lock(conn, now_ms, [user], policy_of).get(user)
        if locked is None:
            raise Overtaken
    ids = named.by_now(conn)
    for entries in _all_entries(locked):
        live = [entry for entry in entries if entry.state is EntryState.LIVE]
        end(locked, live, EntryState.FAILED, detail=ERASED)
    for device in list(locked.devices.values()):
        remove(locked, device, detail=ERASED)
    locked.events.append(
        NewEvent(
            app_id=user.app_id,
            event_id=derived_id("evt_", "user.erased", *user, locked.inbox.epoch),
            type="user.erased",
            data={"user": user.user_id, "at": rfc3339(now_ms)},
        )
    )
    flush(conn, now_ms, [locked])
    _forget_messages(conn, now_ms, user, ids)
    if not groups.issuperset(rows.drop_user(conn, user)):  # what came to one that it joined since may name it
        raise Overtaken


def _all_entries(locked: Locked) -> Iterator[Any]:
    after = locked.inbox.floor_seq
    while True:
        entries = entry_rows.entries_between(locked.conn, locked.key, after=after, upto=locked.head_seq, limit=CHUNK)
        if entries:
            yield entries
        if len(entries) < CHUNK:
            return
        after = entries[-1].seq


def _forget_messages(conn: Conn, now_ms: int, user: UserKey, ordered: Sequence[str]) -> None:
    """What nobody else received goes; in the rest, its name. What was still to come to it has failed."""
    for start in range(0, len(ordered), CHUNK):
        found = message_rows.lock_messages(conn, user.app_id, ordered[start : start + CHUNK])
        gone, keys = [], []
        for row in found.values():
            recipients = msgspec.json.decode(row.recipients)
            if [user.user_id, None, None] in recipients:
                tell_undelivered(conn, now_ms, user.app_id, row.message_id, [(user.user_id, ERASED)])
            others = [one for one in recipients if one[0] != user.user_id]
            if not any(name for name, *_ in others) and not _has_readers(conn, user, row):
                gone.append(row.message_id)
                keys.append((user.app_id, row.key))
            elif len(others) < len(recipients):
                others.append(["", None, ERASED])
                message_rows.set_recipients(conn, user.app_id, row.message_id, msgspec.json.encode(others).decode())
        name_in_jobs(conn, user, found, None)
        rows.drop_messages(conn, user.app_id, gone)
        message_rows.drop_keys(conn, [(app_id, key) for app_id, key in keys if key is not None])
    rows.forget_sender(conn, user, ordered)


def _has_readers(conn: Conn, user: UserKey, message: Any) -> bool:
    """Whether somebody reads the message who is none of its receivers: members of an ultra group, or devices of its sender."""
    if message.conversation_type == ULTRA:
        return True
    sender = {message.sender_user} - {None, user.user_id}
    return bool(entry_rows.receivers_among(conn, user.app_id, message.message_id, sender)) if sender else False
