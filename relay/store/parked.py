"""Which accounts are parked, as the vendor refuses them, and the release of what rested for one that was mended."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from relay.store.schema.devices import address
from relay.store.schema.inboxes import inbox
from relay.store.schema.push import account_state, push_job
from relay.store.sql import is_sqlite, per_dialect, upsert

RELEASED_MAX = 1000  # jobs that one transaction looks at
BEGIN = ""  # the place before all users

a, d, j = account_state.c, address.c, push_job.c


def park_account(conn: Connection, now_ms: int, *, app_id: str, account: str, code: str | None) -> None:
    """The vendor refuses the account: what would go through it rests. It stays parked since the first time."""
    upsert(
        conn,
        account_state,
        [{"app_id": app_id, "account": account, "parked_ms": now_ms, "parked_code": code}],
        set_={
            "parked_ms": "coalesce(account_state.parked_ms, excluded.parked_ms)",
            "parked_code": "excluded.parked_code",
        },
    )


_since = select(a.parked_ms).where(a.app_id == bindparam("app"), a.account == bindparam("acc"))


def parked_since_ms(conn: Connection, app_id: str, account: str) -> int:
    """Since when the account is parked."""
    return int(conn.execute(_since, {"app": app_id, "acc": account}).scalar_one())


_mended_now = select(a.mended).where(a.app_id == bindparam("app"), a.account == bindparam("acc")).with_for_update()


def times_mended(conn: Connection, app_id: str, account: str) -> int:
    """How often the account was mended; until this transaction ends it is not again."""
    return conn.execute(_mended_now, {"app": app_id, "acc": account}).scalar_one_or_none() or 0


_parked = select(a.app_id, a.account, a.parked_code).where(a.parked_ms.is_not(None))


@per_dialect
def _keep_parked(sqlite: bool) -> Select[Any]:
    if sqlite:  # whose writer is alone
        return _parked
    in_order = (column.collate("C") for column in (a.app_id, a.account))  # as whoever parks or mends several sorts them
    return _parked.order_by(*in_order).with_for_update(read=True)


def parked_accounts(conn: Connection, *, hold: bool = False) -> dict[tuple[str, str], str | None]:
    """Who is parked, with the vendor's code. `hold`: nobody is mended before this transaction ends, so that what it lets
    rest for them is released by whoever mends them."""
    rows = conn.execute(_keep_parked(conn) if hold else _parked)
    return {(row.app_id, row.account): row.parked_code for row in rows}


# --- mended -----------------------------------------------------------------------------------------------------------


def mend_accounts(conn: Connection, app_id: str, accounts: Iterable[str]) -> None:
    """These accounts are mended: nothing comes to rest for them any more, and what rests is `unreleased`."""
    rows = [
        {"app_id": app_id, "account": one, "parked_ms": None, "parked_code": None, "mended": 1}
        for one in sorted(accounts)
    ]
    mended = {"parked_ms": "NULL", "parked_code": "NULL", "mended": "account_state.mended + 1"}
    upsert(conn, account_state, rows, set_=mended)


_times = select(a.app_id, a.account, a.mended).where(a.mended > 0)


def mended_times(conn: Connection) -> dict[tuple[str, str], int]:
    """How often each of the accounts was mended that ever were: by a number that rises, every node hears of it."""
    return {(row.app_id, row.account): row.mended for row in conn.execute(_times)}


_unreleased = select(a.app_id, a.account, a.mended).where(a.parked_ms.is_(None), a.mended > a.released)


def unreleased(conn: Connection) -> dict[str, dict[str, int]]:
    """By app the accounts that were mended, and how often, of which some jobs may rest all the same.

    Not those that are parked again: what rests for them does so rightly, until they are mended once more.
    """
    found: dict[str, dict[str, int]] = {}
    for row in conn.execute(_unreleased):
        found.setdefault(row.app_id, {})[row.account] = row.mended
    return found


# PostgreSQL may know nothing of the tables yet, and then takes any range for a handful of rows. So it is not shown the limit: it
# walks the index then, as for whoever wants the first rows soon, and does not sort everybody who is left. And each user's own
# jobs are looked up, where a join of two ranges would read all of the one for each of the other.
_next = (
    select(j.user_id)
    .where(j.app_id == bindparam("app"), j.user_id > bindparam("after"))
    .order_by(j.user_id)
    .limit(select(bindparam("most", type_=BigInteger)).scalar_subquery())
    .subquery()
)
_portion = select(func.max(_next.c.user_id), func.count())
_here = (j.app_id == bindparam("app"), j.user_id > bindparam("after"), j.user_id <= bindparam("upto"))
_resting = and_(j.due_ms.is_(None), j.reason == "account_parked")
_put_off = j.retry_ms > bindparam("now")
_waiting = and_(j.due_ms > bindparam("now"), j.reason.in_(("quota", "hours", "circuit", "rate", "backoff", "stale")))
_waits = exists().where(j.app_id == inbox.c.app_id, j.user_id == inbox.c.user_id, or_(_resting, _waiting, _put_off))
_held = (
    select(inbox.c.user_id)
    .where(
        inbox.c.app_id == bindparam("app"),
        inbox.c.user_id > bindparam("after"),
        inbox.c.user_id <= bindparam("upto"),
        _waits,
    )
    .order_by(inbox.c.user_id)
    .with_for_update(key_share=True, of=inbox)  # as `lock_inboxes` does
    .subquery()
)
_hold = select(func.count()).select_from(_held)  # of whom nothing need be known here
_release = update(push_job).where(*_here, _resting).values(due_ms=bindparam("now"), reason=None)
_hurry = update(push_job).where(*_here, _waiting).values(due_ms=bindparam("now"), reason=None)
_may_have_it = exists().where(
    d.app_id == j.app_id,
    d.user_id == j.user_id,
    d.device_id == j.device_id,
    d.state == "active",
    # The empty string keeps planners from the index of all tokens of the account.
    (d.account + literal_column("''")).in_(bindparam("accounts", expanding=True)),
)
_retry = update(push_job).where(*_here, _put_off, _may_have_it).values(retry_ms=bindparam("now"))  # a retry it is still
_released = (
    update(account_state)
    .where(a.app_id == bindparam("app"), a.account == bindparam("acc"), a.released < bindparam("times"))
    .values(released=bindparam("times"))
)


_any = select(literal(1)).where(j.app_id == bindparam("app"), _resting).limit(1)


def rests(conn: Connection, app_id: str) -> bool:
    """Whether anything of the app rests for its accounts: of those that are parked, or were not configured where it was
    planned. Looks at all of its jobs, if need be."""
    return conn.execute(_any, {"app": app_id}).first() is not None


_number = select(func.count()).where(j.app_id == bindparam("app"), _resting)


def resting_number(conn: Connection, app_id: str) -> int:
    """How many jobs of the app rest for its accounts. Looks at all of its jobs."""
    return int(conn.execute(_number, {"app": app_id}).scalar_one())


def release_some(
    conn: Connection,
    now_ms: int,
    *,
    app_id: str,
    mended: Mapping[str, int],
    after: str = BEGIN,
    most: int = RELEASED_MAX,
) -> str | None:
    """Makes due what rests or waits for an account of the app, of the next users after that one. Takes L(u) of those. What was
    put off by itself need not wait either, where the device has an address of one that is mended. Gives the user with whom
    the next transaction goes on; None: there is no more to be done.

    `mended`: who was `unreleased` when this walk began; at its end that is said of them no more, unless they were mended
    again since: what rested between is for the next walk.
    """
    if app_id not in unreleased(conn):
        return None
    upto, looked = conn.execute(_portion, {"app": app_id, "after": after, "most": most}).one()
    if upto is not None:
        here = {"app": app_id, "after": after, "upto": upto, "now": now_ms, "accounts": sorted(mended)}
        if not is_sqlite(conn):  # whose writer is alone
            conn.execute(_hold, here).all()
        for statement in (_release, _hurry, _retry):
            conn.execute(statement, here)
    if looked == most:
        return str(upto)
    for account, times in sorted(mended.items()):
        conn.execute(_released, {"app": app_id, "acc": account, "times": times})
    return None
