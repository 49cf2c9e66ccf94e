"""Rows of upgrades: one for each change of a device's app version, and what came of it (protocol 10.4)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, literal_column, or_, select, update

from relay.model import DeviceKey, UserKey
from relay.store.schema.devices import device, upgrade
from relay.store.schema.inboxes import inbox_entry
from relay.store.sql import device_params, insert_missing

u, e = upgrade.c, inbox_entry.c
VERIFIED = ("ok", "repaired")
REPAIRING = "repairing"


class Upgrade(NamedTuple):
    """A change of a device's app version, and what comparisons have shown of it."""

    upgrade_id: str
    device: DeviceKey
    from_version: str | None
    to_version: str | None
    at_ms: int
    verify_state: str | None
    missing_found: int | None
    caught_up_ms: int | None


_columns = (
    u.upgrade_id,
    u.app_id,
    u.user_id,
    u.device_id,
    u.from_version,
    u.to_version,
    u.at_ms,
    u.verify_state,
    u.missing_found,
    u.caught_up_ms,
)


def _upgrade(row: Any) -> Upgrade:
    return Upgrade(row[0], DeviceKey(row[1], row[2], row[3]), *row[4:])


def add_upgrade(conn: Connection, row: Mapping[str, Any]) -> None:
    """Writes an upgrade; the same one twice is one."""
    insert_missing(conn, upgrade, [row])


_of_device = (
    u.app_id == bindparam("app"),
    u.user_id == bindparam("user"),
    u.device_id == bindparam("device"),
)
_one = select(*_columns).where(*_of_device, u.upgrade_id == bindparam("id"))
_newest = select(*_columns).where(*_of_device).order_by(u.at_ms.desc(), u.upgrade_id).limit(1)


def upgrade_of(conn: Connection, key: DeviceKey, upgrade_id: str | None) -> Upgrade | None:
    """One upgrade of this device; None as id: its newest."""
    params = device_params(key)
    row = conn.execute(_newest if upgrade_id is None else _one, params | ({"id": upgrade_id} if upgrade_id else {}))
    found = row.first()
    return None if found is None else _upgrade(found)


def set_upgrade(conn: Connection, one: Upgrade) -> None:
    """Writes what is known of it by now."""
    conn.execute(
        update(upgrade)
        .where(
            u.app_id == one.device.app_id,
            u.user_id == one.device.user_id,
            u.device_id == one.device.device_id,
            u.upgrade_id == one.upgrade_id,
        )
        .values(verify_state=one.verify_state, missing_found=one.missing_found, caught_up_ms=one.caught_up_ms)
    )


_unverified = or_(u.verify_state.is_(None), u.verify_state.not_in(VERIFIED))
_newest_unverified = select(func.max(u.at_ms)).where(
    u.app_id == bindparam("app"), u.user_id == bindparam("user"), _unverified
)


def newest_unverified_ms(conn: Connection, key: UserKey) -> int | None:
    """When the last upgrade was of which it is not known that everything arrived."""
    found = conn.execute(_newest_unverified, {"app": key.app_id, "user": key.user_id}).scalar()
    return None if found is None else int(found)


_overdue = (
    select(*_columns)
    .where(
        u.app_id == bindparam("app"),
        u.at_ms <= bindparam("before"),
        u.at_ms > bindparam("after"),
        or_(u.verify_state.is_(None), u.verify_state == REPAIRING),
    )
    .order_by(u.at_ms)
    .limit(bindparam("count"))
)


def overdue(conn: Connection, app_id: str, *, after_ms: int, before_ms: int, limit: int) -> list[Upgrade]:
    """Upgrades of that time whose comparison has not come to an end."""
    params = {"app": app_id, "before": before_ms, "after": after_ms, "count": limit}
    return [_upgrade(row) for row in conn.execute(_overdue, params).all()]


class Outcome(NamedTuple):
    """What came of one upgrade. `silent`: it is or was there, is owed something for long, and acked nothing since."""

    version: str
    verdict: str
    reason: str | None
    verify_state: str | None
    missing_found: int
    caught_up_ms: int | None
    at_ms: int
    silent: bool


_silent = device.c.progress_ms <= u.at_ms
# A device that had everything, and went, is not asked for an ack of what came afterwards.
_asked = or_(u.verdict != literal_column("'resume'"), device.c.offline_since_ms.is_(None))
_owed = exists().where(
    e.app_id == device.c.app_id,
    e.user_id == device.c.user_id,
    e.seq == device.c.acked_seq + 1,
    e.accepted_ms <= bindparam("long"),
)
_outcomes = (
    select(
        u.to_version,
        u.verdict,
        u.reason,
        u.verify_state,
        func.coalesce(u.missing_found, 0),
        u.caught_up_ms,
        u.at_ms,
        and_(_silent, _asked, _owed).label("silent"),
    )
    .join(
        device,
        (device.c.app_id == u.app_id) & (device.c.user_id == u.user_id) & (device.c.device_id == u.device_id),
    )
    .where(u.app_id == bindparam("app"), u.at_ms > bindparam("since"), u.to_version.is_not(None))
    .order_by(u.at_ms.desc(), u.upgrade_id)
    .limit(bindparam("count"))
)


def outcomes(conn: Connection, app_id: str, *, since_ms: int, owed_since_ms: int, limit: int) -> list[Outcome]:
    """Upgrades since then, the newest first, at most `limit`: a new version shows, however many came to the one before.

    `owed_since_ms`: from before that, what is owed counts.
    """
    params = {"app": app_id, "since": since_ms, "long": owed_since_ms, "count": limit}
    return [Outcome(*row) for row in conn.execute(_outcomes, params).all()]


KEPT_MS = 100 * 86_400_000  # longer than any report looks back, and than anything may be pinned for one
_FORGET = 500
_old = (
    select(u.user_id, u.device_id, u.upgrade_id)
    .where(u.app_id == bindparam("app"), u.at_ms <= bindparam("before"))
    .order_by(u.at_ms)
    .limit(_FORGET)
)
_forget = delete(upgrade).where(*_of_device, u.upgrade_id == bindparam("id"))


def forget(conn: Connection, now_ms: int, app_id: str) -> bool:
    """Removes upgrades that nobody asks for any more; gives whether there may be more."""
    rows = conn.execute(_old, {"app": app_id, "before": now_ms - KEPT_MS}).all()
    if rows:
        conn.execute(
            _forget, [{"app": app_id, "user": user, "device": device, "id": id_} for user, device, id_ in rows]
        )
    return len(rows) == _FORGET
