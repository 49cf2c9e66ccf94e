"""Rows of selective acks: what devices have beyond the number up to which they have everything."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select

from relay.model import DeviceKey, UserKey
from relay.store.schema.devices import device_ack
from relay.store.sql import as_list, by_app, device_params, in_list, insert_missing, per_dialect


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
