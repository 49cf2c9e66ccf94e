"""Devices come and go: registering, signing out, their addresses, and what their user wants to be told of (protocol §5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from relay.errors import Invalid, Missing
from relay.inbox.addresses import AddressState, NewAddress, drop_addresses, holders, prove, set_addresses, states_of
from relay.inbox.locked import Locked, PolicyOf, device_in, flush, lock
from relay.inbox.preferences import Preferences, stored
from relay.inbox.reports import FAILED, fail_device
from relay.model import Device, DeviceKey, DeviceState, TimelineKey, UserKey
from relay.store import addresses as address_rows
from relay.store import devices as device_rows
from relay.store import entries as entry_rows
from relay.store import held_entries, timelines, tokens
from relay.store import inbox as inbox_rows
from relay.store import queue as job_rows
from relay.store.comparing import releases
from relay.store.engine import Conn, Overtaken
from relay.store.readers import Read

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A device as the backend names it. None: leave as it is."""

    device: DeviceKey
    platform: str | None = None
    app_version: str | None = None
    schema: int | None = None
    locale: str | None = None
    tz: str | None = None
    install_id: str | None = None
    replaces: str | None = None
    addresses: tuple[NewAddress, ...] | None = None
    lost: bool = False  # with a store that was set back: it gets all that is kept, wherever others would begin


def register(
    conn: Conn, now_ms: int, one: Registration, policy_of: PolicyOf, new_epoch: Callable[[], str]
) -> tuple[Device, bool]:
    """Makes the device (and its user's inbox) or changes it; gives it, and whether it is new. Repeatable. Raises Overtaken.

    Its version and schema count until it has shaken hands: from then on only it says which version it is, in the handshake
    that judges what the version before had passed (protocol 10.2).
    """
    inbox_rows.create_inboxes(conn, now_ms, {one.device.user: new_epoch()})
    others = holders(conn, one.device.app_id, one.addresses or ())
    users = lock(conn, now_ms, {one.device.user, *others}, policy_of)
    locked = users.get(one.device.user)
    if locked is None:  # it was renamed or erased while this waited for its lock
        raise Overtaken
    device = locked.devices.get(one.device.device_id)
    new = device is None
    if device is None:
        follows = one.replaces is not None and one.replaces in locked.devices  # and that one goes
        if len(locked.devices) - follows >= locked.policy.devices_max:
            raise Invalid(f"A user may have at most {locked.policy.devices_max} devices; remove one first.")
        device = _create(locked, one)
    speaks_for_itself = device.session > 0 and device.session >= device.lineage_session
    app_version, schema = (None, None) if speaks_for_itself else (one.app_version, one.schema)
    locked.put(
        replace(
            device,
            platform=one.platform if one.platform is not None else device.platform,
            app_version=app_version if app_version is not None else device.app_version,
            schema=schema if schema is not None else device.schema,
            locale=one.locale if one.locale is not None else device.locale,
            tz=one.tz if one.tz is not None else device.tz,
            install_id=one.install_id if one.install_id is not None else device.install_id,
        )
    )
    if one.addresses is not None:
        set_addresses(users, locked.devices[device.device_id], one.addresses)
    if new:  # its addresses are new, but what was sent before it existed is not told
        locked.put(replace(locked.devices[device.device_id], pushed_seq=device.pushed_seq))
    locked.rearm(device.device_id)
    flush(conn, now_ms, users.values())
    return locked.devices[device.device_id], new


def recreate(conn: Conn, now_ms: int, key: DeviceKey, policy_of: PolicyOf, new_epoch: Callable[[], str]) -> bool:
    """Makes a device again whose row was lost when the store was set back (protocol 4.2). False if it is gone."""
    row = device_rows.device_row(conn, key)
    if row is None:
        register(conn, now_ms, Registration(device=key, lost=True), policy_of, new_epoch)
    return row is None or row.state is not DeviceState.GONE


def _create(locked: Locked, one: Registration) -> Device:
    gone = device_rows.device_row(locked.conn, one.device)
    head = locked.head_seq
    told_seq = head  # what was sent before a device existed is synced, not notified
    start_seq = locked.inbox.floor_seq if one.lost else _start(locked)
    predecessor = locked.devices.get(one.replaces) if one.replaces and one.replaces != one.device.device_id else None
    if predecessor is not None:
        start_seq = min(start_seq, inherited_from(locked, predecessor))
        told_seq = max(start_seq, predecessor.acked_high)
    device = Device(
        app_id=one.device.app_id,
        user_id=one.device.user_id,
        device_id=one.device.device_id,
        state=DeviceState.ACTIVE,
        session=0 if gone is None else gone.session,  # never repeats, also if the same id comes again
        conf_session=0 if gone is None else gone.session,
        lineage_session=0 if gone is None else gone.session + 1,
        online_since_ms=None,
        offline_since_ms=None,
        linger_until_ms=None,
        offline_told=1,
        node_id=None,
        start_seq=start_seq,
        acked_seq=start_seq,
        acked_high=start_seq,
        pushed_seq=told_seq,
        progress_ms=0,
        store_id=None,
        app_version=one.app_version,
        schema=one.schema,
        types=None,
        platform=one.platform,
        locale=one.locale,
        tz=one.tz,
        background=0,
        open_conversation=None,
        has_address=0,
        install_id=one.install_id,
        predecessor=one.replaces if predecessor is not None else None,
        created_ms=locked.now_ms,
        contact_ms=locked.now_ms,
    )
    if gone is None:
        device_rows.insert_device(locked.conn, device)
    else:
        device_rows.save_devices(locked.conn, [(gone, device)])
        held_entries.forget_reading(locked.conn, device.key)
        locked.forget_reads(device.device_id)
        locked.acks.pop(device.device_id, None)
    job_rows.create_job(locked.conn, device.key)
    locked.forget_jobs()
    locked.devices[device.device_id] = device
    _pass_timelines_over(locked, device)
    if predecessor is not None:
        locked.follow_on(device.device_id, predecessor.device_id)
        remove(locked, predecessor, detail="device_gone")  # what it lacked is in the view of this one
    return device


def _pass_timelines_over(locked: Locked, device: Device) -> None:
    """As in the inbox, what came to shared timelines before the device existed is read and not told."""
    keys = [TimelineKey(locked.key.app_id, one.conversation_id) for one in locked.woken]
    found = timelines.timelines(locked.conn, keys) if keys else {}
    if found:
        told = {key.conversation_id: Read.told(one.head_seq) for key, one in found.items()}
        locked.raise_reads(device.device_id, told)


def inherited_from(locked: Locked, predecessor: Device) -> int:
    """The number after which a successor must begin to have everything in its view that its predecessor lacked."""
    lacked = [seq for seq, _, _ in held_entries.held_rows(locked.conn, predecessor.key)]
    if again := {id_ for _, id_, _ in releases(locked.conn, predecessor.key, after=predecessor.acked_seq)}:
        entries = entry_rows.entries_of_messages(locked.conn, locked.key, again)
        lacked += [entry.seq for entry in entries if entry.live(locked.now_ms)]
    return max(locked.inbox.floor_seq, min([predecessor.acked_seq, *(seq - 1 for seq in lacked)]))


def _start(locked: Locked) -> int:
    """Where a new device begins: the app's start policy."""
    policy = locked.policy.start
    if policy == "now":
        return locked.head_seq
    if policy.startswith("days:"):
        since_ms = locked.now_ms - int(policy.removeprefix("days:")) * DAY_MS
        return entry_rows.last_seq_before(locked.conn, locked.key, since_ms, floor=locked.inbox.floor_seq)
    return locked.inbox.floor_seq


def sign_out(conn: Conn, now_ms: int, key: DeviceKey, policy_of: PolicyOf) -> Device:
    """The device is gone: its open deliveries have failed, its addresses are buried. Raises Missing."""
    users = lock(conn, now_ms, [key.user], policy_of)
    locked, device = _known(users, key)
    remove(locked, device, detail="device_gone")
    flush(conn, now_ms, users.values())
    return device


def remove(locked: Locked, device: Device, *, detail: str) -> None:
    """The device is no more: what it had not acked has failed for it, and neither addresses nor tokens lead to it."""
    fail_device(locked, device, detail=detail)
    _let_go(locked, device)
    drop_addresses(locked, device)
    tokens.revoke(
        locked.conn,
        locked.now_ms,
        app_id=locked.key.app_id,
        user_id=locked.key.user_id,
        device_id=device.device_id,
    )
    locked.put(
        replace(
            locked.devices[device.device_id],
            state=DeviceState.GONE,
            offline_since_ms=device.offline_since_ms if device.offline_since_ms is not None else locked.now_ms,
            node_id=None,
        )
    )
    locked.rearm(device.device_id)
    locked.rearm_all()  # others may have waited because somebody looked at this one


def _let_go(locked: Locked, device: Device) -> None:
    """What it passed without the full form is owed to nobody: it has failed, and keeps the floor no more (protocol 11.3)."""
    held = locked.held(device.device_id)
    locked.unhold(device.device_id, [seq for seq, _, _ in held])
    locked.hold(device.device_id, [(seq, FAILED) for seq, why, _ in held if why != "fallback"])


def replace_addresses(
    conn: Conn, now_ms: int, key: DeviceKey, addresses: Sequence[NewAddress], policy_of: PolicyOf
) -> tuple[AddressState, ...]:
    """The device's whole list of addresses, in order of preference. Raises Missing."""
    users = lock(conn, now_ms, {key.user, *holders(conn, key.app_id, addresses)}, policy_of)
    _, device = _known(users, key)
    states = set_addresses(users, device, addresses)
    flush(conn, now_ms, users.values())
    return states


def prove_address(
    conn: Conn, now_ms: int, key: DeviceKey, policy_of: PolicyOf, *, account: str, token_hash: bytes
) -> tuple[AddressState, ...]:
    """The device has answered the challenge of this address of its. Gives the states of all. Raises Missing."""
    owners = address_rows.owners_of(conn, key.app_id, account=account, token_hash=token_hash)
    users = lock(conn, now_ms, {key.user, *(owner.user for owner in owners)}, policy_of)
    _, device = _known(users, key)
    prove(users, device, account=account, token_hash=token_hash)
    flush(conn, now_ms, users.values())
    return states_of(address_rows.addresses_of(conn, [key.user]).get(key, []))


def _known(users: Mapping[UserKey, Locked], key: DeviceKey) -> tuple[Locked, Device]:
    found = device_in(users, key)
    if found is None:
        raise Missing("There is no such device.")
    return found


def set_preferences(conn: Conn, now_ms: int, user: UserKey, wanted: Preferences | None, policy_of: PolicyOf) -> None:
    """What the user wants to be told of from now on, for what waits as well. Raises Missing."""
    locked = lock(conn, now_ms, [user], policy_of).get(user)
    if locked is None:
        raise Missing("There is no such user.")
    text = None if wanted is None else stored(wanted)
    inbox_rows.set_inbox(conn, user, preferences=text)
    locked.inbox = replace(locked.inbox, preferences=text)
    locked.rearm_all()
    flush(conn, now_ms, [locked])
