"""The data versions of devices: what must change before a device's inbox can look different to it. Many in one statement."""

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, literal_column, select

from relay.model import DeviceKey
from relay.store.schema.devices import device
from relay.store.schema.inboxes import inbox
from relay.store.schema.itself import store_meta
from relay.store.sql import as_list, in_list, many_rows, per_dialect


class Version(NamedTuple):
    """What a device is told of its inbox follows from this and from what it asks (protocol 8.3)."""

    store_epoch: str
    inbox_epoch: str
    head_seq: int
    schema: int | None
    session: int


_key = partial(tuple.__new__, DeviceKey)  # cheaper than to name each field
_version = partial(tuple.__new__, Version)


@per_dialect
def _versions(sqlite: bool) -> Select[Any]:
    owned = and_(inbox.c.app_id == device.c.app_id, inbox.c.user_id == device.c.user_id)
    return (
        select(
            device.c.user_id,
            device.c.device_id,
            select(store_meta.c.epoch).where(store_meta.c.id == literal_column("1")).scalar_subquery(),
            inbox.c.epoch,
            inbox.c.head_seq,
            device.c.schema,
            device.c.session,
        )
        .select_from(device.join(inbox, owned))
        .where(
            device.c.app_id == bindparam("app"),
            in_list(device.c.user_id, "users", sqlite=sqlite),
            device.c.state != literal_column("'gone'"),
        )
    )


def versions_of(conn: Connection, devices: Collection[DeviceKey]) -> dict[DeviceKey, Version]:
    """Of each of these devices that is not gone; of their users' other devices as well."""
    apps: dict[str, list[str]] = {}
    for app_id, user_id, _ in devices:
        apps.setdefault(app_id, []).append(user_id)
    return {
        _key((app_id, row[0], row[1])): _version(row[2:])
        for app_id, users in apps.items()
        for row in many_rows(conn, _versions(conn), {"app": app_id, "users": as_list(conn, users)})
    }
