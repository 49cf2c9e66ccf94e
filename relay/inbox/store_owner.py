"""Whose messages a client's database holds: two users' never come into one (protocol 5)."""

from relay.errors import FieldError, StoreOfAnother
from relay.inbox.locked import Locked
from relay.model import Device, UserKey
from relay.store import inbox as inbox_rows


def check_owner(locked: Locked, device: Device, *, store_id: str | None, store_user: str | None) -> None:
    """Refuses a database that holds another user's messages. One that this device has used is its user's, whatever the user
    was called then. Raises StoreOfAnother."""
    if store_user in {None, locked.key.user_id} or (store_id is not None and store_id == device.store_id):
        return
    if store_user not in locked.inbox.former_names or _is_somebody(locked, store_user):
        raise StoreOfAnother(
            "This message database holds another user's messages: begin one for this user.",
            errors=(FieldError("/store/user", "conflict", "is not the user of this token"),),
        )


def _is_somebody(locked: Locked, name: str) -> bool:
    """Whether somebody else has the name by now."""
    return inbox_rows.inbox_of(locked.conn, UserKey(locked.key.app_id, name)) is not None
