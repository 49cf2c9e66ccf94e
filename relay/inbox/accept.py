"""Accepting messages: one transaction that makes the promise (protocol 12.1).

Keys first, then the locks in order, then numbers, the message once, entries, and the wish to push. Nothing here waits or
talks; when it has committed, the sender may forget the message.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from relay.errors import Problem
from relay.inbox.delivering import Deliveries
from relay.inbox.groups import MEMBERS_MAX
from relay.inbox.locked import PolicyOf
from relay.inbox.page import signed_out
from relay.inbox.posting import Posts, as_post, post_expiry, timeline_key
from relay.inbox.repeats import NO_REPEATS, claim_keys
from relay.inbox.send import (
    REFUSALS,
    Accepted,
    JobOptions,
    Recipient,
    Send,
    expiry,
    nobody_there,
)
from relay.model import UserKey
from relay.store import entries as entry_rows
from relay.store import fanout as fanout_rows
from relay.store import groups as group_rows
from relay.store import messages as message_rows
from relay.store.engine import Conn, Overtaken


def accept(
    conn: Conn, now_ms: int, sends: Sequence[Send], policy_of: PolicyOf, new_epoch: Callable[[], str]
) -> list[Accepted | Exception]:
    """Accepts many messages in one transaction; a refused one leaves no trace and does not disturb the others."""
    batch = Acceptance(conn, now_ms, sends, policy_of)
    batch.repeats = claim_keys(conn, now_ms, sends)
    batch.resolve_groups()
    batch.lock(new_epoch)
    for index, send in enumerate(batch.sends):
        if batch.is_open(index):
            batch.take(index, send)
    batch.write()
    return batch.finished()


class Acceptance:
    """The work of one transaction: what is gathered before it is written."""

    def __init__(self, conn: Conn, now_ms: int, sends: Sequence[Send], policy_of: PolicyOf) -> None:
        self.conn = conn
        self.now_ms = now_ms
        self.sends = list(sends)
        self.policy_of = policy_of
        self.repeats = NO_REPEATS
        self.answers: dict[int, Accepted | Exception] = {}  # by their places in the batch, as in all of these
        self.deliveries = Deliveries(conn, now_ms, policy_of)
        self.dropped_keys: list[tuple[str, str]] = []
        self.jobs: list[tuple[Send, int | None]] = []  # with the number in the shared timeline, if it has one
        self.posts = Posts(conn, now_ms)
        self.members: dict[int, set[str]] = {}  # of those concerned in a post: who is a member of its group

    def is_open(self, index: int) -> bool:
        """Whether this message is new, and nothing was decided of it yet."""
        return index not in self.answers and index not in self.repeats

    # --- groups ---

    def resolve_groups(self) -> None:
        """Puts the members of this moment in place of their group. The sender is not a receiver: it gets a copy.

        Of an ultra group, only who is mentioned receives anything of its own: the message stands in the shared timeline.
        """
        to_groups = [
            (index, send) for index, send in enumerate(self.sends) if send.group is not None and self.is_open(index)
        ]
        if not to_groups:
            return
        self.posts.lock(timeline_key(send) for _, send in to_groups)
        self._resolve_each(to_groups)
        # Whom a job names is not looked for under its inbox's lock: nobody may be renamed, or erased, before the job
        # is there.
        waiting = [
            (index, send)
            for index, send in to_groups
            if self.is_open(index) and self.sends[index].waits and not self.posts.has(timeline_key(send))
        ]
        for app_id in sorted({send.app_id for _, send in waiting}):
            groups = {send.group or "" for _, send in waiting if send.app_id == app_id}
            group_rows.keep_names(self.conn, app_id, groups)
        self._resolve_each(waiting)

    def _resolve_each(self, to_groups: Sequence[tuple[int, Send]]) -> None:
        for index, send in to_groups:
            try:
                self._resolve(index, send)
            except Problem as problem:
                self._refuse(index, send, problem)

    def _resolve(self, index: int, send: Send) -> None:
        if self.posts.has(timeline_key(send)):
            self.sends[index] = self._to_timeline(index, as_post(send))
            return
        found = group_rows.members(self.conn, send.app_id, send.group or "", limit=MEMBERS_MAX)
        users = tuple(user for user in found if user != send.sender_user)
        if not users:
            raise nobody_there(send)
        self.sends[index] = replace(send, users=users)

    def _to_timeline(self, index: int, send: Send) -> Send:
        group = send.group or ""
        if not group_rows.members(self.conn, send.app_id, group, limit=1):
            raise nobody_there(send)
        concerned = {*send.mentions, send.sender_user or ""} - {""}
        self.members[index] = group_rows.members_among(self.conn, send.app_id, group, concerned) if concerned else set()
        return replace(send, users=tuple(user for user in send.mentions if user in self.members[index]))

    def _refuse(self, index: int, send: Send, problem: Problem) -> None:
        """Nothing is stored for it, and its key is free."""
        self.answers[index] = problem
        if send.key is not None:
            self.dropped_keys.append((send.app_id, send.key))

    # --- locks ---

    def lock(self, new_epoch: Callable[[], str]) -> None:
        """Takes the locks of all concerned. Raises Overtaken."""
        self.deliveries.lock([send for index, send in enumerate(self.sends) if self.is_open(index)], new_epoch)
        self._check_members()

    def _check_members(self) -> None:
        """A member that was renamed while this waited for a lock is one by its new name. Raises Overtaken."""
        known = self.deliveries.users.keys() - self.deliveries.strangers
        for index, send in enumerate(self.sends):
            if send.group is None or send.waits or not self.is_open(index):
                continue
            gone = [user for user in send.users if UserKey(send.app_id, user) not in known]
            if gone and len(group_rows.members_among(self.conn, send.app_id, send.group, gone)) < len(gone):
                raise Overtaken

    def _is_there(self, app_id: str, user: str | None, device: str | None) -> bool:
        """Whether a device is still who it was when its token was looked at: since then it may have been renamed, or signed
        out. What it sent by the old name it would send again by the new one."""
        locked = self.deliveries.users.get(UserKey(app_id, user or ""))
        return locked is not None and (device or "") in locked.devices

    # --- one message ---

    def take(self, index: int, send: Send) -> None:
        expires_ms = expiry(send, self.now_ms)
        if send.by_device and not self._is_there(send.app_id, send.sender_user, send.sender_device):
            self._refuse(index, send, signed_out())
            return
        if send.shared:
            self._post(index, send, post_expiry(expires_ms, self.now_ms, self.policy_of(send.app_id)))
            return
        if send.waits:
            self._put_off(index, send, expires_ms)
            return
        recipients, wakes, due_ms = self.deliveries.deliver(send, expires_ms)
        if not wakes:
            who, _, code = recipients[0]
            self._refuse(index, send, REFUSALS[code or ""](who))
            return
        recipients += _strangers(send)
        if self.deliveries.own_copy(send, expires_ms, session=self.deliveries.session_of(send)):
            wakes.append(UserKey(send.app_id, send.sender_user or ""))
        self.deliveries.add(self._message_row(send, recipients, expires_ms))
        self.answers[index] = Accepted(
            message_id=send.message_id,
            accepted_ms=self.now_ms,
            expires_ms=expires_ms,
            recipients=tuple(recipients),
            wakes=tuple(wakes),
            due_ms=due_ms,
        )

    def _post(self, index: int, send: Send, expires_ms: int) -> None:
        """One entry for all who read the timeline; pointers in the inboxes of those who are mentioned."""
        job = send.waits or send.everyone
        session = self.deliveries.session_of(send)
        seq = self.posts.append(send, expires_ms, origin_session=session)
        recipients = [Recipient(user, None, None) for user in send.users]
        wakes: list[UserKey] = []
        due_ms: int | None = None
        if not send.waits:
            recipients, wakes, due_ms = self.deliveries.deliver(send, expires_ms, at=seq)
        recipients += _strangers(send)
        if send.sender_user not in self.members[index] and self.deliveries.own_copy(send, expires_ms, session=session):
            wakes.append(UserKey(send.app_id, send.sender_user or ""))
        self.deliveries.add(self._message_row(send, recipients, expires_ms))
        if job:
            self.jobs.append((send, seq))
        self.answers[index] = Accepted(
            message_id=send.message_id,
            accepted_ms=self.now_ms,
            expires_ms=expires_ms,
            recipients=tuple(recipients),
            job=fanout_rows.job_id(send.app_id, send.message_id) if job else None,
            everyone=send.everyone,
            posted=(timeline_key(send), seq),
            wakes=tuple(wakes),
            due_ms=due_ms,
        )

    def _put_off(self, index: int, send: Send, expires_ms: int) -> None:
        """The message and the job that will deliver it: a promise as good as entries are."""
        recipients = [*(Recipient(user_id, None, None) for user_id in send.users), *_strangers(send)]
        self.deliveries.add(self._message_row(send, recipients, expires_ms))
        self.jobs.append((send, None))
        self.answers[index] = Accepted(
            message_id=send.message_id,
            accepted_ms=self.now_ms,
            expires_ms=expires_ms,
            recipients=tuple(recipients),
            deliver_ms=send.deliver_ms,
            job=fanout_rows.job_id(send.app_id, send.message_id),
        )

    def _message_row(self, send: Send, recipients: Sequence[Recipient], expires_ms: int) -> dict[str, Any]:
        return {
            "app_id": send.app_id,
            "message_id": send.message_id,
            "type": send.type,
            "conversation_type": send.conversation_type,
            "conversation_id": send.conversation_id,
            "sender_user": send.sender_user,
            "sender_device": send.sender_device,
            "client_ref": send.client_ref,
            "priority": send.priority,
            "body": send.body,
            "h": send.h,
            "push": send.push,
            "collapse_key": send.collapse_key,
            "min_schema": send.min_schema,
            "min_app_version": send.min_app_version,
            "fallback": send.fallback,
            "fallback_h": send.fallback_h,
            "push_held": send.push_held,
            "escalate": send.escalate,
            "notify_release": int(send.notify_release),
            "hold": int(send.hold),
            "scope": entry_rows.scope_text(send.scope),
            "notify_policy": send.notify_policy,
            "key": send.key,
            "recipients": msgspec.json.encode(recipients).decode(),
            "accepted_ms": self.now_ms,
            "deliver_ms": send.deliver_ms,
            "expires_ms": expires_ms,
            "content_until_ms": message_rows.content_until_ms(
                self.now_ms, expires_ms, history_ms=self.policy_of(send.app_id).history_ms
            ),
        }

    def _job_row(self, send: Send, seq: int | None) -> dict[str, Any]:
        return {
            "app_id": send.app_id,
            "job_id": fanout_rows.job_id(send.app_id, send.message_id),
            "kind": fanout_rows.POINT if send.shared and send.everyone else fanout_rows.DELIVER,
            "conversation_id": None if seq is None else send.group,
            "message_id": send.message_id,
            "from_seq": seq,
            "upto_seq": seq,
            "options": msgspec.json.encode(JobOptions.of(send, self.deliveries.session_of(send))).decode(),
            "next_user": "",
            "accepted_ms": self.now_ms,
            "due_ms": send.deliver_ms or self.now_ms,
        }

    # --- writing ---

    def write(self) -> None:
        message_rows.drop_keys(self.conn, self.dropped_keys)
        self.deliveries.write()
        self.posts.write()
        fanout_rows.add_jobs(self.conn, [self._job_row(send, seq) for send, seq in self.jobs])

    def finished(self) -> list[Accepted | Exception]:
        return [self.repeats.answer(self.answers, index) for index in range(len(self.sends))]


def _strangers(send: Send) -> list[Recipient]:
    """Who is mentioned without being in the group."""
    known = {*send.users, send.sender_user}
    return [Recipient(user, None, "recipient_unknown") for user in send.mentions if user not in known]
