"""Rows of devices: who they are, and the numbers up to which each has got, or was told."""

from collections.abc import Iterable, Sequence
from itertools import compress
from operator import ne
from typing import Any

from msgspec.structs import astuple
from sqlalchemy import Connection, Select, bindparam, or_, select

from relay.model import Device, DeviceKey, DeviceState, UserKey
from relay.store.schema.devices import device
from relay.store.sql import as_list, by_app, device_params, in_list, insert_rows, many_rows, per_dialect, update_rows

FIELDS = Device.__struct_fields__
_columns = [device.c[name] for name in FIELDS]
_STATES = {str(state): state for state in DeviceState}
_STATE_AT = FIELDS.index("state")


def device_of(row: Sequence[Any]) -> Device:
    """From the columns of FIELDS."""
    values = list(row)
    values[_STATE_AT] = _STATES[values[_STATE_AT]]
    return Device(*values)


def _of_users(sqlite: bool) -> Select[Any]:
    return (
        select(*_columns)
        .where(device.c.app_id == bindparam("app"), in_list(device.c.user_id, "users", sqlite=sqlite))
        .order_by(device.c.user_id, device.c.device_id)
    )


_there = per_dialect(lambda sqlite: _of_users(sqlite).where(device.c.state != "gone"))
_gone = per_dialect(lambda sqlite: _of_users(sqlite).where(device.c.state == "gone"))


def devices_of(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, list[Device]]:
    """All devices of these users that are not gone; every user has an entry."""
    return _read(conn, keys, _there(conn))


def gone_devices_of(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, list[Device]]:
    """Devices of these users that are no more, for looking back; every user has an entry."""
    return _read(conn, keys, _gone(conn))


@per_dialect
def _acked(sqlite: bool) -> Select[Any]:
    c = device.c
    return select(c.user_id, c.device_id, c.acked_seq).where(
        c.app_id == bindparam("app"), in_list(c.user_id, "users", sqlite=sqlite), c.state != "gone"
    )


def acked_of(conn: Connection, keys: Iterable[UserKey]) -> dict[DeviceKey, int]:
    """Up to where each device of these users has acked, of those that are not gone."""
    return {
        DeviceKey(app_id, user_id, device_id): acked_seq
        for app_id, users in by_app(keys).items()
        for user_id, device_id, acked_seq in many_rows(
            conn, _acked(conn), {"app": app_id, "users": as_list(conn, users)}
        )
    }


def _read(conn: Connection, keys: Iterable[UserKey], statement: Select[Any]) -> dict[UserKey, list[Device]]:
    found: dict[UserKey, list[Device]] = {key: [] for key in keys}
    for app_id, users in by_app(found).items():
        for row in many_rows(conn, statement, {"app": app_id, "users": as_list(conn, users)}):
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


def insert_device(conn: Connection, new: Device) -> None:
    insert_rows(conn, device, [{name: _plain(getattr(new, name)) for name in FIELDS}])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, DeviceState) else value


def save_devices(conn: Connection, changes: Sequence[tuple[Device, Device]]) -> None:
    """Writes what differs between the rows as read and as they should be; one statement per set of changed columns."""
    shapes: dict[tuple[str, ...], list[list[Any]]] = {}
    for old, new in changes:
        before, after = astuple(old), astuple(new)
        differs = list(map(ne, before, after))
        if names := tuple(compress(FIELDS, differs)):
            values = map(_plain, compress(after, differs))
            shapes.setdefault(names, []).append([new.app_id, new.user_id, new.device_id, *values])
    key = DeviceKey._fields
    for names, rows in shapes.items():
        update_rows(conn, device, key + names, rows, key=key, set_={name: f"v.{name}" for name in names})


_online = (
    select(*_columns)
    .where(
        device.c.online_since_ms.is_not(None),
        or_(device.c.offline_since_ms.is_(None), device.c.offline_told == 0),
        device.c.state != "gone",
    )
    .order_by(device.c.app_id, device.c.user_id, device.c.device_id)
)


_online_at = _online.where(device.c.node_id.in_(bindparam("nodes", expanding=True)))


def online_devices(conn: Connection) -> list[Device]:
    """Everyone who is online as far as the backend was told: what a starting relay must grant a fresh lease."""
    return [device_of(row) for row in conn.execute(_online).all()]


def online_at(conn: Connection, nodes: Iterable[str]) -> list[Device]:
    """Those of them whose last word came to one of these nodes."""
    return [device_of(row) for row in conn.execute(_online_at, {"nodes": sorted(nodes)}).all()]


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
