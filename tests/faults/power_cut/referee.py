"""Opens what a power cut left with the relay's real start, and says what is wrong with it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import text

from relay.app import Relay
from relay.errors import ConfigError, Problem, StoreDamaged
from relay.keys import SealBroken
from relay.model import DeviceKey, UserKey
from relay.push.from_settings import DEFAULT_APP
from relay.store import audit
from relay.store.vault import address_place

from .load import PRUNED, USERS, Ledger
from .node import Face, opened

REPEATS = 3


async def verdict(home: Path, files: dict[str, bytes], ledger: Ledger, at: int) -> list[str]:
    """Complaints about a relay started on these files, when the power went after `at` events; none if all is well."""
    home.mkdir()
    for name, data in files.items():
        (home / name).touch(mode=0o600)
        (home / name).write_bytes(data)
    try:
        async with opened(home, ledger.key) as (relay, face):
            await relay.chores.expire()  # what ran out since the recording is its first work
            found = await relay.engine.read(lambda conn, now_ms: rows(conn, now_ms, ledger, at))
            if at >= ledger.ready_at:
                found += secrets(relay, await relay.engine.read(lambda conn, _: addresses(conn)), ledger)
                found += await repeats(relay, face, ledger, at)
                found += await sync(face, ledger)
            return found
    except (ConfigError, StoreDamaged, Problem) as error:
        return [f"it does not start: {error}"]


def rows(conn: Any, now_ms: int, ledger: Ledger, at: int) -> list[str]:
    """L1 to L4, L6, L8, L9 of safety §2, of one snapshot."""
    found = [f"integrity_check: {row[0]}" for row in conn.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
    found += [f"foreign_key_check: {row[0]}" for row in conn.execute(text("PRAGMA foreign_key_check"))]
    wrong = audit.imbalances(conn, now_ms, [UserKey(DEFAULT_APP, user) for user in USERS])
    found += [f"{what}: {sorted(key.user_id for key in keys)}" for what, keys in wrong.items() if keys]
    if at < ledger.ready_at:
        return found
    if (epoch := conn.execute(text("SELECT epoch FROM store_meta")).scalar_one()) != ledger.epoch:
        found.append(f"the epoch is {epoch}, though nothing was set back")
    inboxes = {row.user_id: row for row in conn.execute(text("SELECT * FROM inbox"))}
    devices = {(row.user_id, row.device_id): row for row in conn.execute(text("SELECT * FROM device"))}
    entries = conn.execute(text("SELECT * FROM inbox_entry WHERE kind = 'message' ORDER BY user_id, seq")).all()
    messages = {row.message_id: row for row in conn.execute(text("SELECT * FROM message"))}
    found += [f"lost: the device {key}" for key in ledger.tokens.keys() - devices.keys()]
    held = {(row.user_id, row.message_id) for row in entries}
    if len(held) < len(entries):
        found.append("a message is twice in an inbox")
    for row in entries:
        found += _body(messages.get(row.message_id), row, ledger)
    found += [
        f"numbers of {user} are not dense"
        for user, inbox in inboxes.items()
        if _numbers(conn, user) != list(range(inbox.floor_seq + 1, inbox.head_seq + 1))
    ]
    for one in ledger.sent(at):
        meant = ledger.meant[one.key]
        (user,) = meant["to"]["users"]
        if (user, one.id) in held:
            continue
        may_be_over = user == PRUNED or "ttl_s" in meant  # acked by its only device; expired, as the first of its inbox
        if not (may_be_over and _pruned(messages.get(one.id), inboxes.get(user))):
            found.append(f"lost: {one}")
    for ack in ledger.acked(at):
        device = devices.get((ack.user, "acker"))
        if device is None or device.acked_seq < ack.seq:
            found.append(f"lost: {ack}")
    return found


def _body(message: Any, entry: Any, ledger: Ledger) -> list[str]:
    if message is None:
        return [f"the message of {entry.user_id}'s {entry.seq} is missing"]
    if message.body is None:
        return [] if entry.state != "live" else [f"the body of {entry.message_id} is missing"]
    body = json.loads(message.body)
    meant = ledger.meant.get(body["key"])
    if meant is None or meant["body"] != body or meant["to"]["users"] != [entry.user_id]:
        return [f"nobody sent {entry.message_id} like this"]
    if body["key"] in ledger.refused:
        return [f"{body['key']} is stored, though its sender was told that it is not"]
    return []


def _numbers(conn: Any, user: str) -> list[int]:
    wanted = text("SELECT seq FROM inbox_entry WHERE user_id = :user ORDER BY seq")
    return list(conn.execute(wanted, {"user": user}).scalars())


def _pruned(message: Any, inbox: Any) -> bool:
    """Its entry is gone because the floor has risen over it."""
    return (
        message is not None
        and inbox is not None
        and all(seq <= inbox.floor_seq for _, seq, _ in json.loads(message.recipients))
    )


def addresses(conn: Any) -> list[Any]:
    return list(conn.execute(text("SELECT * FROM address")))


def secrets(relay: Relay, rows: list[Any], ledger: Ledger) -> list[str]:
    """Every address opens, whichever key it was sealed with."""
    found = []
    for row in rows:
        device = DeviceKey(row.app_id, row.user_id, row.device_id)
        try:
            token = relay.tokens.unseal(address_place(device, row.account), row.token_sealed)
        except SealBroken as error:
            found.append(f"the address of {device} does not open: {error}")
            continue
        if token != f"{row.user_id}-{row.device_id}":
            found.append(f"the address of {device} is another's")
    missing = ledger.tokens.keys() - {(row.user_id, row.device_id) for row in rows}
    return found + [f"lost: the address of {key}" for key in missing]


async def repeats(relay: Relay, face: Face, ledger: Ledger, at: int) -> list[str]:
    """L2, L3: repeating a send gives the message that was promised, and never a second one."""
    sent = {one.key: one for one in ledger.sent(at)}
    open_ = [key for key in ledger.meant if key not in sent]
    found = []
    for key in [*list(sent)[-REPEATS:], *open_[:REPEATS]]:
        status, answer = await face.send(key, ledger.meant[key])
        if status not in ({200} if key in sent else {200, 202}):
            found.append(f"repeating {key} gave {status}: {answer}")
        elif key in sent and answer["id"] != sent[key].id:
            found.append(f"repeating {sent[key]} gave {answer['id']}")
    stored = await relay.engine.read(lambda conn, _: _keys(conn))
    return found + [f"doubled: {key}" for key, count in stored.items() if count > 1]


def _keys(conn: Any) -> Counter[str]:
    bodies = conn.execute(text("SELECT body FROM message WHERE body IS NOT NULL")).scalars()
    return Counter(json.loads(body)["key"] for body in bodies)


async def sync(face: Face, ledger: Ledger) -> list[str]:
    """Devices' tokens still open their inboxes."""
    found = []
    for key, token in ledger.tokens.items():
        status, answer = await face.call("GET", "/v1/device/sync?limit=1", bearer=token)
        if status != 200:
            found.append(f"{key} reads {status}: {answer}")
    return found
