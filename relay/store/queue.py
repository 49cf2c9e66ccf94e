"""Rows of push jobs: when each device is to be told, who is telling it, and what it waits for.

`due_ms` may be lowered blindly (`lower_due`) but is raised or cleared only by `set_rearmed`. A claim has columns of its
own, so lowering `due_ms` never opens a job to a second worker.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    literal_column,
    or_,
    select,
    text,
    update,
)

from relay.model import DeviceKey, PushJob, UserKey
from relay.store.schema.inboxes import inbox
from relay.store.schema.push import push_job
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
)

j = push_job.c
FIELDS = PushJob.__struct_fields__
_columns = [j[name] for name in FIELDS]
_KEY = DeviceKey._fields
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
                "escalate_after": 0,
                "escalate_on": 0,
            }
        ],
    )


@per_dialect
def _jobs(sqlite: bool) -> Select[Any]:
    return select(*_columns).where(j.app_id == bindparam("app"), in_list(j.user_id, "users", sqlite=sqlite))


def jobs_of(conn: Connection, keys: Iterable[UserKey]) -> dict[UserKey, dict[str, PushJob]]:
    """The jobs of all devices of these users, by device; users without one are left out."""
    found: dict[UserKey, dict[str, PushJob]] = {}
    for app_id, users in by_app(keys).items():
        for row in many_rows(conn, _jobs(conn), {"app": app_id, "users": as_list(conn, users)}):
            job = PushJob(*row)
            found.setdefault(UserKey(app_id, job.user_id), {})[job.device_id] = job
    return found


_LOWER = {"due_ms": "CASE WHEN t.due_ms < v.due_ms THEN t.due_ms ELSE v.due_ms END", "reason": "NULL"}


def lower_due(conn: Connection, dues: Mapping[DeviceKey, int]) -> None:
    """Makes jobs due at these times at the latest, whatever they waited for: unconditional, nothing is read."""
    rows = [(*key, due_ms) for key, due_ms in dues.items()]
    update_rows(conn, push_job, (*_KEY, "due_ms"), rows, key=_KEY, set_=_LOWER)


_rearmed = (
    *("due_ms", "reason", "told_ms", "knock", "tries", "retry_ms", "bare_seq"),
    *("escalate_seq", "escalate_after", "escalate_on", "claim", "claim_until_ms", "lost"),
)
_REARMED = {name: f"v.{name}" for name in _rearmed}
_rearmed_row = attrgetter(*_KEY, *_rearmed)


def set_rearmed(conn: Connection, jobs: Sequence[PushJob]) -> None:
    """Writes when these jobs are due, what that follows from, and whose they are: the only statement that raises or clears
    `due_ms`. Under L(u), where claims are taken and given back as well."""
    rows = list(map(_rearmed_row, jobs))
    update_rows(conn, push_job, (*_KEY, *_REARMED), rows, key=_KEY, set_=_REARMED)


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
    found = [many_rows(conn, _due_users, wanted | {"app": app_id}) for app_id in _waiting_apps(conn)]
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


_CLAIM = ("claim", "claim_token", "claim_until_ms")
_CLAIMED = {name: f"v.{name}" for name in _CLAIM}


def set_claims(conn: Connection, claims: Iterable[tuple[DeviceKey, str, int, int]]) -> None:
    """(device, owner, token, until) of jobs that a worker takes. Under L(u)."""
    rows = [(*key, owner, token, until) for key, owner, token, until in claims]
    update_rows(conn, push_job, (*_KEY, *_CLAIM), rows, key=_KEY, set_=_CLAIMED)


_UNDER_CLAIM = (*_KEY, "claim_token")
_FREED = {"claim": "NULL", "claim_until_ms": "NULL", "lost": "v.lost"}


def release_claims(conn: Connection, claims: Iterable[tuple[DeviceKey, int, int]]) -> None:
    """Gives claims (device, token) back, if they are still held under that token, and says how often the job was lost."""
    rows = [(*key, token, lost) for key, token, lost in claims]
    update_rows(conn, push_job, (*_UNDER_CLAIM, "lost"), rows, key=_UNDER_CLAIM, set_=_FREED)


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
