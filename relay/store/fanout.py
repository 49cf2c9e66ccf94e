"""Rows of fan-out jobs: what many inboxes are to get, later or in parts. The row is the lock of its fan-out."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, case, delete, literal_column, select, union, update

from relay.model import TimelineKey, UserKey
from relay.store.events import derived_id
from relay.store.schema.conversations import fanout_job, membership
from relay.store.sql import as_list, insert_missing, is_sqlite, listed, per_dialect

j, b = fanout_job.c, membership.c
DELIVER, POINT, WAKE = "deliver", "point", "wake"


class Job(NamedTuple):
    """A fan-out, and how far it has come: everybody up to `next_user` is done."""

    app_id: str
    job_id: str
    kind: str
    conversation_id: str | None
    message_id: str | None
    from_seq: int | None
    upto_seq: int | None
    options: str
    next_user: str
    due_ms: int
    tries: int


def job_id(app_id: str, message_id: str) -> str:
    """Of the job that delivers this message."""
    return derived_id("fan_", app_id, message_id)


def add_jobs(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes jobs; one that is there already stays as it is."""
    insert_missing(conn, fanout_job, rows)


_waiting = (
    select(j.job_id)
    .where(
        j.app_id == bindparam("app"),
        j.conversation_id == bindparam("place"),
        j.kind == literal_column(f"'{WAKE}'"),
        j.next_user == literal_column("''"),
    )
    .limit(1)
    .with_for_update(skip_locked=True)
)
_widen = (
    update(fanout_job)
    .where(j.app_id == bindparam("app"), j.job_id == bindparam("job"))
    .values(upto_seq=bindparam("upto"))
)


def widen(conn: Connection, key: TimelineKey, *, upto: int) -> bool:
    """Has a wake job that has not begun cover the timeline up to there; False: there is none. Never waits for a worker."""
    place = {"app": key.app_id, "place": key.conversation_id}
    job = conn.execute(_waiting, place).scalar_one_or_none()
    if job is None:
        return False
    conn.execute(_widen, {"app": key.app_id, "job": job, "upto": upto})
    return True


_begun = (
    select(j.job_id)
    .where(
        j.app_id == bindparam("app"),
        j.conversation_id == bindparam("place"),
        j.kind == literal_column(f"'{WAKE}'"),
        j.next_user > literal_column("''"),
    )
    .limit(1)
)


def wakes_already(conn: Connection, key: TimelineKey) -> bool:
    """Whether an earlier wake job of this timeline is under way."""
    place = {"app": key.app_id, "place": key.conversation_id}
    return conn.execute(_begun, place).first() is not None


_due = (
    select(*(j[name] for name in Job._fields))
    .where(j.due_ms <= bindparam("now"))
    .order_by(j.due_ms, j.app_id, j.job_id)
    .limit(1)
    .with_for_update(skip_locked=True)
)


def lock_due(conn: Connection, now_ms: int) -> Job | None:
    """The job that has been due for longest and that nobody is at; it is ours until the transaction ends."""
    row = conn.execute(_due, {"now": now_ms}).first()
    return None if row is None else Job(*row)


_set_tries = (
    update(fanout_job).where(j.app_id == bindparam("app"), j.job_id == bindparam("job")).values(tries=bindparam("n"))
)


def set_tries(conn: Connection, job: Job, tries: int) -> None:
    """How many processes have begun with it."""
    conn.execute(_set_tries, {"app": job.app_id, "job": job.job_id, "n": tries})


_here = (j.app_id == bindparam("app"), j.job_id == bindparam("job"))
# By all who had begun with it but the one that is at it.
_outlived = case((j.tries > literal_column("0"), literal_column("1")), else_=literal_column("0"))
_move = update(fanout_job).where(*_here).values(next_user=bindparam("user"), due_ms=bindparam("due"), tries=_outlived)


def move(conn: Connection, job: Job, *, next_user: str, due_ms: int) -> None:
    """Everybody up to `next_user` is done; others have their turn before this goes on. That other processes had
    begun with it speaks against it no more."""
    conn.execute(_move, {"app": job.app_id, "job": job.job_id, "user": next_user, "due": due_ms})


_drop = delete(fanout_job).where(*_here)


def drop_job(conn: Connection, app_id: str, job: str) -> bool:
    """Ends a job; whether there was one. Waits for whoever is at it."""
    return conn.execute(_drop, {"app": app_id, "job": job}).rowcount > 0


_groups = select(b.conversation_id).where(b.app_id == bindparam("app"), b.user_id == bindparam("user"))

_own = fanout_job.alias().c
_of_groups = select(_own.job_id).where(_own.app_id == bindparam("app"), _own.conversation_id.in_(_groups))


def _concerning(sqlite: bool) -> Select[Any]:
    named = listed("jobs", j.job_id, sqlite=sqlite)
    return select(j.job_id).where(j.app_id == bindparam("app"), j.job_id.in_(union(named, _of_groups)))


_jobs = per_dialect(_concerning)
_hold = per_dialect(lambda sqlite: _concerning(sqlite).order_by(j.job_id).with_for_update())
_hold_free = per_dialect(lambda sqlite: _concerning(sqlite).with_for_update(skip_locked=True))


def hold(conn: Connection, user: UserKey, message_ids: Collection[str]) -> None:
    """Has nobody be at the jobs of the user's groups, and at those that deliver these messages, until the commit. Waits for
    whoever is, so it comes before any inbox's lock: from a job one goes on to inboxes."""
    if not is_sqlite(conn):  # whose writer is alone
        conn.execute(_hold(conn), _concerned(conn, user, message_ids)).all()


def hold_free(conn: Connection, user: UserKey, message_ids: Collection[str]) -> bool:
    """The same without waiting; False: somebody is at one of them."""
    if is_sqlite(conn):
        return True
    wanted = _concerned(conn, user, message_ids)
    ours = set(conn.execute(_hold_free(conn), wanted).scalars())
    return ours.issuperset(conn.execute(_jobs(conn), wanted).scalars())


def _concerned(conn: Connection, user: UserKey, message_ids: Collection[str]) -> dict[str, Any]:
    jobs = as_list(conn, [job_id(user.app_id, one) for one in message_ids])
    return {"app": user.app_id, "user": user.user_id, "jobs": jobs}


_begin_again = (
    update(fanout_job)
    .where(
        j.app_id == bindparam("app"),
        j.conversation_id.in_(_groups),
        j.next_user >= bindparam("name"),
        j.next_user < bindparam("user"),
    )
    .values(next_user="")
)


def begin_again(conn: Connection, user: UserKey, name: str) -> None:
    """Of the jobs of the user's groups, those that have passed its new name and not the old one walk all members again:
    who is done stays so. Nobody is at them."""
    conn.execute(_begin_again, {"app": user.app_id, "user": user.user_id, "name": name})


_options = select(j.job_id, j.options).where(
    j.app_id == bindparam("app"), j.job_id.in_(bindparam("jobs", expanding=True))
)
_set_options = update(fanout_job).where(*_here).values(options=bindparam("changed"))


def options_of(conn: Connection, app_id: str, message_ids: Collection[str]) -> dict[str, str]:
    """By their ids, the options of the jobs that deliver these messages."""
    jobs = [job_id(app_id, message_id) for message_id in message_ids]
    return {row.job_id: row.options for row in conn.execute(_options, {"app": app_id, "jobs": jobs})}


def set_options(conn: Connection, app_id: str, job: str, options: str) -> None:
    """Has a job go on with other options. Waits for whoever is at it."""
    conn.execute(_set_options, {"app": app_id, "job": job, "changed": options})
