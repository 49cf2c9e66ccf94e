"""What each account sent in each of its vendor's days: the daily quota, counted where it survives a restart."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select, update

from relay.model import DAY_FULL
from relay.store.schema.push import account_day
from relay.store.sql import as_list, in_list, per_dialect, upsert

Day = tuple[str, str, str]  # app, account, the vendor's day

_d = account_day.c
_forget = delete(account_day).where(_d.day < bindparam("before"))
_refill = (
    update(account_day)
    .where(_d.app_id == bindparam("app"), _d.account == bindparam("acc"), _d.sent >= DAY_FULL)
    .values(sent=0)
)


@per_dialect
def _of_days(sqlite: bool) -> Select[Any]:
    return select(account_day).where(in_list(_d.day, "days", sqlite=sqlite))


def sent_on(conn: Connection, days: Iterable[Day]) -> dict[Day, int]:
    """Calls counted so far; a day without a row has none."""
    found = dict.fromkeys(days, 0)
    if found:
        dates = sorted({day for _, _, day in found})
        for row in conn.execute(_of_days(conn), {"days": as_list(conn, dates)}).all():
            if (row.app_id, row.account, row.day) in found:
                found[row.app_id, row.account, row.day] = int(row.sent)
    return found


def count(conn: Connection, calls: Mapping[Day, int]) -> None:
    """Adds calls that are about to be made: counted before, so that a crash counts too many rather than too few."""
    rows = [
        {"app_id": app_id, "account": account, "day": day, "sent": sent}
        for (app_id, account, day), sent in sorted(calls.items())
    ]
    upsert(conn, account_day, rows, set_={"sent": "account_day.sent + excluded.sent"})


def exhaust(conn: Connection, days: Iterable[Day]) -> None:
    """The vendor says that these days' quotas are used up, whatever we counted."""
    count(conn, dict.fromkeys(days, DAY_FULL))


def refill(conn: Connection, app_id: str, account: str) -> None:
    """The operator says that there is more: what the vendor said of its days counts no more."""
    conn.execute(_refill, {"app": app_id, "acc": account})


def forget(conn: Connection, before: str) -> None:
    """Days before this one (`2026-11-20`) go."""
    conn.execute(_forget, {"before": before})
