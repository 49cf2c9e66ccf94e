"""What belongs to one user, in every table: removing it, and giving it another name."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, case, delete, func, literal_column, or_, select, update

from relay.ids import user_namespace
from relay.model import UserKey
from relay.store.schema import metadata
from relay.store.schema.apps import device_token
from relay.store.schema.conversations import membership
from relay.store.schema.devices import address
from relay.store.schema.inboxes import idempotency, message
from relay.store.sql import beyond

KEPT = frozenset({device_token.name})  # revoked, and forgotten with its time: every node must see that
OF_USERS = tuple(table for table in metadata.sorted_tables if "user_id" in table.c and table.name not in KEPT)

m = message.c


def _sent_by(user: UserKey) -> tuple[Any, ...]:
    own = user_namespace(user.user_id)
    return idempotency.c.app_id == user.app_id, func.substr(idempotency.c.key, 1, len(own)) == own


def drop_user(conn: Connection, user: UserKey) -> set[str]:
    """Every row that is the user's own, and the keys of what its devices sent; gives the groups that it was in."""
    conn.execute(delete(idempotency).where(*_sent_by(user)))
    groups: set[str] = set()
    for table in OF_USERS:
        gone = delete(table).where(table.c.app_id == user.app_id, table.c.user_id == user.user_id)
        if table is membership:
            groups.update(conn.execute(gone.returning(membership.c.conversation_id)).scalars())
        else:
            conn.execute(gone)
    return groups


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


def named_anywhere(conn: Connection, user: UserKey) -> bool:
    """Whether there is something of this name already."""
    own = (table for table in (metadata.tables["inbox"], membership))
    return any(
        conn.execute(
            select(table.c.user_id).where(table.c.app_id == user.app_id, table.c.user_id == user.user_id).limit(1)
        ).first()
        is not None
        for table in own
    )


def rename_user(conn: Connection, user: UserKey, name: str) -> None:
    """Every row that is the user's own gets the new name; so do its devices' keys, or a repeat would be a second message."""
    old = user_namespace(user.user_id)
    conn.execute(
        update(idempotency)
        .where(*_sent_by(user))
        .values(key=user_namespace(name) + func.substr(idempotency.c.key, len(old) + 1))
    )
    for table in (*OF_USERS, device_token):
        conn.execute(
            update(table).where(table.c.app_id == user.app_id, table.c.user_id == user.user_id).values(user_id=name)
        )


def rename_sender(conn: Connection, user: UserKey, name: str, ids: Sequence[str]) -> None:
    """Gives the user its new name in those of these messages that it sent, and in the keys that its devices gave them: by
    these they are forgotten with their messages."""
    old = user_namespace(user.user_id)
    by_device = func.substr(m.key, 1, len(old)) == old
    renamed = case((by_device, user_namespace(name) + func.substr(m.key, len(old) + 1)), else_=m.key)
    if ids:
        conn.execute(
            update(message)
            .where(m.app_id == user.app_id, m.message_id == bindparam("id"), m.sender_user == user.user_id)
            .values(sender_user=name, key=renamed),
            [{"id": one} for one in ids],
        )


a = address.c
_tokens = select(a.device_id, a.preference, a.account, a.token_sealed, a.keys_sealed).where(
    a.app_id == bindparam("app"), a.user_id == bindparam("user")
)
_set_token = (
    update(address)
    .where(
        a.app_id == bindparam("app"),
        a.user_id == bindparam("user"),
        a.device_id == bindparam("device"),
        a.preference == bindparam("place"),
    )
    .values(token_sealed=bindparam("sealed"), keys_sealed=bindparam("keys"))
)


def reseal_tokens(conn: Connection, user: UserKey, reseal: Callable[[str, str, bytes], bytes]) -> None:
    """Seals the tokens and keys of the user's addresses anew: `reseal` is given device, account and what is sealed."""
    rows = [
        {
            "app": user.app_id,
            "user": user.user_id,
            "device": device,
            "place": place,
            "sealed": reseal(device, account, old),
            "keys": None if keys is None else reseal(device, account, keys),
        }
        for device, place, account, old, keys in conn.execute(_tokens, {"app": user.app_id, "user": user.user_id}).all()
    ]
    if rows:
        conn.execute(_set_token, rows)


# --- messages that name a user, of which its inbox may know nothing any more ---

LATE_MS = 60_000  # by so much a message may have been accepted before one that was stored earlier


class Naming(NamedTuple):
    """Messages that name a user, as far as the walk has come that began at `began_ms`."""

    began_ms: int
    ids: frozenset[str] = frozenset()
    ms: int = 0
    id: str = ""

    def again(self) -> "Naming":
        """From where what has come meanwhile is found: before a last one, too, that a clock since set back had accepted."""
        return self._replace(ms=min(self.ms, self.began_ms) - LATE_MS, id="")


_looked_at = (
    select(m.message_id, m.accepted_ms, m.sender_user, m.recipients)
    .where(
        m.app_id == bindparam("app"),
        beyond((m.accepted_ms, m.message_id), "ms", "id"),
    )
    .order_by(m.accepted_ms, m.message_id)
    .limit(bindparam("count"))
    .subquery()
)
_l = _looked_at.c
_naming = select(
    _l.message_id,
    _l.accepted_ms,
    or_(
        func.coalesce(_l.sender_user == bindparam("user"), literal_column("1=0")),
        _l.recipients.like(bindparam("named"), escape="/"),
    ).label("named"),
).order_by(_l.accepted_ms, _l.message_id)


def naming(conn: Connection, user: UserKey, before: Naming, *, limit: int) -> tuple[Naming, bool]:
    """Looks at the next `limit` messages of the app, by age; gives what is found with what was, and whether there are more."""
    quoted = re.sub(r"([/%_])", r"/\1", msgspec.json.encode(user.user_id).decode())
    params = {"app": user.app_id, "user": user.user_id, "named": f"%{quoted}%"}
    rows = conn.execute(_naming, params | {"ms": before.ms, "id": before.id, "count": limit}).all()
    found = before.ids | {row.message_id for row in rows if row.named}
    if not rows:
        return before, False
    return Naming(before.began_ms, found, rows[-1].accepted_ms, rows[-1].message_id), len(rows) == limit
