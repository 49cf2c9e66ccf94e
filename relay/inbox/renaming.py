"""Giving a user another name, for an app that changes how it names its users (protocol 10.5).

Messages keep their ids, but the numbering begins anew: a cursor of before is answered with a resync, and the client drops
what it has. Tokens end, since they were made out to the old name; the app's backend mints new ones.
"""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from relay.clock import rfc3339
from relay.errors import Conflict, Missing
from relay.inbox.locked import PolicyOf, flush, lock
from relay.inbox.naming import CHUNK, NamedMessages, name_in_jobs
from relay.inbox.reports import tell_device
from relay.model import DeviceKey, UserKey
from relay.store import fanout as fanout_rows
from relay.store import groups as group_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import tokens
from relay.store import users as rows
from relay.store.engine import Conn, Overtaken
from relay.store.events import NewEvent, derived_id

FORMER_NAMES_MAX = 10
Reseal = Callable[[DeviceKey, DeviceKey, str, bytes], bytes]  # (old device, new device, account, sealed) -> sealed


def rename(
    conn: Conn,
    now_ms: int,
    user: UserKey,
    name: str,
    policy_of: PolicyOf,
    *,
    named: NamedMessages,
    reseal: Reseal,
    new_epoch: Callable[[], str],
) -> None:
    """Moves everything of `user` to `name`. Raises Missing, Conflict where there is somebody of that name, Overtaken.

    `named`: messages that were found to name it, before this transaction.
    """
    groups = group_rows.hold_groups_of(conn, user)
    named.hold(conn)
    new = UserKey(user.app_id, name)
    locked = lock(conn, now_ms, [user, new], policy_of).get(user)
    if locked is None:
        raise Missing("There is no such user.")
    if rows.named_anywhere(conn, new):
        raise Conflict("There is a user of that name already.")
    ids = named.by_now(conn)
    for device in list(locked.devices.values()):
        if not device.offline_told:  # its connection ends with its token, when nobody is called so any more
            tell_device(locked, device, "device.offline", session=device.session)
        if device.online or not device.offline_told:
            since_ms = now_ms if device.online else device.offline_since_ms
            locked.put(replace(device, offline_since_ms=since_ms, offline_told=1, node_id=None, linger_until_ms=None))
        locked.rearm(device.device_id)  # whoever walks the users by name, as a mended account does, may miss this one
    locked.events.append(
        NewEvent(
            app_id=user.app_id,
            event_id=derived_id("evt_", "user.renamed", *user, name, locked.inbox.epoch),
            type="user.renamed",
            data={"user": user.user_id, "to": name, "at": rfc3339(now_ms)},
        )
    )
    flush(conn, now_ms, [locked])
    tokens.revoke(conn, now_ms, app_id=user.app_id, user_id=user.user_id)
    rows.reseal_tokens(
        conn,
        user,
        lambda device, account, sealed: reseal(DeviceKey(*user, device), DeviceKey(*new, device), account, sealed),
    )
    formerly = [user.user_id, *(one for one in locked.inbox.former_names if one not in {user.user_id, name})]
    inbox_rows.set_inbox(
        conn, user, epoch=new_epoch(), formerly=msgspec.json.encode(formerly[:FORMER_NAMES_MAX]).decode()
    )
    fanout_rows.begin_again(conn, user, name)
    rows.rename_user(conn, user, name)
    if not groups.issuperset(group_rows.groups_of(conn, new)):  # of one that it joined since, somebody may be at a job
        raise Overtaken
    _rename_in_messages(conn, user, name, ids)


def _rename_in_messages(conn: Conn, user: UserKey, name: str, ids: list[str]) -> None:
    for start in range(0, len(ids), CHUNK):
        found = message_rows.lock_messages(conn, user.app_id, ids[start : start + CHUNK])
        for row in found.values():
            recipients = msgspec.json.decode(row.recipients)
            renamed = [[name, *rest] if who == user.user_id else [who, *rest] for who, *rest in recipients]
            if renamed != recipients:
                message_rows.set_recipients(conn, user.app_id, row.message_id, msgspec.json.encode(renamed).decode())
        name_in_jobs(conn, user, found, name)
    rows.rename_sender(conn, user, name, ids)
