"""Whose messages a client's database holds: two users' never come into one (protocol 5)."""

from relay.errors import FieldError, StoreOfAnother
from relay.inbox.locked import Locked
from relay.model import Device


def check_owner(locked: Locked, device: Device, *, store_id: str | None, store_user: str | None) -> None:
    """Refuses a database that holds another user's messages. One that this device has used is its user's, whatever the user
    was called then. Raises StoreOfAnother."""
    known = {None, locked.key.user_id, *locked.inbox.former_names}
    if store_user not in known and (store_id is None or store_id != device.store_id):
        raise StoreOfAnother(
            "This message database holds another user's messages: begin one for this user.",
            errors=(FieldError("/store/user", "conflict", "is not the user of this token"),),
        )
