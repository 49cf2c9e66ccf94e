"""The handshake: who is here, in which version, with what in its store; and what that means (protocol §10).

One transaction under the user's lock. If its answer is lost, the client comes again with what it had, and the same rows
give the same verdict.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from relay.clock import rfc3339
from relay.errors import Problem, Unauthenticated
from relay.inbox import clones, judging
from relay.inbox.addresses import AddressState, NewAddress, holders, set_addresses, states_of
from relay.inbox.advancing import Step, advance
from relay.inbox.cursor import INBOX8, KIND_INBOX, Cursor, CursorKeys, epoch8, short, unseal
from relay.inbox.judging import Evidence, Judgement, Reason, Verdict
from relay.inbox.locked import Locked, PolicyOf, device_in, flush, lock
from relay.inbox.page import Snapshot, tail_same
from relay.inbox.registry import inherited_from, remove
from relay.inbox.releasing import release
from relay.inbox.reports import tell_device
from relay.inbox.store_owner import check_owner
from relay.model import Device, DeviceKey, DeviceState, UserKey
from relay.store import addresses as address_rows
from relay.store import entries as entry_rows
from relay.store import inbox as inbox_rows
from relay.store import upgrades as upgrade_rows
from relay.store.engine import Conn
from relay.store.events import derived_id
from relay.store.rollback import SetBackProofs
from relay.store.upgrades import VERIFIED, Upgrade

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a device says of itself. None: it did not say, and what was known stays."""

    device: DeviceKey
    node_id: str
    cursor: str | None = None
    store_id: str | None = None
    store_user: str | None = None  # whose messages the store holds
    app_version: str | None = None
    schema: int | None = None
    types: tuple[str, ...] | None = None
    platform: str | None = None
    locale: str | None = None
    tz: str | None = None
    background: bool = False
    install_id: str | None = None
    replaces: str | None = None
    addresses: tuple[NewAddress, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The answer. `cursor` is good for the device's new session; `previous_session` tells whom to close."""

    verdict: Verdict
    reason: Reason | None
    session: int
    previous_session: int
    epoch: str
    cursor: str
    head_seq: int
    floor_seq: int
    acked_seq: int
    missing: int
    loss: dict[str, Any] | None
    upgrade: dict[str, Any] | None
    addresses: tuple[AddressState, ...]
    more_to_release: bool
    reidentify: bool  # another phone goes by this device's id


def hello(
    conn: Conn,
    now_ms: int,
    hellos: Sequence[Hello],
    policy_of: PolicyOf,
    keys: CursorKeys,
    new_epoch: Callable[[], str],
    proofs: SetBackProofs,
) -> list[Welcome | Exception]:
    """Shakes hands with many devices in one transaction."""
    wanted = {one.device.user for one in hellos}
    wanted = wanted.union(*(holders(conn, one.device.app_id, one.addresses or ()) for one in hellos))
    users = lock(conn, now_ms, wanted, policy_of)
    store_epoch = inbox_rows.store_epoch(conn)
    answers: list[Welcome | Exception] = []
    for one in hellos:
        try:
            welcome = _hello_one(users, one, store_epoch, keys, new_epoch, proofs)
        except Problem as problem:
            answers.append(problem)
            continue
        answers.append(welcome)
        if welcome.reason is Reason.FORKED:  # it may void the whole store, for whoever is next in this batch too
            store_epoch = inbox_rows.store_epoch(conn)
    flush(conn, now_ms, users.values())
    return _with_addresses(conn, hellos, answers)


def _with_addresses(
    conn: Conn, hellos: Sequence[Hello], answers: Sequence[Welcome | Exception]
) -> list[Welcome | Exception]:
    """Who brought no addresses is told of those that it has, as they are after all of these handshakes."""
    unsaid = {one.device.user for one in hellos if one.addresses is None}
    found = address_rows.addresses_of(conn, unsaid) if unsaid else {}
    return [
        dataclasses.replace(answer, addresses=states_of(found.get(one.device, [])))
        if one.addresses is None and isinstance(answer, Welcome)
        else answer
        for one, answer in zip(hellos, answers, strict=True)
    ]


def _hello_one(
    users: dict[UserKey, Locked],
    one: Hello,
    store_epoch: str,
    keys: CursorKeys,
    new_epoch: Callable[[], str],
    proofs: SetBackProofs,
) -> Welcome:
    found = device_in(users, one.device)
    if found is None:  # also if it went in this very batch
        raise Unauthenticated("This device has been signed out; ask the app's backend for a new token.")
    locked, old = found
    check_owner(locked, old, store_id=one.store_id, store_user=one.store_user)
    cursor = _unsealed(one, keys, locked.inbox.former_names)
    evidence = _evidence(locked, old, one, cursor, store_epoch)
    judgement = judging.judge(evidence, old, locked.head_seq, locked.inbox.floor_seq)
    session = max(old.session, cursor.session if cursor else 0) + 1
    if judgement.new_epoch:
        locked.inbox = replace(locked.inbox, epoch=new_epoch())
        inbox_rows.set_inbox(locked.conn, locked.key, epoch=locked.inbox.epoch)
        if proofs.found(locked.conn, locked.now_ms, locked.key):
            store_epoch = inbox_rows.store_epoch(locked.conn)
    loss = _loss(judgement, evidence, locked)
    _believe(locked, old, judgement, cursor, session)
    _write_facts(locked, one, session)
    if judgement.reason is Reason.STORE_ROLLED_BACK:
        noted = clones.note(old.older_stores, evidence.session, locked.now_ms)
        locked.put(replace(locked.devices[old.device_id], older_stores=noted))
    if one.replaces is not None and one.replaces != one.device.device_id:
        _replace_device(locked, one.device.device_id, one.replaces, judgement)
    addresses: tuple[AddressState, ...] = ()
    if one.addresses is not None:
        addresses = set_addresses(users, locked.devices[one.device.device_id], one.addresses)
    again = release(locked, old, locked.devices[one.device.device_id])
    if again.released and judgement.verdict is Verdict.RESUME:  # what comes again stands ahead of its cursor
        judgement = dataclasses.replace(judgement, verdict=Verdict.DELTA)
    upgrade = _note_upgrade(locked, old, judgement, again.released)
    if judgement.reason is not None and old.session > 0:
        tell_device(
            locked, locked.devices[one.device.device_id], "device.resync", reason=str(judgement.reason), session=session
        )
    if old.offline_told or old.online_since_ms is None:
        tell_device(locked, locked.devices[one.device.device_id], "device.online", session=session)
    locked.rearm(one.device.device_id, anew=True)
    locked.rearm_all()
    return _welcome(locked, one, judgement, store_epoch, keys, loss, upgrade, addresses, old.session, again.more)


def _unsealed(one: Hello, keys: CursorKeys, former_names: Sequence[str]) -> Cursor | None:
    """The device's cursor, also one from before its user got another name; None if it is none."""
    if one.cursor is None:
        return None
    for name in (one.device.user_id, *former_names):
        try:
            cursor = unseal(one.cursor, one.device._replace(user_id=name), keys)
        except Problem:
            continue
        return cursor if cursor.kind == KIND_INBOX and cursor.timeline8 == INBOX8 else None
    return None


def _evidence(locked: Locked, old: Device, one: Hello, cursor: Cursor | None, store_epoch: str) -> Evidence:
    if one.cursor is None:
        return Evidence(given=False)
    if cursor is None:
        return Evidence(given=True)
    epoch_same = cursor.epoch8 == epoch8(store_epoch, locked.inbox.epoch)
    stated = one.store_id or ""
    return Evidence(
        given=True,
        readable=True,
        epoch_same=epoch_same,
        store_same=stated != "" and cursor.store8 == short(stated) and stated == old.store_id,
        seq=cursor.seq,
        session=cursor.session,
        tail_same=not epoch_same or tail_same(locked.conn, replace(locked.inbox, head_seq=locked.head_seq), cursor),
    )


def _loss(judgement: Judgement, evidence: Evidence, locked: Locked) -> dict[str, Any] | None:
    if judgement.reason is not Reason.TOO_OLD:
        return None
    floor = locked.inbox.floor_seq
    return {"from": evidence.seq + 1, "to": floor, "count": floor - evidence.seq, "known": True}


def _believe(locked: Locked, old: Device, judgement: Judgement, cursor: Cursor | None, session: int) -> None:
    """Step 5 and 6: the implied ack, judged by what the OLD version could show; or a rebase."""
    if judgement.rebase or (cursor is not None and cursor.session < old.session):
        locked.forget_reads(old.device_id)  # of what was acked since this store was here last, it may have nothing
    if not judgement.rebase:
        assert cursor is not None
        advance(locked.conn, locked.now_ms, [Step(locked, old, judgement.acked_seq)])
        device = locked.devices[old.device_id]
        locked.put(replace(device, conf_session=max(device.conf_session, cursor.session)))
        return
    # Held rows stay: what was never shown in any form is open until it is acked in full, wherever the cursor stands.
    # What it refused and is now offered again, it may read this time.
    offered = [
        seq
        for seq, why, _ in locked.held(old.device_id)
        if seq > judgement.acked_seq and why in {"unknown_type", "poison"}
    ]
    locked.unhold(old.device_id, offered)
    locked.hold(old.device_id, [(seq, "held") for seq in offered])
    locked.put_acks(old.device_id, locked.acks_of(old.device_id).rewound(judgement.acked_seq))
    # A floor may lie above all that the device ever acked: what was below it has ended, and counts as passed and told.
    high = max(old.acked_high, judgement.acked_seq)
    locked.put(
        replace(
            old,
            acked_seq=judgement.acked_seq,
            acked_high=high,
            pushed_seq=max(old.pushed_seq, high),
            lineage_session=session,
        )
    )


def _write_facts(locked: Locked, one: Hello, session: int) -> None:
    device = locked.devices[one.device.device_id]
    types = device.types if one.types is None else msgspec.json.encode(one.types).decode()
    facts = _said(one.app_version, device.app_version), _said(one.schema, device.schema), types
    # What an older version passed, it passed as that version sees things: its acks must not count for this one.
    other_version = facts != (device.app_version, device.schema, device.types)
    app_version, schema, _ = facts
    locked.put(
        replace(
            device,
            session=session,
            lineage_session=session if other_version else device.lineage_session,
            state=DeviceState.ACTIVE,
            node_id=one.node_id,
            online_since_ms=locked.now_ms,
            offline_since_ms=None,
            linger_until_ms=None,
            offline_told=0,
            contact_ms=locked.now_ms,
            background=int(one.background),
            open_conversation=None,
            store_id=one.store_id,
            app_version=app_version,
            schema=schema,
            types=types,
            platform=_said(one.platform, device.platform),
            locale=_said(one.locale, device.locale),
            tz=_said(one.tz, device.tz),
            install_id=_said(one.install_id, device.install_id),
        )
    )


def _said(new: S | None, known: S | None) -> S | None:
    return known if new is None else new


def _replace_device(locked: Locked, device_id: str, predecessor_id: str, judgement: Judgement) -> None:
    """A reinstall names the installation it follows: that one goes, with its addresses, once what it lacked is in the
    view of this one."""
    predecessor, device = locked.devices.get(predecessor_id), locked.devices[device_id]
    if predecessor is None:
        return
    start_seq = inherited_from(locked, predecessor)
    if start_seq < device.start_seq:
        if judgement.verdict is not Verdict.RESYNC:
            return  # it reads on from its cursor: what lies before that would never be offered
        device = replace(device, start_seq=start_seq, acked_seq=start_seq)
    # The predecessor's pushes may have gone to a dead token: what it had not acked is told again.
    locked.follow_on(device_id, predecessor_id)
    locked.put(
        replace(
            device,
            predecessor=predecessor_id,
            pushed_seq=max(device.acked_high, min(device.pushed_seq, predecessor.acked_high)),
        )
    )
    remove(locked, predecessor, detail="device_gone")


def _note_upgrade(locked: Locked, old: Device, judgement: Judgement, released: int) -> dict[str, Any] | None:
    """Step 9: the version has changed: pin what is kept, and remember how it went."""
    device = locked.devices[old.device_id]
    if old.app_version is None or device.app_version == old.app_version:
        return _unproved(locked, device)
    pinned_ms = locked.now_ms + locked.policy.upgrade_pin_ms
    inbox_rows.set_inbox(locked.conn, locked.key, pinned_until_ms=max(pinned_ms, locked.inbox.pinned_until_ms))
    upgrade_id = derived_id("up_", *device.key, device.session)
    upgrade_rows.add_upgrade(
        locked.conn,
        {
            "app_id": device.app_id,
            "user_id": device.user_id,
            "device_id": device.device_id,
            "upgrade_id": upgrade_id,
            "from_version": old.app_version,
            "to_version": device.app_version,
            "at_ms": locked.now_ms,
            "verdict": str(judgement.verdict),
            "reason": None if judgement.reason is None else str(judgement.reason),
            "released": released,
            "verify_state": None,
            "missing_found": None,
            "caught_up_ms": None,
        },
    )
    tell_device(
        locked,
        device,
        "device.upgraded",
        **{"from": old.app_version, "to": device.app_version, "verdict": str(judgement.verdict), "released": released},
    )
    new = Upgrade(upgrade_id, device.key, old.app_version, device.app_version, locked.now_ms, None, None, None)
    return _upgrade(locked, new, released)


def _unproved(locked: Locked, device: Device) -> dict[str, Any] | None:
    """The last upgrade once more, until it is proved complete or what was pinned for it goes: the answer that told of
    it, or the comparison, may have been lost."""
    if locked.inbox.pinned_until_ms <= locked.now_ms:
        return None
    found = upgrade_rows.upgrade_of(locked.conn, device.key, None)
    if found is None or found.to_version != device.app_version or found.verify_state in VERIFIED:
        return None
    return _upgrade(locked, found, 0) if locked.now_ms < found.at_ms + locked.policy.upgrade_pin_ms else None


def _upgrade(locked: Locked, one: Upgrade, released: int) -> dict[str, Any]:
    return {
        "id": one.upgrade_id,
        "from": one.from_version,
        "to": one.to_version,
        "released": released,
        "pinned_until": rfc3339(one.at_ms + locked.policy.upgrade_pin_ms),
        "verify_by": rfc3339(one.at_ms + locked.policy.upgrade_verify_ms),
    }


def _welcome(
    locked: Locked,
    one: Hello,
    judgement: Judgement,
    store_epoch: str,
    keys: CursorKeys,
    loss: dict[str, Any] | None,
    upgrade: dict[str, Any] | None,
    addresses: tuple[AddressState, ...],
    previous_session: int,
    more_to_release: bool,
) -> Welcome:
    device = locked.devices[one.device.device_id]
    snap = Snapshot(store_epoch=store_epoch, inbox=replace(locked.inbox, head_seq=locked.head_seq), device=device)
    seq = snap.start_seq if judgement.verdict is Verdict.RESYNC else judgement.acked_seq
    return Welcome(
        verdict=judgement.verdict,
        reason=judgement.reason,
        session=device.session,
        previous_session=previous_session,
        epoch=snap.epoch8.hex(),
        cursor=snap.cursor(seq, entry_rows.id_at(locked.conn, locked.key, seq), keys),
        head_seq=locked.head_seq,
        floor_seq=locked.inbox.floor_seq,
        acked_seq=device.acked_seq,
        missing=locked.head_seq - seq,
        loss=loss,
        upgrade=upgrade,
        addresses=addresses,
        more_to_release=more_to_release,
        reidentify=judgement.reason is Reason.STORE_ROLLED_BACK and clones.are_two(device.older_stores, locked.now_ms),
    )
