"""Rows of push jobs: when each device is to be told, who is telling it, and what it waits for.

`due_ms` may be lowered blindly (`lower_due`) but is raised or cleared only by `set_rearmed`. A claim has columns of its
own, so lowering `due_ms` never opens a job to a second worker.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    text,
    update,
)

from relay.model import DeviceKey, PushJob, UserKey
from relay.store.schema.inboxes import inbox
from relay.store.schema.push import account_state, push_job
from relay.store.sql import (
    as_list,
    by_app,
    device_params,
    in_list,
    insert_missing,
    is_sqlite,
    many_rows,
    per_dialect,
    update_rows,
    upsert,
)

j = push_job.c
FIELDS = PushJob.__struct_fields__
_columns = [j[name] for name in FIELDS]
_here = (j.app_id == bindparam("app"), j.user_id == bindparam("user"), j.device_id == bindparam("device"))


def create_job(conn: Connection, key: DeviceKey) -> None:
    """A device's one job, resting; left alone if it is there."""
    insert_missing(
        conn,
        push_job,
        [
            {
                **key._asdict(),
                "due_ms": None,
                "reason": "nothing_owed",
                "knock": 0,
                "told_ms": None,
                "tries": 0,
                "retry_ms": None,
                "bare_seq": 0,
                "claim": None,
                "claim_token": 0,
                "claim_until_ms": None,
                "lost": 0,
                "shown_seq": 0,
                "escalate_seq": 0,
            }
        ],
    )


@per_dialect
def _jobs(sqlite: bool) -> Select[Any]:
    return select(*_columns).where(j.app_id == bindparam("app"), in_list(j.user_id, "users", sqlite=sqlite))


def jobs_of(conn: Connection, keys: Iterable[UserKey]) -> dict[DeviceKey, PushJob]:
    """The jobs of all devices of these users."""
    found: dict[DeviceKey, PushJob] = {}
    for app_id, users in by_app(keys).items():
        for row in many_rows(conn, _jobs(conn), {"app": app_id, "users": as_list(conn, users)}):
            job = PushJob(*row)
            found[job.key] = job
    return found


_LOWER = {"due_ms": "CASE WHEN t.due_ms < v.due_ms THEN t.due_ms ELSE v.due_ms END", "reason": "NULL"}


def lower_due(conn: Connection, dues: Mapping[DeviceKey, int]) -> None:
    """Makes jobs due at these times at the latest, whatever they waited for: unconditional, nothing is read."""
    rows = [key._asdict() | {"due_ms": due_ms} for key, due_ms in dues.items()]
    update_rows(conn, push_job, rows, key=DeviceKey._fields, set_=_LOWER)


_REARMED = ("due_ms", "reason", "told_ms", "knock", "tries", "retry_ms", "bare_seq", "escalate_seq")


def set_rearmed(conn: Connection, jobs: Sequence[PushJob]) -> None:
    """Writes when these jobs are due, and what that follows from: the only statement that raises or clears `due_ms`."""
    rows = [job.key._asdict() | {name: getattr(job, name) for name in _REARMED} for job in jobs]
    update_rows(conn, push_job, rows, key=DeviceKey._fields, set_={name: f"v.{name}" for name in _REARMED})


_note_shown = update(push_job).where(*_here, j.shown_seq < bindparam("seq")).values(shown_seq=bindparam("seq"))


def note_shown(conn: Connection, key: DeviceKey, seq: int) -> None:
    """The device has shown the entry of this number; it only grows."""
    conn.execute(_note_shown, device_params(key) | {"seq": seq})


# --- claims -----------------------------------------------------------------------------------------------------------


def _free_users(*due: ColumnElement[bool]) -> Select[Any]:
    free = or_(j.claim_until_ms.is_(None), j.claim_until_ms <= bindparam("now"))
    return select(j.app_id, j.user_id).where(*due, free).order_by(j.due_ms).limit(bindparam("count"))


# From app to app through the index, whatever each of them has waiting.
_apps = text(
    "WITH RECURSIVE waits(app_id) AS (SELECT min(app_id) FROM push_job WHERE due_ms IS NOT NULL UNION ALL "
    "SELECT (SELECT min(j.app_id) FROM push_job AS j WHERE j.due_ms IS NOT NULL AND j.app_id > waits.app_id) "
    "FROM waits WHERE waits.app_id IS NOT NULL) SELECT app_id FROM waits WHERE app_id IS NOT NULL"
)
_due_users = _free_users(
    j.app_id == bindparam("app"),
    j.due_ms.is_not(None),
    j.due_ms <= bindparam("now"),
    j.lost == literal_column("0"),
)
# Walks the index of suspects, which are few: the sum keeps planners from the index of all that is due.
_suspect_users = _free_users(j.lost > literal_column("0"), j.due_ms + literal_column("0") <= bindparam("now"))


def _waiting_apps(conn: Connection) -> list[str]:
    """Those with a job that does not rest."""
    return list(conn.execute(_apps).scalars())


def due_users(conn: Connection, now_ms: int, *, limit: int, suspects: bool = False) -> list[UserKey]:
    """Users with a job that is due and free; read again under their locks. Of each app the oldest first, and apps in turn,
    so that the backlog of one holds no other up (safety FLT-38).

    `suspects`: those with a job that no process outlived when it was last handled, of all apps together; else those with
    another.
    """
    wanted: dict[str, Any] = {"now": now_ms, "count": limit}
    if suspects:
        return list(dict.fromkeys(UserKey(*row) for row in conn.execute(_suspect_users, wanted)))
    found = [conn.execute(_due_users, wanted | {"app": app_id}).all() for app_id in _waiting_apps(conn)]
    in_turn = (row for turn in zip_longest(*found) for row in turn if row is not None)
    return list(dict.fromkeys(UserKey(*row) for row in in_turn))[:limit]


@per_dialect
def _lock_free(sqlite: bool) -> Select[Any]:
    return (
        select(inbox.c.user_id)
        .where(inbox.c.app_id == bindparam("app"), in_list(inbox.c.user_id, "users", sqlite=sqlite))
        .order_by(inbox.c.user_id)
        .with_for_update(key_share=True, skip_locked=True)
    )


def lock_free_inboxes(conn: Connection, keys: Iterable[UserKey]) -> list[UserKey]:
    """Takes L(u) of those users whose lock is free at once; the others are busy and come round again. SQLite's writer is
    alone: there nobody is busy."""
    if is_sqlite(conn):
        return list(keys)
    return [
        UserKey(app_id, row.user_id)
        for app_id, users in by_app(keys).items()
        for row in conn.execute(_lock_free(conn), {"app": app_id, "users": as_list(conn, users)})
    ]


def set_claims(conn: Connection, rows: Sequence[tuple[DeviceKey, str, int, int]]) -> None:
    """(device, owner, token, until) of jobs that a worker takes. Under L(u)."""
    named = [
        key._asdict() | {"claim": owner, "claim_token": token, "claim_until_ms": until}
        for key, owner, token, until in rows
    ]
    changes = {c: f"v.{c}" for c in ("claim", "claim_token", "claim_until_ms")}
    update_rows(conn, push_job, named, key=DeviceKey._fields, set_=changes)


def release_claims(conn: Connection, rows: Iterable[tuple[DeviceKey, int, int]]) -> None:
    """Gives claims (device, token) back, if they are still held under that token, and says how often the job was lost."""
    named = [key._asdict() | {"claim_token": token, "lost": lost} for key, token, lost in rows]
    freed = {"claim": "NULL", "claim_until_ms": "NULL", "lost": "v.lost"}
    update_rows(conn, push_job, named, key=(*DeviceKey._fields, "claim_token"), set_=freed)


_orphans = (
    update(push_job)
    .where(
        j.app_id == bindparam("app"),
        j.due_ms.is_not(None),
        j.due_ms <= bindparam("now"),
        j.claim_until_ms > bindparam("now"),
        j.claim != bindparam("owner"),
    )
    .values(claim_until_ms=0)
)


def free_orphans(conn: Connection, now_ms: int, *, owner: str) -> None:
    """On SQLite, where one process at a time has the store: claims of the processes before need not be waited for."""
    if is_sqlite(conn):
        for app_id in _waiting_apps(conn):
            conn.execute(_orphans, {"app": app_id, "now": now_ms, "owner": owner})


# --- accounts ---------------------------------------------------------------------------------------------------------


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


def parked_since_ms(conn: Connection, app_id: str, account: str) -> int:
    """Since when the account is parked."""
    c = account_state.c
    since: Any = conn.execute(select(c.parked_ms).where(c.app_id == app_id, c.account == account)).scalar_one()
    return int(since)


_WAITING = ("quota", "hours", "circuit", "rate")
_concerned = select(j.user_id).where(
    j.app_id == bindparam("app"),
    or_(
        and_(j.due_ms.is_(None), j.reason == "account_parked"),
        and_(j.due_ms > bindparam("now"), j.reason.in_(_WAITING)),
    ),
)
_held = (
    select(inbox.c.user_id)
    .where(inbox.c.app_id == bindparam("app"), inbox.c.user_id.in_(_concerned))
    .order_by(inbox.c.user_id)
    .with_for_update(key_share=True, of=inbox)  # as `lock_inboxes` does
    .subquery()
)
_hold = select(func.count()).select_from(_held)


def hold_waiting(conn: Connection, now_ms: int, app_id: str) -> None:
    """Takes L(u) of everybody whose pushes rest or wait for an account of the app: before `unpark_account` and `hurry`,
    which change the jobs of many users that others change under their locks. They may be a hundred thousand, of whom
    nothing need be known here."""
    if not is_sqlite(conn):  # whose writer is alone
        conn.execute(_hold, {"app": app_id, "now": now_ms}).all()


def unpark_account(conn: Connection, now_ms: int, *, app_id: str, account: str) -> int:
    """The account is mended: every job that rested for it is due again. Gives their number."""
    conn.execute(
        update(account_state)
        .where(account_state.c.app_id == app_id, account_state.c.account == account)
        .values(parked_ms=None, parked_code=None)
    )
    return conn.execute(
        update(push_job)
        .where(j.app_id == app_id, j.due_ms.is_(None), j.reason == "account_parked")
        .values(due_ms=now_ms, reason=None)
    ).rowcount


_hurry = (
    update(push_job)
    .where(
        j.app_id == bindparam("app"),
        j.due_ms > bindparam("now"),
        j.reason.in_(_WAITING),
    )
    .values(due_ms=bindparam("now"), reason=None)
)


def hurry(conn: Connection, now_ms: int, app_id: str) -> None:
    """The app's accounts have changed: what waits for one of them is planned anew."""
    conn.execute(_hurry, {"app": app_id, "now": now_ms})


_parked = select(account_state.c.app_id, account_state.c.account, account_state.c.parked_code).where(
    account_state.c.parked_ms.is_not(None)
)
_parked_held = _parked.order_by(account_state.c.app_id, account_state.c.account).with_for_update(read=True)


def parked_accounts(conn: Connection, *, hold: bool = False) -> dict[tuple[str, str], str | None]:
    """Who is parked, with the vendor's code. `hold`: nobody is unparked before this transaction ends, so that what it lets
    rest for them is seen by whoever unparks them."""
    rows = conn.execute(_parked_held if hold and not is_sqlite(conn) else _parked)
    return {(row.app_id, row.account): row.parked_code for row in rows}
