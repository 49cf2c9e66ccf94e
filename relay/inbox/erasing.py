"""Erasing a user, for a request to be forgotten: one transaction, after which nothing of it can be read, pushed or sent.

What stays: messages that others received too, without its name; events already written, until their own time is over; its
devices' revoked tokens, until those are forgotten, since every node must see them revoked.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from relay.clock import rfc3339
from relay.inbox.locked import Locked, PolicyOf, flush, lock
from relay.inbox.registry import remove
from relay.inbox.reports import end, tell_undelivered
from relay.inbox.send import JobOptions
from relay.model import EntryState, UserKey
from relay.store import entries as entry_rows
from relay.store import fanout as fanout_rows
from relay.store import messages as message_rows
from relay.store import users as rows
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id
from relay.store.timelines import ULTRA
from relay.store.users import Naming

CHUNK = 500
ERASED = "erased"  # as the detail of what it had not received, and in place of its name


def erase(conn: Conn, now_ms: int, user: UserKey, policy_of: PolicyOf, *, named: Naming) -> None:
    """Removes the user with all that belongs to it. One that is unknown is erased already.

    `named`: messages that were found to name it, before this transaction.
    """
    locked = lock(conn, now_ms, [user], policy_of).get(user)
    if locked is None:
        return
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
    _forget_messages(conn, now_ms, user, named_by_now(conn, user, named))
    rows.drop_user(conn, user)


def named_by_now(conn: Conn, user: UserKey, named: Naming) -> list[str]:
    """Messages that name the user: those that were found, and what has come since."""
    found, more = named.again(), True
    while more:
        found, more = rows.naming(conn, user, found, limit=CHUNK)
    return sorted(found.ids)


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
            if not others and row.conversation_type != ULTRA:  # that one has readers who are no receivers
                gone.append(row.message_id)
                keys.append((user.app_id, row.key))
            elif len(others) < len(recipients):
                others.append(["", None, ERASED])
                message_rows.set_recipients(conn, user.app_id, row.message_id, msgspec.json.encode(others).decode())
        name_in_jobs(conn, user, found, None)
        rows.drop_messages(conn, user.app_id, gone)
        message_rows.drop_keys(conn, [(app_id, key) for app_id, key in keys if key is not None])
    rows.forget_sender(conn, user, ordered)


def name_in_jobs(conn: Conn, user: UserKey, message_ids: Collection[str], name: str | None) -> None:
    """Puts another name in the user's place, or none, where messages that are on their way mention it."""
    for job, text in fanout_rows.options_of(conn, user.app_id, message_ids).items():
        options = msgspec.json.decode(text, type=JobOptions)
        if user.user_id in options.mentions:
            named = [name if one == user.user_id else one for one in options.mentions]
            changed = replace(options, mentions=tuple(one for one in named if one is not None))
            fanout_rows.set_options(conn, user.app_id, job, msgspec.json.encode(changed).decode())
