"""Fan-out: a message gets to its receivers later, or in parts; members are woken (protocol 12.2, 12.5, 12.6).

Each step is one transaction, which takes the job first and then the inboxes: crash anywhere, and the next step goes on
where the last one ended. What became of each receiver stands in the message's row.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from relay.errors import Problem
from relay.inbox.delivering import Deliveries
from relay.inbox.ending import take_back
from relay.inbox.locked import PolicyOf, flush, lock
from relay.inbox.reports import tell_undelivered
from relay.inbox.send import AT_ONCE_MAX, JobOptions, Recipient, Send
from relay.inbox.waking import wake
from relay.model import NotifyPolicy, TimelineKey, UserKey
from relay.store import entries as entry_rows
from relay.store import fanout as rows
from relay.store import messages as message_rows
from relay.store import readers
from relay.store.engine import Conn, Overtaken
from relay.store.fanout import Job
from relay.store.sql import StoreError, is_there

KNOWN_MAX = 1000  # receivers that a message's row names
PUT_OFF_MS = 3_600_000
LOST_MAX = 5  # processes that begin with a job and do not outlive it


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Hints for after the commit: whose inboxes have changed, and when something is to be pushed."""

    wakes: tuple[UserKey, ...] = ()
    push_ms: int | None = None


class StepBroke(Exception):  # noqa: N818 - it is what happened
    """A step of this job cannot be done: of what is stored, something is not as it should be. Its cause says what."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.job_id)
        self.job = job


def fan_out(conn: Conn, now_ms: int, policy_of: PolicyOf, new_epoch: Callable[[], str]) -> Step | None:
    """One step of the job that has waited longest; None: nothing is due. Raises StepBroke."""
    job = rows.lock_due(conn, now_ms)
    if job is None:
        return None
    try:
        if job.kind == rows.WAKE:
            wakes, push_ms = wake(conn, now_ms, job, policy_of)
            return Step(wakes=wakes, push_ms=push_ms)
        return _deliver(conn, now_ms, job, policy_of, new_epoch)
    except (Problem, StoreError, Overtaken):
        raise
    except Exception as error:
        if not is_there(conn):  # the driver has words of its own for that: no fault of the job
            raise
        raise StepBroke(job) from error


def begin(conn: Conn, now_ms: int, begun: Collection[str]) -> tuple[Job, bool] | None:
    """Notes, before the step, that this process is about to begin with the job that is due: if the process ends by it, the
    note stays. Gives the job, and whether it was put off, as five processes did not outlive it (safety FLT-23); None: there
    is none, or it is one of those `begun`. After an hour one more process may try."""
    job = rows.lock_due(conn, now_ms)
    if job is None or job.job_id in begun:
        return None
    if job.tries < LOST_MAX:
        rows.set_tries(conn, job, job.tries + 1)
        return job, False
    put_off(conn, now_ms, job)
    rows.set_tries(conn, job, LOST_MAX - 1)
    return job, True


def put_off(conn: Conn, now_ms: int, job: Job) -> None:
    """Lets others go before a job that broke; it is tried again in an hour, and until then an operator may mend it."""
    rows.move(conn, job, next_user=job.next_user, due_ms=now_ms + PUT_OFF_MS)


def _deliver(conn: Conn, now_ms: int, job: Job, policy_of: PolicyOf, new_epoch: Callable[[], str]) -> Step:
    options = msgspec.json.decode(job.options, type=JobOptions)
    read = message_rows.messages if options.recall else message_rows.lock_messages
    row = read(conn, job.app_id, [job.message_id or ""]).get(job.message_id or "")
    if row is None:
        rows.drop_job(conn, job.app_id, job.job_id)
        return Step()
    known = [Recipient(*one) for one in msgspec.json.decode(row.recipients)]
    if job.kind == rows.POINT:
        waiting = {one.user_id for one in known if one.seq is None and one.refusal is None}
        part, done_upto = _members(conn, job, {row.sender_user, *(one.user_id for one in known)} - waiting)
    else:
        part, done_upto = _waiting(known)
    if options.recall:
        return _take_back(conn, now_ms, job, part, done_upto, policy_of)
    send = _send(row, part, options)
    batch = Deliveries(conn, now_ms, policy_of)
    batch.lock([send], new_epoch)
    if job.kind == rows.POINT:  # by an earlier name, or before the job began again
        there = entry_rows.receivers_among(conn, job.app_id, send.message_id, part)
        send = replace(send, users=tuple(user for user in part if user not in there))
    done, wakes, push_ms = batch.deliver(send, row.expires_ms, at=job.upto_seq or 0)
    first = not job.next_user and not send.shared and send.sender_user not in {one.user_id for one in known}
    if first and batch.own_copy(send, row.expires_ms, session=options.session):
        wakes.append(UserKey(job.app_id, send.sender_user or ""))
    batch.write()
    refusals = [(one.user_id, one.refusal) for one in done if one.refusal is not None]
    tell_undelivered(conn, now_ms, job.app_id, send.message_id, refusals)  # who sent it has its 202
    by_user = {one.user_id: one for one in done}
    answered = [by_user.pop(one.user_id, one) for one in known]
    # Of everybody in a group, only who could not have it is remembered.
    answered += [one for one in by_user.values() if one.refusal is not None][: max(0, KNOWN_MAX - len(answered))]
    if answered != known:
        message_rows.set_recipients(conn, job.app_id, send.message_id, msgspec.json.encode(answered).decode())
    if done_upto is not None:
        rows.move(conn, job, next_user=done_upto, due_ms=now_ms)
    else:
        rows.drop_job(conn, job.app_id, job.job_id)
    return Step(wakes=tuple(wakes), push_ms=push_ms)


def _take_back(
    conn: Conn, now_ms: int, job: Job, part: Sequence[str], done_upto: str | None, policy_of: PolicyOf
) -> Step:
    users = lock(conn, now_ms, [UserKey(job.app_id, name) for name in part], policy_of)
    touched = [key for key, locked in users.items() if take_back(locked, job.message_id or "") is not None]
    flush(conn, now_ms, users.values())
    if done_upto is not None:
        rows.move(conn, job, next_user=done_upto, due_ms=now_ms)
    else:
        rows.drop_job(conn, job.app_id, job.job_id)
    return Step(wakes=tuple(touched))


def _waiting(known: Sequence[Recipient]) -> tuple[list[str], str | None]:
    """Whose turn it is; and the last of them, unless that is all."""
    waiting = sorted(one.user_id for one in known if one.seq is None and one.refusal is None)
    part = waiting[:AT_ONCE_MAX]
    return part, part[-1] if len(waiting) > len(part) else None


def _members(conn: Conn, job: Job, but: Collection[str | None]) -> tuple[list[str], str | None]:
    """The same of everybody who was a member when the message was numbered; whoever has it, or sent it, is left out."""
    key = TimelineKey(job.app_id, job.conversation_id or "")
    found = readers.seeing(conn, key, seq=job.upto_seq or 0, after=job.next_user, limit=AT_ONCE_MAX)
    return [user for user in found if user not in but], found[-1] if len(found) == AT_ONCE_MAX else None


def _send(row: Any, users: Sequence[str], options: JobOptions) -> Send:
    """The send that this row was made of, to these users only."""
    return Send(
        app_id=row.app_id,
        message_id=row.message_id,
        id_from_key=False,
        key=None,
        body_hash=b"",
        nonce="",
        users=tuple(users),
        devices_named=options.devices_named,
        type=row.type,
        conversation_type=row.conversation_type,
        conversation_id=row.conversation_id,
        sender_user=row.sender_user,
        sender_device=row.sender_device,
        client_ref=row.client_ref,
        priority=row.priority,
        body=row.body,
        h=row.h,
        push=row.push,
        push_held=row.push_held,
        escalate=row.escalate,
        notify_release=bool(row.notify_release),
        collapse_key=row.collapse_key,
        min_schema=row.min_schema,
        min_app_version=row.min_app_version,
        fallback=row.fallback,
        fallback_h=row.fallback_h,
        hold=bool(row.hold),
        scope=entry_rows.scope_of(row.scope),
        notify_policy=None if row.notify_policy is None else NotifyPolicy(row.notify_policy),
        ttl_s=options.ttl_s,
        mentions=options.mentions,
        everyone=options.everyone,
    )
