"""Rows of apps and their API keys. Secrets are stored as keyed hashes only."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, case, func, select, update

from relay.store.schema.apps import api_key, app
from relay.store.sql import insert_missing, insert_rows


def apps(conn: Connection) -> dict[str, bytes]:
    """All apps with their id secrets."""
    return {row.app_id: row.id_secret for row in conn.execute(select(app.c.app_id, app.c.id_secret))}


def create_app(conn: Connection, now_ms: int, *, app_id: str, id_secret: bytes) -> None:
    """Makes the app; one that is there stays as it is."""
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
    networks: Iterable[str] = (),
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
                "leaked_ms": None,
                "networks": msgspec.json.encode(list(networks)).decode() if networks else None,
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


def valid_api_keys(conn: Connection, now_ms: int, app_id: str, name: str) -> list[Row[Any]]:
    """The keys of this name that work, locked: whether there may be one more hangs on them."""
    c = api_key.c
    ours = select(api_key).where(
        c.app_id == app_id,
        c.name == name,
        c.revoked_ms.is_(None),
        (c.expires_ms.is_(None)) | (c.expires_ms > now_ms),
    )
    return list(conn.execute(ours.order_by(c.created_ms, c.key_id).with_for_update()))


_OF_ITS_OWN = ("revoked_ms", "used_ms", "leaked_ms")


def add_successor(conn: Connection, now_ms: int, old: Row[Any], *, key_id: str, secret_mac: bytes) -> None:
    """A key that may what `old` may, for as long as it would have."""
    kept = ("app_id", "scopes", "name", "networks", "expires_ms")
    new = {"key_id": key_id, "secret_mac": secret_mac, "created_ms": now_ms} | dict.fromkeys(_OF_ITS_OWN)
    insert_rows(conn, api_key, [new | {name: getattr(old, name) for name in kept}])


def end_api_key_at(conn: Connection, ends_ms: int, *, app_id: str, key_id: str) -> None:
    """The key ends then, if it does not end before."""
    c = api_key.c
    ends = func.coalesce(case((c.expires_ms < ends_ms, c.expires_ms)), ends_ms)
    conn.execute(update(api_key).where(c.app_id == app_id, c.key_id == key_id).values(expires_ms=ends))


_renew = (
    update(api_key)
    .where(api_key.c.key_id == bindparam("id"), api_key.c.secret_mac == bindparam("old"))
    .values(secret_mac=bindparam("new"))
)


def renew_mac(conn: Connection, *, key_id: str, old: bytes, new: bytes) -> None:
    """The same secret, proved under another key of the ring."""
    conn.execute(_renew, {"id": key_id, "old": old, "new": new})


_used = update(api_key).where(api_key.c.key_id == bindparam("id")).values(used_ms=bindparam("now"))


def api_keys_used(conn: Connection, used: Mapping[str, int]) -> None:
    """When each of these keys was last used."""
    if used:
        conn.execute(_used, [{"id": key_id, "now": at_ms} for key_id, at_ms in sorted(used.items())])


_leaked = (
    update(api_key)
    .where(api_key.c.key_id == bindparam("id"), api_key.c.leaked_ms.is_(None))
    .values(leaked_ms=bindparam("now"))
)


def flag_leaked(conn: Connection, now_ms: int, key_id: str) -> bool:
    """The key came where keys leak; gives whether that is news."""
    return conn.execute(_leaked, {"id": key_id, "now": now_ms}).rowcount == 1


_revoked = select(api_key.c.key_id).where(api_key.c.revoked_ms >= bindparam("since"))


def revoked_since(conn: Connection, since_ms: int) -> set[str]:
    """Ids of the keys that were revoked since then, of all apps."""
    return set(conn.execute(_revoked, {"since": since_ms}).scalars())


def revoke_api_key(conn: Connection, now_ms: int, *, app_id: str, key_id: str) -> bool:
    """Whether there was such a key that was not revoked."""
    c = api_key.c
    changed = conn.execute(
        update(api_key).where(c.app_id == app_id, c.key_id == key_id, c.revoked_ms.is_(None)).values(revoked_ms=now_ms)
    )
    return changed.rowcount == 1
