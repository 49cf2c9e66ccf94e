"""Rows of webhook endpoints: where the backend wants to be told, and with which secrets."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, select, update

from relay.errors import Missing
from relay.store.schema.apps import app
from relay.store.schema.webhooks import endpoint
from relay.store.sql import among, insert_rows, key_list, per_dialect

a, e = app.c, endpoint.c

LIVE = ("active", "failing")


class EndpointKey(NamedTuple):
    """Sorting these gives the order in which endpoints are locked."""

    app_id: str
    endpoint_id: str


class DeliveryKey(NamedTuple):
    """One event for one endpoint."""

    app_id: str
    endpoint_id: str
    event_id: str

    @property
    def endpoint(self) -> EndpointKey:
        return EndpointKey(self.app_id, self.endpoint_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A backend's URL, without its secrets."""

    key: EndpointKey
    url: str
    description: str | None
    types: tuple[str, ...]
    state: str
    failing_since_ms: int | None
    old_secret_until_ms: int | None
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What only the key ring can read: the secret, the one before it while that is still good, the app's headers."""

    secret: bytes
    old_secret: bytes | None
    headers: bytes | None


def lock_app(conn: Connection, app_id: str) -> int:
    """Takes the lock of the app's row and gives the number of its newest event. Raises Missing."""
    head: int | None = conn.execute(
        select(a.event_head).where(a.app_id == app_id).with_for_update(key_share=True)
    ).scalar_one_or_none()
    if head is None:
        raise Missing("There is no such app.")
    return head


_endpoint_columns = (
    e.app_id,
    e.endpoint_id,
    e.url,
    e.description,
    e.types,
    e.state,
    e.failing_since_ms,
    e.old_secret_until_ms,
    e.created_ms,
)


def _endpoint(row: Any) -> Endpoint:
    return Endpoint(
        key=EndpointKey(row.app_id, row.endpoint_id),
        url=row.url,
        description=row.description,
        types=tuple(msgspec.json.decode(row.types)),
        state=row.state,
        failing_since_ms=row.failing_since_ms,
        old_secret_until_ms=row.old_secret_until_ms,
        created_ms=row.created_ms,
    )


def _is(key: EndpointKey) -> ColumnElement[bool]:
    return and_(e.app_id == key.app_id, e.endpoint_id == key.endpoint_id, e.state != "deleted")


def create_endpoint(
    conn: Connection,
    now_ms: int,
    key: EndpointKey,
    *,
    url: str,
    description: str | None,
    types: Sequence[str],
    secret_sealed: bytes,
    headers_sealed: bytes | None,
) -> Endpoint:
    """Writes a new endpoint. Take the app's lock first, and count: `endpoints_of`."""
    row = {
        "app_id": key.app_id,
        "endpoint_id": key.endpoint_id,
        "url": url,
        "description": description,
        "types": msgspec.json.encode(list(types)).decode(),
        "secret_sealed": secret_sealed,
        "old_secret_sealed": None,
        "old_secret_until_ms": None,
        "headers_sealed": headers_sealed,
        "state": "active",
        "failing_since_ms": None,
        "created_ms": now_ms,
    }
    insert_rows(conn, endpoint, [row])
    return Endpoint(
        key=key,
        url=url,
        description=description,
        types=tuple(types),
        state="active",
        failing_since_ms=None,
        old_secret_until_ms=None,
        created_ms=now_ms,
    )


def endpoints_of(conn: Connection, app_id: str) -> list[Endpoint]:
    """All of an app's endpoints, oldest first."""
    rows = conn.execute(
        select(*_endpoint_columns).where(e.app_id == app_id, e.state != "deleted").order_by(e.created_ms, e.endpoint_id)
    )
    return [_endpoint(row) for row in rows]


def get_endpoint(conn: Connection, key: EndpointKey, *, lock: bool = False) -> Endpoint:
    """Raises Missing."""
    statement = select(*_endpoint_columns).where(_is(key))
    row = conn.execute(statement.with_for_update(key_share=True) if lock else statement).one_or_none()
    if row is None:
        raise Missing("There is no such endpoint.")
    return _endpoint(row)


def sealed_of(conn: Connection, now_ms: int, key: EndpointKey) -> Sealed:
    """Raises Missing."""
    columns = (e.secret_sealed, e.old_secret_sealed, e.old_secret_until_ms, e.headers_sealed)
    row = conn.execute(select(*columns).where(_is(key))).one_or_none()
    if row is None:
        raise Missing("There is no such endpoint.")
    return sealed_secrets(row, now_ms)


def sealed_secrets(row: Any, now_ms: int) -> Sealed:
    """From a row with the secrets of an endpoint: the old one only while it still counts."""
    old_counts = row.old_secret_until_ms is not None and row.old_secret_until_ms > now_ms
    return Sealed(
        secret=row.secret_sealed, old_secret=row.old_secret_sealed if old_counts else None, headers=row.headers_sealed
    )


def change_endpoint(conn: Connection, key: EndpointKey, changes: Mapping[str, Any]) -> None:
    """Sets columns: url, description, types (as a list), headers_sealed."""
    values = dict(changes)
    if "types" in values:
        values["types"] = msgspec.json.encode(list(values["types"])).decode()
    if values:
        conn.execute(update(endpoint).where(_is(key)).values(**values))


def rotate_secret(conn: Connection, key: EndpointKey, *, secret_sealed: bytes, old_until_ms: int) -> None:
    """A new secret; the one before it signs too, until then. One that was already old is forgotten."""
    conn.execute(
        update(endpoint)
        .where(_is(key))
        .values(secret_sealed=secret_sealed, old_secret_sealed=e.secret_sealed, old_secret_until_ms=old_until_ms)
    )


def delete_endpoint(conn: Connection, key: EndpointKey) -> None:
    """Forgets URL and secrets at once; its deliveries go bit by bit (`sweep_deleted`). Raises Missing.

    Under the app's lock: no sequencer is then making deliveries for it.
    """
    lock_app(conn, key.app_id)
    gone = {
        "state": "deleted",
        "url": "",
        "description": None,
        "secret_sealed": b"",
        "old_secret_sealed": None,
        "headers_sealed": None,
    }
    if conn.execute(update(endpoint).where(_is(key)).values(**gone)).rowcount != 1:
        raise Missing("There is no such endpoint.")


def _health_of(*, sqlite: bool) -> Select[Any]:
    return (
        select(e.app_id, e.endpoint_id, e.state, e.failing_since_ms)
        .where(among(e.app_id, e.endpoint_id, sqlite=sqlite), e.state != "deleted")
        .order_by(e.app_id, e.endpoint_id)
    )


@per_dialect
def _health(sqlite: bool) -> Select[Any]:
    return _health_of(sqlite=sqlite)


@per_dialect
def _health_locked(sqlite: bool) -> Select[Any]:
    return _health_of(sqlite=sqlite).with_for_update(key_share=True)


def health_of(
    conn: Connection, keys: Collection[EndpointKey], *, lock: bool = False
) -> dict[EndpointKey, tuple[str, int | None]]:
    """(state, failing_since_ms) of endpoints, in the order of their keys; deleted ones are left out."""
    if not keys:
        return {}
    statement = _health_locked(conn) if lock else _health(conn)
    rows = conn.execute(statement, {"keys": key_list(conn, keys)})
    return {EndpointKey(row.app_id, row.endpoint_id): (row.state, row.failing_since_ms) for row in rows}


_set_health = (
    update(endpoint)
    .where(e.app_id == bindparam("app"), e.endpoint_id == bindparam("endpoint"), e.state != "deleted")
    .values(state=bindparam("to"), failing_since_ms=bindparam("since"))
)


def set_health(conn: Connection, key: EndpointKey, *, state: str, failing_since_ms: int | None) -> None:
    named = {"app": key.app_id, "endpoint": key.endpoint_id}
    conn.execute(_set_health, named | {"to": state, "since": failing_since_ms})


def forget_old_secrets(conn: Connection, now_ms: int) -> int:
    """Removes secrets whose time after a rotation is over."""
    over: Iterable[ColumnElement[bool]] = (e.old_secret_sealed.is_not(None), e.old_secret_until_ms <= now_ms)
    return conn.execute(update(endpoint).where(*over).values(old_secret_sealed=None, old_secret_until_ms=None)).rowcount
