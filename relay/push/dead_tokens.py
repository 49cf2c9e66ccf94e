"""A token that its vendor calls dead: believed only for this very address, and if it has not been registered since."""

from collections.abc import Sequence

from relay.inbox.addresses import lose_address
from relay.inbox.locked import Locked
from relay.inbox.reports import tell_device
from relay.model import Address, Device


def is_believed(current: Address | None, *, when_ms: int) -> bool:
    """`current`: the device's active address with the token, if it still has it. `when_ms`: as of when it is called dead."""
    return current is not None and when_ms > current.registered_ms


def bury(locked: Locked, device: Device, *, account: str, token_hash: bytes, code: str | None) -> None:
    """The address is dead, and the backend is told; the device's job is recomputed, for the next address if there is one.

    Of the inbox a knock tells that address again; in a shared timeline nothing knocks, so there it counts as untold.
    """
    locked.untell(device.device_id, account=account, token_hash=token_hash)
    lose_address(locked, device.key, account=account, token_hash=token_hash, state="dead")
    tell_device(locked, device, "device.token_invalid", account=account, code=code)
    if not locked.devices[device.device_id].has_address:
        tell_device(locked, device, "device.unreachable", reason="no_address")


def active(addresses: Sequence[Address], *, account: str, token_hash: bytes) -> Address | None:
    """The device's active address with this token, if it has it."""
    for one in addresses:
        if one.token_hash == token_hash and one.account == account and one.state == "active":
            return one
    return None
