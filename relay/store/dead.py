"""Pushes that will not be tried again: refused by the vendor, or resting because nobody can carry them.

The messages themselves are safe: they wait in the inbox for a sync. This is the list that an operator looks at.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, case, delete, literal, select, tuple_, union_all

from relay.model import DeviceKey
from relay.store.schema.devices import device
from relay.store.schema.push import push_dead, push_job
from relay.store.sql import as_list, by_app, device_params, in_list, per_dialect, upsert

QUARANTINED = "quarantined"
RESTS = ("no_address", "account_parked", QUARANTINED)  # of jobs: only an operator or the app can end these
REFUSED = "refused"
POISON = "poison"  # the verdict on what ended the process whenever it was handled
BEGIN: tuple[str, ...] = ("", "", "")  # the place before all of the list


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadPush:
    """One device that is not told of what it lacks, and why. `since_ms` is known of refused pushes only."""

    user_id: str
    device_id: str
    why: str  # refused, quarantined, no_address, account_parked
    since_ms: int | None = None
    account: str | None = None
    verdict: str | None = None
    vendor_code: str | None = None
    from_seq: int | None = None
    upto_seq: int | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """What the list is ordered by."""
        return self.user_id, self.device_id, self.why


_p, _j, _d = push_dead.c, push_job.c, device.c
_here = (_p.app_id == bindparam("app"), _p.user_id == bindparam("user"), _p.device_id == bindparam("device"))
_drop = delete(push_dead).where(*_here)


def put(conn: Connection, key: DeviceKey, row: Mapping[str, Any]) -> None:
    """A push that was given up: dead_ms, account, verdict, vendor_code, from_seq, upto_seq. The newest of a device stays."""
    values = key._asdict() | dict(row)
    names = ("dead_ms", "account", "verdict", "vendor_code", "from_seq", "upto_seq")
    upsert(conn, push_dead, [values], set_={name: f"excluded.{name}" for name in names})


def drop(conn: Connection, keys: Iterable[DeviceKey]) -> None:
    """These devices were told after all, or are to be tried again."""
    rows = [device_params(key) for key in keys]
    if rows:
        conn.execute(_drop, rows)


_its_device = (_d.app_id == _p.app_id, _d.user_id == _p.user_id, _d.device_id == _p.device_id)
_refused = (
    select(
        _p.user_id,
        _p.device_id,
        case((_p.verdict == POISON, QUARANTINED), else_=REFUSED).label("why"),
        _p.dead_ms,
        _p.account,
        _p.verdict,
        _p.vendor_code,
        _p.from_seq,
        _p.upto_seq,
    )
    .join(device, and_(*_its_device))
    .where(_p.app_id == bindparam("app"), _d.state != "gone", _d.acked_seq < _p.upto_seq)
)
_resting = (
    select(
        _j.user_id,
        _j.device_id,
        _j.reason.label("why"),
        literal(None).label("dead_ms"),
        literal(None).label("account"),
        literal(None).label("verdict"),
        literal(None).label("vendor_code"),
        literal(None).label("from_seq"),
        literal(None).label("upto_seq"),
    )
    .join(device, and_(_d.app_id == _j.app_id, _d.user_id == _j.user_id, _d.device_id == _j.device_id))
    .where(_j.app_id == bindparam("app"), _j.due_ms.is_(None), _j.reason.in_(RESTS), _d.state != "gone")
)


def is_listed(conn: Connection, key: DeviceKey, *, why: str | None = None) -> bool:
    """Whether this device is in the list, for this reason, or for any."""
    both = union_all(_refused, _resting).subquery()
    mine = select(literal(1)).where(both.c.user_id == key.user_id, both.c.device_id == key.device_id).limit(1)
    if why is not None:
        mine = mine.where(both.c.why == why)
    return conn.execute(mine, {"app": key.app_id}).first() is not None


def listed(
    conn: Connection, app_id: str, *, after: tuple[str, ...] = BEGIN, limit: int, why: str | None = None
) -> list[DeadPush]:
    """Rows after that (user, device, why), in order; a device may be there for two reasons."""
    both = union_all(_refused, _resting).subquery()
    place = (both.c.user_id, both.c.device_id, both.c.why)
    statement = select(both).where(tuple_(*place) > tuple_(*after)).order_by(*place).limit(limit)
    if why is not None:
        statement = statement.where(both.c.why == why)
    rows: Sequence[Any] = conn.execute(statement, {"app": app_id}).all()
    return [
        DeadPush(
            user_id=row.user_id,
            device_id=row.device_id,
            why=row.why,
            since_ms=row.dead_ms,
            account=row.account,
            verdict=row.verdict,
            vendor_code=row.vendor_code,
            from_seq=row.from_seq,
            upto_seq=row.upto_seq,
        )
        for row in rows
    ]


@per_dialect
def _begins(sqlite: bool) -> Select[Any]:
    return select(_p.user_id, _p.device_id, _p.from_seq).where(
        _p.app_id == bindparam("app"), in_list(_p.user_id, "users", sqlite=sqlite)
    )


def ranges(conn: Connection, keys: Sequence[DeviceKey]) -> dict[DeviceKey, int]:
    """Where the refused pushes of these devices begin."""
    found = {
        DeviceKey(app_id, row.user_id, row.device_id): int(row.from_seq)
        for app_id, users in by_app(key.user for key in keys).items()
        for row in conn.execute(_begins(conn), {"app": app_id, "users": as_list(conn, users)}).all()
    }
    return {key: found[key] for key in keys if key in found}


def forget(conn: Connection, before_ms: int) -> None:
    """What was given up before that goes: nothing it was about lives any more."""
    conn.execute(delete(push_dead).where(_p.dead_ms < before_ms))
