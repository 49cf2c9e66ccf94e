"""What each account sent in each of its vendor's days, and of which pushes it may send no more: kept over a restart."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, delete, select, update

from relay.model import DAY_FULL
from relay.store.schema.push import account_day, account_hold
from relay.store.sql import as_list, in_list, per_dialect, upsert

Day = tuple[str, str, str]  # app, account, the vendor's day


class Held(NamedTuple):
    """A quota of less than the account, used up `until_ms`: of a channel (empty: of pushes that name none), for one token
    (empty: for all)."""

    app_id: str
    account: str
    token_hash: bytes
    channel: str
    until_ms: int


_d, _h = account_day.c, account_hold.c
_forget = delete(account_day).where(_d.day < bindparam("before"))
_refill = (
    update(account_day)
    .where(_d.app_id == bindparam("app"), _d.account == bindparam("acc"), _d.sent >= DAY_FULL)
    .values(sent=0)
)
_held = select(account_hold).where(_h.until_ms > bindparam("now"))
_this_held = _held.where(
    _h.app_id == bindparam("app_id"),
    _h.account == bindparam("account"),
    _h.token_hash == bindparam("token_hash"),
    _h.channel == bindparam("channel"),
)
_unhold = delete(account_hold).where(_h.app_id == bindparam("app"), _h.account == bindparam("acc"))
_forget_held = delete(account_hold).where(_h.until_ms <= bindparam("now"))


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
    """Adds calls that are about to be made: counted before, so that a crash counts too many rather than too few.

    There are never fewer than none: who is refilled has been given back all.
    """
    rows = [
        {"app_id": app_id, "account": account, "day": day, "sent": sent}
        for (app_id, account, day), sent in sorted(calls.items())
    ]
    sum_ = "account_day.sent + excluded.sent"
    upsert(conn, account_day, rows, set_={"sent": f"CASE WHEN {sum_} > 0 THEN {sum_} ELSE 0 END"})


def correct(conn: Connection, *, spent: Iterable[Day], uncalled: Iterable[tuple[Day, int]]) -> None:
    """The vendor says that the quotas of the days `spent` are used up, whatever we counted; and what is `uncalled` was counted,
    and no call was made. Both at once: so that all take these rows in one order."""
    changes = dict.fromkeys(spent, DAY_FULL)
    for day, number in uncalled:
        if number:
            changes[day] = changes.get(day, 0) - number
    count(conn, changes)


def refill(conn: Connection, app_id: str, accounts: Iterable[str]) -> None:
    """The operator says that there is more: what the vendor said of their days counts no more."""
    names = [{"app": app_id, "acc": account} for account in sorted(accounts)]
    for statement in (_refill, _unhold):  # days before holds, as whoever settles pushes has them
        for name in names:
            conn.execute(statement, name)


def hold(conn: Connection, held: Iterable[Held]) -> None:
    """The vendor says that these quotas are used up."""
    newest = {one[:-1]: one for one in held}
    rows = [one._asdict() for _, one in sorted(newest.items())]
    upsert(conn, account_hold, rows, set_={"until_ms": "excluded.until_ms"})


def is_held(conn: Connection, now_ms: int, one: Held) -> bool:
    """Whether the vendor has said so of it already."""
    return conn.execute(_this_held, {"now": now_ms, **one._asdict()}).first() is not None


def held(conn: Connection, now_ms: int) -> list[Held]:
    """What is used up now."""
    return [Held(*row) for row in conn.execute(_held, {"now": now_ms})]


def forget(conn: Connection, now_ms: int, before: str) -> None:
    """Days before this one (`2026-11-20`) go, and what is used up no more."""
    conn.execute(_forget, {"before": before})
    conn.execute(_forget_held, {"now": now_ms})
