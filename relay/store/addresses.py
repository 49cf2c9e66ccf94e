"""Rows of addresses: where vendors reach devices, and whose a token is."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select, text, update

from relay.model import Address, DeviceKey, UserKey
from relay.store.schema.devices import address, address_move
from relay.store.sql import as_list, by_app, device_params, in_list, insert_rows, many_rows, per_dialect

MOVES_KEEP_MS = 86_400_000
_ADDRESS = Address.__struct_fields__


@per_dialect
def _addresses(sqlite: bool) -> Select[Any]:
    c = address.c
    return select(c.user_id, c.device_id, *(c[name] for name in _ADDRESS)).where(
        c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite)
    )


def addresses_of(conn: Connection, keys: Iterable[UserKey]) -> dict[DeviceKey, list[Address]]:
    """Addresses of all devices of these users, in order of preference."""
    found: dict[DeviceKey, list[Address]] = {}
    for app_id, users in by_app(keys).items():
        rows = many_rows(conn, _addresses(conn), {"app": app_id, "users": as_list(conn, users)})
        for user_id, device_id, *rest in rows:
            found.setdefault(DeviceKey(app_id, user_id, device_id), []).append(Address(*rest))
    for some in found.values():
        if len(some) > 1:
            some.sort(key=attrgetter("preference"))
    return found


_some = select(address.c.app_id, address.c.user_id, address.c.device_id, *(address.c[name] for name in _ADDRESS)).limit(
    bindparam("count")
)


def some_of_all(conn: Connection, count: int) -> list[tuple[DeviceKey, Address]]:
    """So many addresses, if there are, whichever come first."""
    return [(DeviceKey(*row[:3]), Address(*row[3:])) for row in conn.execute(_some, {"count": count})]


@per_dialect
def _active(sqlite: bool) -> Select[Any]:
    c = address.c
    return select(c.user_id, c.device_id, c.account, c.token_hash).where(
        c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite), c.state == "active"
    )


def active_of(conn: Connection, keys: Iterable[UserKey]) -> set[tuple[DeviceKey, str, bytes]]:
    """The devices of these users, each with account and token's hash of every active address that it has."""
    return {
        (DeviceKey(app_id, user_id, device_id), account, token_hash)
        for app_id, users in by_app(keys).items()
        for user_id, device_id, account, token_hash in many_rows(
            conn, _active(conn), {"app": app_id, "users": as_list(conn, users)}
        )
    }


_address_here = (
    address.c.app_id == bindparam("app"),
    address.c.user_id == bindparam("user"),
    address.c.device_id == bindparam("device"),
)
_drop_addresses = delete(address).where(*_address_here)


def set_addresses(conn: Connection, key: DeviceKey, addresses: Iterable[Address]) -> None:
    """Replaces a device's addresses. Owners of the same tokens must have been dealt with before (`owners_of`)."""
    conn.execute(_drop_addresses, device_params(key))
    head = key._asdict()
    insert_rows(conn, address, [head | {name: getattr(one, name) for name in _ADDRESS} for one in addresses])


_set_state = (
    update(address)
    .where(*_address_here, address.c.account == bindparam("of"), address.c.token_hash == bindparam("hash"))
    .values(state=bindparam("to"))
)


def set_address_state(conn: Connection, key: DeviceKey, *, account: str, token_hash: bytes, state: str) -> None:
    """For the vendor's token with this hash alone."""
    conn.execute(_set_state, device_params(key) | {"of": account, "hash": token_hash, "to": state})


_set_failing = (
    update(address)
    .where(*_address_here, address.c.account == bindparam("of"), address.c.token_hash == bindparam("hash"))
    .values(failures=bindparam("times"), failing_since_ms=bindparam("since"))
)


def set_address_failing(
    conn: Connection, key: DeviceKey, *, account: str, token_hash: bytes, failures: int, since_ms: int | None
) -> None:
    """How often in a row it failed, and since when. A new registration counts from nothing."""
    found = {"of": account, "hash": token_hash, "times": failures, "since": since_ms}
    conn.execute(_set_failing, device_params(key) | found)


_note_pushed = (
    update(address)
    .where(*_address_here, address.c.account == bindparam("of"), address.c.token_hash == bindparam("hash"))
    .values(pushed_ms=bindparam("now"))
)


def note_pushed(conn: Connection, now_ms: int, key: DeviceKey, *, account: str, token_hash: bytes) -> None:
    """A push to this stale address was taken."""
    conn.execute(_note_pushed, device_params(key) | {"of": account, "hash": token_hash, "now": now_ms})


_share = (
    update(address)
    .where(*_address_here, address.c.account == bindparam("of"), address.c.token_hash == bindparam("hash"))
    .values(shared=1)
)


def share_address(conn: Connection, key: DeviceKey, *, account: str, token_hash: bytes) -> None:
    """Two users of one installation: the token reaches both, and each push names its user."""
    conn.execute(_share, device_params(key) | {"of": account, "hash": token_hash})


_owners = select(address.c.user_id, address.c.device_id, address.c.shared, address.c.registered_ms).where(
    address.c.app_id == bindparam("app"),
    address.c.account == bindparam("of"),
    address.c.token_hash == bindparam("hash"),
    address.c.state == "active",
)


def owners_of(conn: Connection, app_id: str, *, account: str, token_hash: bytes) -> list[DeviceKey]:
    """The devices that hold this token at present: one, unless it is shared."""
    rows = conn.execute(_owners, {"app": app_id, "of": account, "hash": token_hash})
    return [DeviceKey(app_id, row.user_id, row.device_id) for row in rows]


_move = text(
    "INSERT INTO address_move (app_id, account, token_hash, since_ms, moves) VALUES (:app, :of, :hash, :now, 1) "
    "ON CONFLICT (app_id, account, token_hash) DO UPDATE SET "
    "moves = CASE WHEN address_move.since_ms > :day_ago THEN address_move.moves + 1 ELSE 1 END, "
    "since_ms = CASE WHEN address_move.since_ms > :day_ago THEN address_move.since_ms ELSE :now END "
    "RETURNING moves"
)


def count_move(conn: Connection, now_ms: int, app_id: str, *, account: str, token_hash: bytes) -> int:
    """The token goes to another device: the how manieth time within a day of the first."""
    params = {"app": app_id, "of": account, "hash": token_hash, "now": now_ms, "day_ago": now_ms - MOVES_KEEP_MS}
    return int(conn.execute(_move, params).scalar_one())


_forget_moves = delete(address_move).where(address_move.c.since_ms <= bindparam("day_ago"))


def forget_moves(conn: Connection, now_ms: int) -> None:
    """Removes counts of moves whose day is over."""
    conn.execute(_forget_moves, {"day_ago": now_ms - MOVES_KEEP_MS})
