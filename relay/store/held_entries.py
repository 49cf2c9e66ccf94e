"""Rows of entries that a device passed without having them in full: what it is to get again, once it can show it."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select, tuple_, update

from relay.model import DeviceKey, UserKey
from relay.store.ack_ranges import set_ack_ranges
from relay.store.schema.devices import device_held
from relay.store.sql import as_list, by_app, device_params, in_list, insert_missing, per_dialect

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
