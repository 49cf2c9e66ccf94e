"""Rows of apps and credentials: API keys, device tokens, tickets. Secrets are stored as keyed hashes only."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, select, update

from relay.model import DeviceKey
from relay.store.schema import api_key, app, device, device_token, ticket
from relay.store.sql import insert_missing, insert_rows


def apps(conn: Connection) -> dict[str, bytes]:
    """All apps with their id secrets."""
    return {row.app_id: row.id_secret for row in conn.execute(select(app.c.app_id, app.c.id_secret))}


def create_app(conn: Connection, now_ms: int, *, app_id: str, id_secret: bytes) -> None:
    insert_missing(
        conn,
        app,
        [{"app_id": app_id, "id_secret": id_secret, "settings": "{}", "event_head": 0, "created_ms": now_ms}],
    )


# --- API keys ---------------------------------------------------------------------------------------------------------


def add_api_key(
    conn: Connection,
    now_ms: int,
    *,
    app_id: str,
    key_id: str,
    secret_mac: bytes,
    scopes: Iterable[str],
    name: str,
    expires_ms: int | None = None,
) -> None:
    insert_rows(
        conn,
        api_key,
        [
            {
                "app_id": app_id,
                "key_id": key_id,
                "secret_mac": secret_mac,
                "scopes": msgspec.json.encode(sorted(scopes)).decode(),
                "name": name,
                "created_ms": now_ms,
                "expires_ms": expires_ms,
                "revoked_ms": None,
                "used_ms": None,
            }
        ],
    )


_by_key_id = select(api_key).where(api_key.c.key_id == bindparam("id"))


def api_key_row(conn: Connection, key_id: str) -> Row[Any] | None:
    return conn.execute(_by_key_id, {"id": key_id}).first()


def api_keys(conn: Connection, app_id: str) -> list[Row[Any]]:
    return list(conn.execute(select(api_key).where(api_key.c.app_id == app_id).order_by(api_key.c.created_ms)))


def has_api_key(conn: Connection, now_ms: int, app_id: str) -> bool:
    """Whether the app has a key that works."""
    c = api_key.c
    usable = select(c.key_id).where(
        c.app_id == app_id, c.revoked_ms.is_(None), (c.expires_ms.is_(None)) | (c.expires_ms > now_ms)
    )
    return conn.execute(usable.limit(1)).first() is not None


def revoke_api_key(conn: Connection, now_ms: int, *, app_id: str, key_id: str) -> bool:
    c = api_key.c
    changed = conn.execute(
        update(api_key).where(c.app_id == app_id, c.key_id == key_id, c.revoked_ms.is_(None)).values(revoked_ms=now_ms)
    )
    return changed.rowcount == 1


# --- device tokens ----------------------------------------------------------------------------------------------------

_t = device_token.c
_by_token_id = (
    select(device_token, device.c.state.label("device_state"))
    .select_from(
        device_token.outerjoin(
            device,
            (device.c.app_id == _t.app_id) & (device.c.user_id == _t.user_id) & (device.c.device_id == _t.device_id),
        )
    )
    .where(_t.token_id == bindparam("id"))
)


def device_token_row(conn: Connection, token_id: str) -> Row[Any] | None:
    """The token's row, with the state of its device."""
    return conn.execute(_by_token_id, {"id": token_id}).first()


def add_device_token(conn: Connection, row: Mapping[str, Any]) -> None:
    insert_rows(conn, device_token, [row])


def mark_rotated(conn: Connection, now_ms: int, *, token_id: str) -> None:
    """A younger token of the family exists: this one stays good for a short while."""
    conn.execute(update(device_token).where(_t.token_id == token_id, _t.rotated_ms.is_(None)).values(rotated_ms=now_ms))


def revoke_family(conn: Connection, now_ms: int, key: DeviceKey, family: str) -> int:
    changed = conn.execute(
        update(device_token)
        .where(
            _t.app_id == key.app_id,
            _t.user_id == key.user_id,
            _t.device_id == key.device_id,
            _t.family == family,
            _t.revoked_ms.is_(None),
        )
        .values(revoked_ms=now_ms)
    )
    return changed.rowcount


def revoke_device_tokens(conn: Connection, now_ms: int, key: DeviceKey) -> None:
    conn.execute(
        update(device_token)
        .where(
            _t.app_id == key.app_id,
            _t.user_id == key.user_id,
            _t.device_id == key.device_id,
            _t.revoked_ms.is_(None),
        )
        .values(revoked_ms=now_ms)
    )


# --- tickets ----------------------------------------------------------------------------------------------------------


def add_ticket(conn: Connection, key: DeviceKey, *, ticket_mac: bytes, origin: str | None, expires_ms: int) -> None:
    insert_rows(
        conn,
        ticket,
        [
            {
                "app_id": key.app_id,
                "user_id": key.user_id,
                "device_id": key.device_id,
                "ticket_mac": ticket_mac,
                "origin": origin,
                "expires_ms": expires_ms,
            }
        ],
    )


def take_ticket(conn: Connection, ticket_mac: bytes) -> Row[Any] | None:
    """The ticket, which is gone by that: it works once."""
    row = conn.execute(select(ticket).where(ticket.c.ticket_mac == ticket_mac).with_for_update()).first()
    if row is None:
        return None
    gone = conn.execute(delete(ticket).where(ticket.c.ticket_mac == ticket_mac))
    return row if gone.rowcount == 1 else None


def forget_credentials(conn: Connection, now_ms: int) -> None:
    """Removes tickets and tokens whose time is long over."""
    conn.execute(delete(ticket).where(ticket.c.expires_ms <= now_ms))
    conn.execute(delete(device_token).where(_t.expires_ms <= now_ms - 86_400_000))
