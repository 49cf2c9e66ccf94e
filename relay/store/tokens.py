"""Rows of device tokens and tickets. Secrets are stored as keyed hashes only."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, select, update

from relay.model import DeviceKey
from relay.store.schema.apps import device_token, ticket
from relay.store.schema.devices import device
from relay.store.sql import as_list, device_params, in_list, insert_rows, per_dialect

KEPT_MS = 86_400_000  # a token's row outlives it by this, so that a late use is known for what it is

_t = device_token.c
_here = (
    _t.app_id == bindparam("app"),
    _t.user_id == bindparam("user"),
    _t.device_id == bindparam("device"),
)

# --- looking ----------------------------------------------------------------------------------------------------------


def _with_device() -> Select[Any]:
    return select(device_token, device.c.state.label("device_state")).select_from(
        device_token.outerjoin(
            device,
            (device.c.app_id == _t.app_id) & (device.c.user_id == _t.user_id) & (device.c.device_id == _t.device_id),
        )
    )


_by_id = _with_device().where(_t.token_id == bindparam("id"))


def token_row(conn: Connection, token_id: str) -> Row[Any] | None:
    """The token's row, with the state of its device."""
    return conn.execute(_by_id, {"id": token_id}).first()


@per_dialect
def _by_ids(sqlite: bool) -> Select[Any]:
    return _with_device().where(in_list(_t.token_id, "ids", sqlite=sqlite))


def token_rows(conn: Connection, token_ids: Collection[str]) -> dict[str, Row[Any]]:
    """The same of many tokens, by their ids; unknown ones are left out."""
    return {row.token_id: row for row in conn.execute(_by_ids(conn), {"ids": as_list(conn, sorted(token_ids))}).all()}


_renew = (
    update(device_token)
    .where(_t.token_id == bindparam("id"), _t.secret_mac == bindparam("old"))
    .values(secret_mac=bindparam("new"))
)


def renew_mac(conn: Connection, *, token_id: str, old: bytes, new: bytes) -> None:
    """The same secret, proved under another key of the ring."""
    conn.execute(_renew, {"id": token_id, "old": old, "new": new})


_family = (
    select(device_token)
    .where(*_here, _t.family == bindparam("of"))
    .order_by(_t.token_id)
    .with_for_update(of=device_token)
)


def locked_family(conn: Connection, key: DeviceKey, family: str) -> list[Row[Any]]:
    """All tokens of the family, locked."""
    return list(conn.execute(_family, device_params(key) | {"of": family}))


_revoked = select(_t.token_id).where(_t.revoked_ms >= bindparam("since"))


def revoked_since(conn: Connection, since_ms: int) -> set[str]:
    """Ids of the tokens that were revoked since then, of all apps."""
    return set(conn.execute(_revoked, {"since": since_ms}).scalars())


# --- changing ---------------------------------------------------------------------------------------------------------


def add(conn: Connection, row: Mapping[str, Any]) -> None:
    """Writes a token's row."""
    insert_rows(conn, device_token, [row])


_drop = delete(device_token).where(*_here, _t.token_id == bindparam("id"))


def drop(conn: Connection, key: DeviceKey, token_ids: list[str]) -> None:
    """Forgets these tokens of the device."""
    if token_ids:
        conn.execute(_drop, [device_params(key) | {"id": token_id} for token_id in token_ids])


_used = update(device_token).where(*_here, _t.token_id == bindparam("id")).values(used_ms=bindparam("now"))
_rotated = (
    update(device_token)
    .where(
        *_here,
        _t.family == bindparam("of"),
        _t.token_id != bindparam("id"),
        _t.generation <= bindparam("upto"),
        _t.rotated_ms.is_(None),
    )
    .values(rotated_ms=bindparam("now"))
)


def take_over(conn: Connection, now_ms: int, key: DeviceKey, *, family: str, token_id: str, generation: int) -> None:
    """This token is in use from now on; its elders and siblings are rotated."""
    conn.execute(_used, device_params(key) | {"id": token_id, "now": now_ms})
    conn.execute(_rotated, device_params(key) | {"of": family, "id": token_id, "upto": generation, "now": now_ms})


def revoke(
    conn: Connection,
    now_ms: int,
    *,
    app_id: str,
    user_id: str | None = None,
    device_id: str | None = None,
    family: str | None = None,
) -> int:
    """Revokes the tokens of an app, a user, a device or a family, whichever is named; gives how many there were."""
    assert device_id is None or user_id is not None
    assert family is None or device_id is not None
    named = ((_t.user_id, user_id), (_t.device_id, device_id), (_t.family, family))
    narrow = [column == value for column, value in named if value is not None]
    changed = conn.execute(
        update(device_token).where(_t.app_id == app_id, *narrow, _t.revoked_ms.is_(None)).values(revoked_ms=now_ms)
    )
    return changed.rowcount


# --- tickets ----------------------------------------------------------------------------------------------------------


def add_ticket(
    conn: Connection, key: DeviceKey, *, token_id: str, ticket_mac: bytes, origin: str | None, expires_ms: int
) -> None:
    """Writes a ticket, which stands once for the token it was got with."""
    head = key._asdict()
    tail = {"token_id": token_id, "ticket_mac": ticket_mac, "origin": origin, "expires_ms": expires_ms}
    insert_rows(conn, ticket, [head | tail])


def take_ticket(conn: Connection, ticket_mac: bytes) -> Row[Any] | None:
    """The ticket, which is gone by that: it works once."""
    row = conn.execute(select(ticket).where(ticket.c.ticket_mac == ticket_mac).with_for_update()).first()
    if row is None:
        return None
    gone = conn.execute(delete(ticket).where(ticket.c.ticket_mac == ticket_mac))
    return row if gone.rowcount == 1 else None


def forget(conn: Connection, now_ms: int) -> None:
    """Removes tickets and tokens whose time is long over."""
    conn.execute(delete(ticket).where(ticket.c.expires_ms <= now_ms))
    conn.execute(delete(device_token).where(_t.expires_ms <= now_ms - KEPT_MS))
