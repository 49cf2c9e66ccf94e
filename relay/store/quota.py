"""What each account sent in each of its vendor's days: the daily quota, counted where it survives a restart."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from relay.store.schema import account_day
from relay.store.sql import upsert

Day = tuple[str, str, str]  # app, account, the vendor's day

_d = account_day.c
_sent = select(_d.sent).where(_d.app_id == bindparam("app"), _d.account == bindparam("acc"), _d.day == bindparam("day"))
_forget = delete(account_day).where(_d.day < bindparam("before"))


def sent_on(conn: Connection, days: Iterable[Day]) -> dict[Day, int]:
    """Calls counted so far; a day without a row has none."""
    found = {}
    for app_id, account, day in days:
        sent: Any = conn.execute(_sent, {"app": app_id, "acc": account, "day": day}).scalar_one_or_none()
        found[app_id, account, day] = int(sent or 0)
    return found


def count(conn: Connection, calls: Mapping[Day, int]) -> None:
    """Adds calls that are about to be made: counted before, so that a crash counts too many rather than too few."""
    rows = [
        {"app_id": app_id, "account": account, "day": day, "sent": sent}
        for (app_id, account, day), sent in sorted(calls.items())
    ]
    upsert(conn, account_day, rows, set_={"sent": "account_day.sent + excluded.sent"})


def forget(conn: Connection, before: str) -> None:
    """Days before this one (`2026-11-20`) go."""
    conn.execute(_forget, {"before": before})
