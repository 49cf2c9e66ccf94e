"""Removing what belongs to one user from every table."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, update

from relay.model import UserKey
from relay.store.schema import device_token, message, metadata

KEPT = frozenset({device_token.name})  # revoked, and forgotten with its time: every node must see that
OF_USERS = tuple(table for table in metadata.sorted_tables if "user_id" in table.c and table.name not in KEPT)

m = message.c


def drop_user(conn: Connection, user: UserKey) -> None:
    """Every row that is the user's own."""
    for table in OF_USERS:
        conn.execute(delete(table).where(table.c.app_id == user.app_id, table.c.user_id == user.user_id))


_drop = delete(message).where(m.app_id == bindparam("app"), m.message_id == bindparam("id"))


def drop_messages(conn: Connection, app_id: str, ids: Sequence[str]) -> None:
    if ids:
        conn.execute(_drop, [{"app": app_id, "id": one} for one in ids])


_nameless = (
    update(message)
    .where(m.app_id == bindparam("app"), m.message_id == bindparam("id"), m.sender_user == bindparam("user"))
    .values(sender_user=None, sender_device=None, client_ref=None)
)


def forget_sender(conn: Connection, user: UserKey, ids: Sequence[str]) -> None:
    """Takes the user's name off those of these messages that it sent."""
    if ids:
        conn.execute(_nameless, [{"app": user.app_id, "user": user.user_id, "id": one} for one in ids])
