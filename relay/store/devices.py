"""Rows of devices: their numbers, selective acks, held entries, addresses."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, or_, select, text, tuple_, update

from relay.model import Address, Device, DeviceKey, DeviceState, UserKey
from relay.store.schema.devices import address, address_move, device, device_ack, device_held
from relay.store.sql import as_list, by_app, device_params, in_list, insert_missing, insert_rows, per_dialect

MOVES_KEEP_MS = 86_400_000
FIELDS = Device.__struct_fields__
_columns = [device.c[name] for name in FIELDS]
_STATES = {str(state): state for state in DeviceState}
_STATE_AT = FIELDS.index("state")


def device_of(row: Sequence[Any]) -> Device:
    """From the columns of FIELDS."""
    values = list(row)
    values[_STATE_AT] = _STATES[values[_STATE_AT]]
    return Device(*values)


@per_dialect
def _of_users(sqlite: bool) -> Select[Any]:
    return (
        select(*_columns)
        .where(
            device.c.app_id == bindparam("app"),
            in_list(device.c.user_id, "users", sqlite=sqlite),
            device.c.state != "gone",
        )
        .order_by(device.c.user_id, device.c.device_id)
    )


def devices_of(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, list[Device]]:
    """All devices of these users that are not gone; every user has an entry."""
    found: dict[UserKey, list[Device]] = {key: [] for key in keys}
    for app_id, users in by_app(found).items():
        for row in conn.execute(_of_users(conn), {"app": app_id, "users": as_list(conn, users)}).all():
            one = device_of(row)
            found[UserKey(app_id, one.user_id)].append(one)
    return found


_here = (
    device.c.app_id == bindparam("app"),
    device.c.user_id == bindparam("user"),
    device.c.device_id == bindparam("device"),
)
_one = select(*_columns).where(*_here)


def device_row(conn: Connection, key: DeviceKey) -> Device | None:
    """The device, gone or not."""
    row = conn.execute(_one, device_params(key)).first()
    return None if row is None else device_of(row)


_all_of_user = select(*_columns).where(device.c.app_id == bindparam("app"), device.c.user_id == bindparam("user"))


def gone_devices(conn: Connection, key: UserKey) -> list[Device]:
    """Devices that are no more, for looking back."""
    rows = conn.execute(_all_of_user, {"app": key.app_id, "user": key.user_id}).all()
    return [one for one in map(device_of, rows) if one.state is DeviceState.GONE]


def insert_device(conn: Connection, new: Device) -> None:
    insert_rows(conn, device, [{name: _plain(getattr(new, name)) for name in FIELDS}])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, DeviceState) else value


@lru_cache(maxsize=512)
def _update(names: tuple[str, ...]) -> Any:
    return update(device).where(*_here).values({name: bindparam(f"new_{name}") for name in names})


def save_devices(conn: Connection, changes: Sequence[tuple[Device, Device]]) -> None:
    """Writes what differs between the rows as read and as they should be; one statement per set of changed columns."""
    shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for old, new in changes:
        names = tuple(name for name in FIELDS if getattr(old, name) != getattr(new, name))
        if names:
            values = {f"new_{name}": _plain(getattr(new, name)) for name in names}
            shapes.setdefault(names, []).append(device_params(new.key) | values)
    for names, rows in shapes.items():
        conn.execute(_update(names), rows)


_online = (
    select(*_columns)
    .where(
        device.c.online_since_ms.is_not(None),
        or_(device.c.offline_since_ms.is_(None), device.c.offline_told == 0),
        device.c.state != "gone",
    )
    .order_by(device.c.app_id, device.c.user_id, device.c.device_id)
)


def online_devices(conn: Connection) -> list[Device]:
    """Everyone who is online as far as the backend was told: what a starting relay must grant a fresh lease."""
    return [device_of(row) for row in conn.execute(_online).all()]


_silent = (
    select(*_columns)
    .where(
        device.c.state == bindparam("state"),
        device.c.contact_ms <= bindparam("before"),
        or_(device.c.online_since_ms.is_(None), device.c.offline_since_ms.is_not(None)),
    )
    .order_by(device.c.contact_ms)
    .limit(bindparam("count"))
)


def silent_since(conn: Connection, *, state: DeviceState, before_ms: int, limit: int) -> list[Device]:
    """Devices in `state` without contact since then."""
    params = {"state": str(state), "before": before_ms, "count": limit}
    return [device_of(row) for row in conn.execute(_silent, params).all()]


# --- selective acks, held entries -------------------------------------------------------------------------------------


@per_dialect
def _acks(sqlite: bool) -> Select[Any]:
    c = device_ack.c
    return (
        select(c.user_id, c.device_id, c.from_seq, c.to_seq, c.kind)
        .where(c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite))
        .order_by(c.user_id, c.device_id, c.from_seq)
    )


Ranges = tuple[Sequence[tuple[int, int]], ...]  # by kind: held, offered again, over before they were had


def ack_ranges(conn: Connection, keys: Iterable[UserKey]) -> dict[DeviceKey, Ranges]:
    """Ranges acked beyond `acked_seq`, and those that were over, by device: few have any."""
    found: dict[DeviceKey, tuple[list[tuple[int, int]], ...]] = {}
    for app_id, users in by_app(keys).items():
        for row in conn.execute(_acks(conn), {"app": app_id, "users": as_list(conn, users)}).all():
            kinds = found.setdefault(DeviceKey(app_id, row.user_id, row.device_id), ([], [], []))
            kinds[row.kind].append((row.from_seq, row.to_seq))
    return dict(found)


_drop_acks = delete(device_ack).where(
    device_ack.c.app_id == bindparam("app"),
    device_ack.c.user_id == bindparam("user"),
    device_ack.c.device_id == bindparam("device"),
)


def set_ack_ranges(conn: Connection, key: DeviceKey, ranges: Ranges) -> None:
    """Replaces all ranges of the device."""
    conn.execute(_drop_acks, device_params(key))
    head = key._asdict()
    rows = [
        head | {"from_seq": low, "to_seq": high, "kind": kind} for kind, some in enumerate(ranges) for low, high in some
    ]
    insert_missing(conn, device_ack, rows)


_held_here = (
    device_held.c.app_id == bindparam("app"),
    device_held.c.user_id == bindparam("user"),
    device_held.c.device_id == bindparam("device"),
)
_held = select(device_held.c.seq, device_held.c.why, device_held.c.tries).where(*_held_here).order_by(device_held.c.seq)


def held_rows(conn: Connection, key: DeviceKey) -> list[tuple[int, str, int]]:
    """(seq, why, tries) of entries that the device passed without having them in full."""
    return [(row.seq, row.why, row.tries) for row in conn.execute(_held, device_params(key)).all()]


def add_held(conn: Connection, key: DeviceKey, rows: Iterable[tuple[int, str]]) -> None:
    """Notes (seq, why) of entries that the device passed without having them in full; a number that is known stays."""
    head = key._asdict()
    insert_missing(conn, device_held, [head | {"seq": seq, "why": why, "tries": 0} for seq, why in rows])


_drop_held = delete(device_held).where(*_held_here, device_held.c.seq == bindparam("seq"))


def drop_held(conn: Connection, key: DeviceKey, seqs: Iterable[int]) -> None:
    """These came in full, or need not any more."""
    rows = [device_params(key) | {"seq": seq} for seq in seqs]
    if rows:
        conn.execute(_drop_held, rows)


_set_tries = update(device_held).where(*_held_here, device_held.c.seq == bindparam("s")).values(tries=bindparam("n"))


def set_held_tries(conn: Connection, key: DeviceKey, *, seq: int, tries: int) -> None:
    """How many versions of the app could not read it."""
    conn.execute(_set_tries, device_params(key) | {"s": seq, "n": tries})


_unshown = select(device_held.c.device_id, device_held.c.seq, device_held.c.why).where(
    device_held.c.app_id == bindparam("app"),
    device_held.c.user_id == bindparam("user"),
    device_held.c.why != "fallback",
)


def unshown_of_user(conn: Connection, key: UserKey) -> dict[int, dict[str, str]]:
    """seq -> devices that passed it without being able to show it in any form, and why."""
    found: dict[int, dict[str, str]] = {}
    for row in conn.execute(_unshown, {"app": key.app_id, "user": key.user_id}).all():
        found.setdefault(row.seq, {})[row.device_id] = row.why
    return found


@per_dialect
def _holders(sqlite: bool) -> Select[Any]:
    c = device_held.c
    return select(c.user_id).where(c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite)).distinct()


def holders(conn: Connection, keys: Iterable[UserKey]) -> set[UserKey]:
    """Those of these users who have a held row."""
    return {
        UserKey(app_id, user_id)
        for app_id, users in by_app(keys).items()
        for user_id in conn.execute(_holders(conn), {"app": app_id, "users": as_list(conn, users)}).scalars().all()
    }


_held_seqs = select(device_held.c.seq).where(
    device_held.c.app_id == bindparam("app"), device_held.c.user_id == bindparam("user"), device_held.c.why != "failed"
)
_drop_below = delete(device_held).where(
    device_held.c.app_id == bindparam("app"),
    device_held.c.user_id == bindparam("user"),
    device_held.c.seq <= bindparam("floor"),
)
_drop_all_held = delete(device_held).where(*_held_here)


def drop_held_below(conn: Connection, key: UserKey, *, floor: int) -> None:
    """Forgets what devices passed and is not kept any more."""
    conn.execute(_drop_below, {"app": key.app_id, "user": key.user_id, "floor": floor})


def forget_reading(conn: Connection, key: DeviceKey) -> None:
    """Forgets what a device of this name acked and passed in an earlier life."""
    conn.execute(_drop_all_held, device_params(key))
    set_ack_ranges(conn, key, ())


def holding_after(conn: Connection, after: DeviceKey | None, *, limit: int) -> list[DeviceKey]:
    """Devices that have passed something without its full form, in key order."""
    c = device_held.c
    columns = (c.app_id, c.user_id, c.device_id)
    statement = select(*columns).where(c.why.not_in(("released", "failed"))).distinct().order_by(*columns).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*columns) > tuple_(*after))
    return [DeviceKey(*row) for row in conn.execute(statement).all()]


def held_seqs(conn: Connection, key: UserKey) -> set[int]:
    """Numbers that some device passed without the full form: they keep the floor."""
    return set(conn.execute(_held_seqs, {"app": key.app_id, "user": key.user_id}).scalars())


# --- addresses --------------------------------------------------------------------------------------------------------

_ADDRESS = tuple(field.name for field in fields(Address))


@per_dialect
def _addresses(sqlite: bool) -> Select[Any]:
    c = address.c
    return (
        select(c.user_id, c.device_id, *(c[name] for name in _ADDRESS))
        .where(c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite))
        .order_by(c.user_id, c.device_id, c.preference)
    )


def addresses_of(conn: Connection, keys: Iterable[UserKey]) -> dict[DeviceKey, list[Address]]:
    """Addresses of all devices of these users, in order of preference."""
    found: dict[DeviceKey, list[Address]] = {}
    for app_id, users in by_app(keys).items():
        for user_id, device_id, *rest in conn.execute(_addresses(conn), {"app": app_id, "users": as_list(conn, users)}):
            one = Address(**dict(zip(_ADDRESS, rest, strict=True)))
            found.setdefault(DeviceKey(app_id, user_id, device_id), []).append(one)
    return found


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
