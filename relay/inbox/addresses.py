"""Where a device can be reached, and who owns a token (protocol §5)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from relay.inbox.locked import Locked
from relay.inbox.reports import tell_device
from relay.model import Address, Device, DeviceKey, UserKey
from relay.store import addresses as address_rows
from relay.store import devices as device_rows
from relay.store import entries as entry_rows
from relay.store.engine import Conn

UNPROVEN = "unproven"  # nothing is sent there before the device has answered a challenge


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAddress:
    """An address as a device or its backend brings it: the token sealed, and its keyed hash for look-ups."""

    account: str
    kind: str
    token_sealed: bytes
    token_hash: bytes
    keys_sealed: bytes | None = None  # sealed like the token
    challenged: bool = False  # it counts only once the device has told what a push to it said


class AddressState(NamedTuple):
    """What a device is told of an address of its. `failing_since_ms`: every push to it failed since then, by its own fault."""

    account: str
    state: str
    failing_since_ms: int | None = None


def states_of(addresses: Iterable[Address]) -> tuple[AddressState, ...]:
    """Of a device's addresses, in their order."""
    return tuple(AddressState(one.account, one.state, one.failing_since_ms) for one in addresses)


def holders(conn: Conn, app_id: str, addresses: Iterable[NewAddress]) -> set[UserKey]:
    """Users who hold one of these tokens: whoever sets addresses needs their locks as well, before anything is decided."""
    return {
        owner.user
        for one in addresses
        for owner in address_rows.owners_of(conn, app_id, account=one.account, token_hash=one.token_hash)
    }


def set_addresses(
    users: Mapping[UserKey, Locked], device: Device, addresses: Sequence[NewAddress]
) -> tuple[AddressState, ...]:
    """Replaces a device's addresses, in order of preference; gives the state of each. One that was failing is counted anew,
    and its device hears once more since when it was.

    A token that somebody else holds moves here, in the same transaction, unless both name the same installation and
    different users: then it is shared. The users who hold one must be locked (their rows are in `users`); a holder who
    appeared since then keeps it, and this device's address is "taken" until its next handshake.
    """
    locked = users[device.key.user]
    known = {
        (one.account, one.token_hash): one
        for one in address_rows.addresses_of(locked.conn, [locked.key]).get(device.key, [])
    }
    rows: list[Address] = []
    for preference, new in enumerate(addresses):
        before = known.get((new.account, new.token_hash))
        if new.challenged and (before is None or before.state != "active"):
            state, shared = UNPROVEN, False  # and takes it from nobody
        else:
            state, shared = _claim(users, locked, device, account=new.account, token_hash=new.token_hash)
        rows.append(
            Address(
                preference=preference,
                account=new.account,
                kind=new.kind,
                token_sealed=new.token_sealed,
                token_hash=new.token_hash,
                keys_sealed=new.keys_sealed,
                registered_ms=locked.now_ms,  # again at every contact: older "unregistered" answers do not count
                state=state,
                shared=int(shared),
            )
        )
    address_rows.set_addresses(locked.conn, device.key, rows)
    _settle(
        locked,
        device,
        usable=any(row.state == "active" for row in rows),
        fresh=any((row.account, row.token_hash) not in known for row in rows if row.state == "active"),
    )
    failing = {key: one.failing_since_ms for key, one in known.items()}
    return tuple(AddressState(row.account, row.state, failing.get((row.account, row.token_hash))) for row in rows)


def prove(users: Mapping[UserKey, Locked], device: Device, *, account: str, token_hash: bytes) -> None:
    """The device has shown that it reads what goes to this address of its: from now on it counts. The users who hold
    the token must be locked."""
    locked = users[device.key.user]
    rows = address_rows.addresses_of(locked.conn, [locked.key]).get(device.key, [])
    if not any((row.account, row.token_hash, row.state) == (account, token_hash, UNPROVEN) for row in rows):
        return
    state, shared = _claim(users, locked, device, account=account, token_hash=token_hash)
    if shared:
        address_rows.share_address(locked.conn, device.key, account=account, token_hash=token_hash)
    address_rows.set_address_state(locked.conn, device.key, account=account, token_hash=token_hash, state=state)
    _settle(locked, device, usable=state == "active" or bool(device.has_address), fresh=state == "active")


def _settle(locked: Locked, device: Device, *, usable: bool, fresh: bool) -> None:
    """`fresh`: there is an address that has been told of nothing."""
    after = replace(locked.devices[device.device_id], has_address=int(usable))
    if fresh:  # what went to the old token may never have arrived
        after = replace(after, pushed_seq=min(after.pushed_seq, max(after.acked_high, _untold_from(locked, after))))
    locked.put(after)
    locked.rearm(device.device_id, anew=fresh)


def _claim(
    users: Mapping[UserKey, Locked], locked: Locked, device: Device, *, account: str, token_hash: bytes
) -> tuple[str, bool]:
    shared = False
    for owner in address_rows.owners_of(locked.conn, locked.key.app_id, account=account, token_hash=token_hash):
        if owner == device.key:
            continue
        theirs = users.get(owner.user)
        if theirs is None:
            return "taken", False
        other = theirs.devices.get(owner.device_id)
        same_install = other is not None and device.install_id is not None and other.install_id == device.install_id
        if same_install and owner.user != device.key.user:
            shared = True
            address_rows.share_address(locked.conn, owner, account=account, token_hash=token_hash)
            continue
        lose_address(theirs, owner, account=account, token_hash=token_hash, state="taken")
        moves = address_rows.count_move(
            locked.conn, locked.now_ms, locked.key.app_id, account=account, token_hash=token_hash
        )
        if other is not None:
            tell_device(theirs, other, "device.token_moved", account=account, moves=moves)
    return "active", shared


def _untold_from(locked: Locked, device: Device) -> int:
    """Up to where nobody need be told: what came before the device, or was acked by the one it follows, is only synced."""
    if device.predecessor is not None:
        before = device_rows.device_row(locked.conn, DeviceKey(*locked.key, device.predecessor))
        return 0 if before is None else before.acked_high
    return entry_rows.last_seq_before(locked.conn, locked.key, device.created_ms, floor=0)


def lose_address(locked: Locked, owner: DeviceKey, *, account: str, token_hash: bytes, state: str) -> None:
    """The device's address is dead or taken; its job is recomputed."""
    address_rows.set_address_state(locked.conn, owner, account=account, token_hash=token_hash, state=state)
    left = address_rows.addresses_of(locked.conn, [owner.user]).get(owner, [])
    device = locked.devices.get(owner.device_id)
    if device is not None:
        locked.put(replace(device, has_address=int(any(one.state == "active" for one in left))))
        locked.rearm(owner.device_id)


def drop_addresses(locked: Locked, device: Device) -> None:
    """The device signs out. A push that is on its way to it looks for its address before it leaves, and finds none."""
    address_rows.set_addresses(locked.conn, device.key, [])
    locked.put(replace(locked.devices[device.device_id], has_address=0))
