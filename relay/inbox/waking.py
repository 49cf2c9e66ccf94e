"""Waking the members of a shared timeline: FAN of protocol 6.4, step by step (protocol 12.5).

A step takes the locks of some members and raises what they are to be told of, and when; whether anything is worth telling
by then, whoever plans the push finds out. It does so whether a member is online or not: who goes offline meanwhile is seen
by one of the two.
"""

from relay.inbox import push_due
from relay.inbox.locked import PolicyOf, lock
from relay.model import GATEWAY, DeviceKey, TimelineKey, UserKey
from relay.store import fanout as job_rows
from relay.store import groups as group_rows
from relay.store import queue, readers, timelines
from relay.store.engine import Conn
from relay.store.fanout import Job

MEMBERS_AT_ONCE = 200
AFTER_ANOTHER_MS = 1_000  # one job at a time walks a timeline's members; the next one covers what comes meanwhile


def wake(conn: Conn, now_ms: int, job: Job, policy_of: PolicyOf) -> tuple[tuple[UserKey, ...], int | None]:
    """One step of a wake job: whose devices may look, and when something is to be pushed."""
    key = TimelineKey(job.app_id, job.conversation_id or "")
    first, upto = job.from_seq or 0, job.upto_seq or 0
    if not job.next_user and job_rows.wakes_already(conn, key):
        job_rows.move(conn, job, next_user="", due_ms=now_ms + AFTER_ANOTHER_MS)
        return (), None
    members: list[str] = []
    group_rows.keep_members(conn, key.app_id, [key.conversation_id])
    if timelines.notifiable_between(conn, key, now_ms, after=first - 1, upto=upto, limit=1):
        members = readers.to_wake(conn, key, seq=upto, after=job.next_user, limit=MEMBERS_AT_ONCE)
    users = lock(conn, now_ms, [UserKey(key.app_id, name) for name in members], policy_of)
    dues: dict[DeviceKey, int] = {}
    for locked in users.values():
        for device in locked.devices.values():
            if device.has_address:
                dues[device.key], _ = push_due.waits_until(
                    device,
                    accepted_ms=now_ms,
                    policy=locked.policy,
                    now_ms=now_ms,
                    gateway=device.node_id == GATEWAY,
                )
    readers.wake(conn, key, [user.user_id for user in users], seq=upto)
    queue.lower_due(conn, dues)
    if len(members) == MEMBERS_AT_ONCE:
        job_rows.move(conn, job, next_user=members[-1], due_ms=now_ms)
    else:
        job_rows.drop_job(conn, job.app_id, job.job_id)
    return tuple(users), min(dues.values(), default=None)
