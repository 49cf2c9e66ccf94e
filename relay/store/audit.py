"""Bookkeeping that must always add up, recomputed from the rows (safety DUR-17).

Deliveries are derived, so what can be wrong is not a sum but a row: a number without an entry, an entry that ended and
was told to nobody, a device that has more than there is, a wish to push that nothing will ever wake.
"""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import Connection, Select, and_, bindparam, func, literal_column, or_, select

from relay.model import UserKey
from relay.store.schema.devices import device
from relay.store.schema.inboxes import inbox, inbox_entry
from relay.store.schema.push import push_job
from relay.store.sql import as_list, by_app, in_list, per_dialect

LATE_MS = 120_000  # a sweep that is so much behind does not keep up

i, e, d, j = inbox.c, inbox_entry.c, device.c, push_job.c


class Imbalance(StrEnum):
    """What does not add up for a user."""

    NUMBERING = "numbering"  # a number above the floor has no entry, or one too many
    UNREPORTED = "unreported"  # a message ended, and its sender was not told
    LATE = "late"  # a message is over, and still live long after
    CURSOR = "cursor"  # a device has passed what there is not, or fell behind its own past
    JOB = "job"  # a device has no push job, or one that rests without a reason


@per_dialect
def _numbering(sqlite: bool) -> Select[tuple[str]]:
    entries = select(func.count()).select_from(inbox_entry).where(e.app_id == i.app_id, e.user_id == i.user_id)
    return select(i.user_id).where(
        i.app_id == bindparam("app"),
        in_list(i.user_id, "users", sqlite=sqlite),
        entries.scalar_subquery() != i.head_seq - i.floor_seq,
    )


@per_dialect
def _unreported(sqlite: bool) -> Select[tuple[str]]:
    return select(e.user_id).where(
        e.app_id == bindparam("app"),
        in_list(e.user_id, "users", sqlite=sqlite),
        e.state != literal_column("'live'"),
        e.kind.in_((literal_column("'message'"), literal_column("'pointer'"))),
        e.completed_ms.is_(None),
    )


@per_dialect
def _late(sqlite: bool) -> Select[tuple[str]]:
    return select(e.user_id).where(
        e.app_id == bindparam("app"),
        in_list(e.user_id, "users", sqlite=sqlite),
        e.state == literal_column("'live'"),
        e.expires_ms <= bindparam("late"),
    )


@per_dialect
def _cursor(sqlite: bool) -> Select[tuple[str]]:
    return (
        select(d.user_id)
        .join(inbox, and_(i.app_id == d.app_id, i.user_id == d.user_id))
        .where(
            d.app_id == bindparam("app"),
            in_list(d.user_id, "users", sqlite=sqlite),
            d.state != "gone",
            or_(d.acked_seq > i.head_seq, d.acked_high < d.acked_seq, d.pushed_seq < d.acked_high),
        )
    )


@per_dialect
def _job(sqlite: bool) -> Select[tuple[str]]:
    return (
        select(d.user_id)
        .outerjoin(push_job, and_(j.app_id == d.app_id, j.user_id == d.user_id, j.device_id == d.device_id))
        .where(
            d.app_id == bindparam("app"),
            in_list(d.user_id, "users", sqlite=sqlite),
            d.state != "gone",
            or_(j.device_id.is_(None), and_(j.due_ms.is_(None), j.reason.is_(None))),
        )
    )


_LOOKS = {
    Imbalance.NUMBERING: _numbering,
    Imbalance.UNREPORTED: _unreported,
    Imbalance.LATE: _late,
    Imbalance.CURSOR: _cursor,
    Imbalance.JOB: _job,
}


def imbalances(conn: Connection, now_ms: int, keys: Iterable[UserKey]) -> dict[Imbalance, set[UserKey]]:
    """Users of whom something does not add up, as of one snapshot; empty when all is well."""
    found: dict[Imbalance, set[UserKey]] = {}
    for app_id, users in by_app(keys).items():
        params = {"app": app_id, "users": as_list(conn, users), "late": now_ms - LATE_MS}
        for what, statement in _LOOKS.items():
            wrong = {UserKey(app_id, row.user_id) for row in conn.execute(statement(conn), params).all()}
            if wrong:
                found.setdefault(what, set()).update(wrong)
    return found
