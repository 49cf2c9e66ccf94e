"""Accepting messages: one transaction that makes the promise (protocol 12.1).

Keys first, then the locks in order, then numbers, the message once, entries, and the wish to push. Nothing here waits or
talks; when it has committed, the sender may forget the message.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from relay.errors import Problem
from relay.inbox import escalation, push_due, visibility
from relay.inbox.ending import entry_row
from relay.inbox.groups import MEMBERS_MAX
from relay.inbox.locked import Locked, PolicyOf, with_rows
from relay.inbox.locked import flush as flush_users
from relay.inbox.posting import Posts, as_post, post_expiry, timeline_key
from relay.inbox.repeats import NO_REPEATS, claim_keys
from relay.inbox.reports import end
from relay.inbox.send import (
    REFUSALS,
    Accepted,
    JobOptions,
    Recipient,
    Send,
    expiry,
    nobody_there,
)
from relay.model import GATEWAY, DeviceKey, DeviceState, EntryState, Inbox, Kind, UserKey
from relay.store import entries as entry_rows
from relay.store import fanout as fanout_rows
from relay.store import groups as group_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import queue as job_rows
from relay.store.engine import Conn, Overtaken

SYSTEM = "system"


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
        self.users: dict[UserKey, Locked] = {}
        self.messages: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.collapsed: dict[tuple[UserKey, str], dict[str, Any]] = {}
        self.dues: dict[DeviceKey, int] = {}
        self.dropped_keys: list[tuple[str, str]] = []
        self.open_room: dict[UserKey, int] = {}
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
        """Takes the locks of all concerned, whose inboxes are made if need be. Raises Overtaken."""
        wanted: set[UserKey] = set()
        may_be_made: set[UserKey] = set()
        for index, send in enumerate(self.sends):
            if not self.is_open(index):
                continue
            if send.shared and send.sender_user is not None:
                wanted.add(UserKey(send.app_id, send.sender_user))
            if send.waits:
                continue
            keys = [UserKey(send.app_id, user) for user in send.users]
            wanted.update(keys)
            if self.policy_of(send.app_id).create_users:
                may_be_made.update(keys)
            if send.sender_user is not None:
                wanted.add(UserKey(send.app_id, send.sender_user))
        if made := may_be_made - inbox_rows.heads_of(self.conn, may_be_made).keys():  # before any lock (protocol 3.2)
            inbox_rows.create_inboxes(self.conn, self.now_ms, {key: new_epoch() for key in made})
        inboxes = inbox_rows.lock_inboxes(self.conn, wanted)
        if may_be_made - inboxes.keys():
            raise Overtaken
        self._check_members(inboxes)
        self.users = with_rows(self.conn, self.now_ms, inboxes, self.policy_of)

    def _check_members(self, inboxes: Mapping[UserKey, Inbox]) -> None:
        """A member that was renamed while this waited for its lock is one by its new name. Raises Overtaken."""
        for index, send in enumerate(self.sends):
            if send.group is None or send.waits or not self.is_open(index):
                continue
            gone = [user for user in send.users if UserKey(send.app_id, user) not in inboxes]
            if gone and len(group_rows.members_among(self.conn, send.app_id, send.group, gone)) < len(gone):
                raise Overtaken

    # --- one message ---

    def take(self, index: int, send: Send) -> None:
        expires_ms = expiry(send, self.now_ms)
        if send.shared:
            self._post(index, send, post_expiry(expires_ms, self.now_ms, self.policy_of(send.app_id)))
            return
        if send.waits:
            self._put_off(index, send, expires_ms)
            return
        recipients, wakes, due_ms = self.deliver(send, expires_ms)
        if not wakes:
            who, _, code = recipients[0]
            self._refuse(index, send, REFUSALS[code or ""](who))
            return
        recipients += _strangers(send)
        if self.own_copy(send, expires_ms):
            wakes.append(UserKey(send.app_id, send.sender_user or ""))
        self.messages.append(self._message_row(send, recipients, expires_ms))
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
        sender = self.users.get(UserKey(send.app_id, send.sender_user or ""))
        device = None if sender is None else sender.devices.get(send.sender_device or "")
        seq = self.posts.append(send, expires_ms, origin_session=None if device is None else device.session)
        recipients = [Recipient(user, None, None) for user in send.users]
        wakes: list[UserKey] = []
        due_ms: int | None = None
        if not send.waits:
            recipients, wakes, due_ms = self.deliver(send, expires_ms, at=seq)
        recipients += _strangers(send)
        if send.sender_user not in self.members[index] and self.own_copy(send, expires_ms):
            wakes.append(UserKey(send.app_id, send.sender_user or ""))
        self.messages.append(self._message_row(send, recipients, expires_ms))
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
        self.messages.append(self._message_row(send, recipients, expires_ms))
        self.jobs.append((send, None))
        self.answers[index] = Accepted(
            message_id=send.message_id,
            accepted_ms=self.now_ms,
            expires_ms=expires_ms,
            recipients=tuple(recipients),
            deliver_ms=send.deliver_ms,
            job=fanout_rows.job_id(send.app_id, send.message_id),
        )

    def deliver(self, send: Send, expires_ms: int, *, at: int = 0) -> tuple[list[Recipient], list[UserKey], int | None]:
        """Appends to the inboxes of its users, whose locks are held: what became of each, whom to wake, when to push.

        `at`: the number in the shared timeline, of a message that stands in one.
        """
        notifiable = (send.push is not None or send.push_held is not None) and send.ttl_s > 0
        recipients: list[Recipient] = []
        wakes: list[UserKey] = []
        due_ms: int | None = None
        mentioned = frozenset(send.mentions)
        for user_id in send.users:
            locked = self.users.get(UserKey(send.app_id, user_id))
            if locked is None or (send.devices_named and not _has_devices(locked, send.scope.devices)):
                recipients.append(Recipient(user_id, None, "recipient_unknown"))
            elif not self._has_room(locked, send):
                recipients.append(Recipient(user_id, None, "recipient_queue_full"))
            else:
                kind = Kind.POINTER if send.shared else Kind.MESSAGE
                note = _particulars(locked, send, mention=send.everyone or user_id in mentioned, at=at)
                seq = self._append(locked, send, kind, expires_ms=expires_ms, notifiable=notifiable, note=note)
                recipients.append(Recipient(user_id, seq, None))
                wakes.append(locked.key)
                if notifiable:
                    due_ms = _earlier(due_ms, self._lower(locked, send))
        return recipients, wakes, due_ms

    def _has_room(self, locked: Locked, send: Send) -> bool:
        """Protocol 11.4: only when the cheap bound is passed are live entries counted."""
        reserve = locked.policy.system_reserve if send.conversation_type == SYSTEM else 0
        limit = locked.policy.inbox_max + reserve
        if locked.head_seq - locked.inbox.floor_seq < limit:
            return True
        active = [d.acked_seq for d in locked.devices.values() if d.state is DeviceState.ACTIVE]
        low = min(active, default=locked.inbox.floor_seq)
        if locked.head_seq - low < limit:
            return True
        if locked.key not in self.open_room:
            live = entry_rows.count_live_above(self.conn, locked.key, low)
            self.open_room[locked.key] = live - (locked.inbox.head_seq)
        return self.open_room[locked.key] + locked.head_seq < limit

    def _append(
        self, locked: Locked, send: Send, kind: Kind, *, expires_ms: int, notifiable: bool, note: str | None = None
    ) -> int:
        seq = locked.next_seq()
        origin = locked.devices.get(send.sender_device or "") if kind is Kind.OWN else None
        steps = escalation.from_store(send.escalate) if send.escalate is not None and kind is Kind.MESSAGE else ()
        row = entry_row(
            locked,
            seq=seq,
            id_=send.message_id,
            kind=kind,
            expires_ms=expires_ms,
            origin_device=None if origin is None else origin.device_id,
            origin_session=None if origin is None else origin.session,
            collapse_key=send.collapse_key if kind is Kind.MESSAGE else None,
            notifiable=notifiable,
            data=note,
            escalate_ms=escalation.next_ms(steps, 0, self.now_ms),
        )
        if row["collapse_key"] is not None:
            self._supersede(locked, send.collapse_key or "", seq)
            self.collapsed[locked.key, send.collapse_key or ""] = row
        self.entries.append(row)
        return seq

    def _supersede(self, locked: Locked, collapse_key: str, seq: int) -> None:
        """Ends what the new entry replaces. Entries of this very batch are written first, so that they can end too."""
        if (locked.key, collapse_key) in self.collapsed:
            self._write_rows()
        old = entry_rows.live_of_collapse_key(self.conn, locked.key, collapse_key)
        if old:
            end(locked, entry_rows.entries_at(self.conn, locked.key, old), EntryState.SUPERSEDED, by=seq)

    def _lower(self, locked: Locked, send: Send) -> int | None:
        """Makes the jobs of all devices in scope due in time, online or not: rows, not presence, carry the promise."""
        due_ms: int | None = None
        for device in locked.devices.values():
            if not device.has_address or not visibility.in_scope(send.scope, device):
                continue
            at_ms, _ = push_due.waits_until(
                device,
                accepted_ms=self.now_ms,
                policy=locked.policy,
                now_ms=self.now_ms,
                gateway=device.node_id == GATEWAY,
            )
            self.dues[device.key] = min(at_ms, self.dues.get(device.key, at_ms))
            due_ms = _earlier(due_ms, at_ms)
        return due_ms

    def own_copy(self, send: Send, expires_ms: int) -> bool:
        """The sender's other devices see what was sent (protocol 12.3); gives whether there is a copy for them."""
        if send.sender_user is None or send.sender_user in send.users:
            return False
        locked = self.users.get(UserKey(send.app_id, send.sender_user))
        if locked is None or not locked.policy.sender_copies:
            return False
        self._append(locked, send, Kind.OWN, expires_ms=expires_ms, notifiable=False)
        return True

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
            "options": msgspec.json.encode(JobOptions.of(send)).decode(),
            "next_user": "",
            "accepted_ms": self.now_ms,
            "due_ms": send.deliver_ms or self.now_ms,
        }

    # --- writing ---

    def _write_rows(self) -> None:
        message_rows.append(self.conn, self.messages, self.entries)
        self.messages, self.entries = [], []

    def write(self) -> None:
        message_rows.drop_keys(self.conn, self.dropped_keys)
        self._write_rows()
        self.posts.write()
        fanout_rows.add_jobs(self.conn, [self._job_row(send, seq) for send, seq in self.jobs])
        flush_users(self.conn, self.now_ms, self.users.values())
        job_rows.lower_due(self.conn, self.dues)

    def finished(self) -> list[Accepted | Exception]:
        return [self.repeats.answer(self.answers, index) for index in range(len(self.sends))]


def _particulars(locked: Locked, send: Send, *, mention: bool, at: int) -> str | None:
    """What to keep with this receiver's entry."""
    if send.shared:
        return msgspec.json.encode(visibility.Particulars(at=at)).decode()
    online = tuple(one.device_id for one in locked.devices.values() if one.online) if send.scope.online else None
    if online is None and not mention:
        return None
    return msgspec.json.encode(visibility.Particulars(online=online, mention=mention)).decode()


def _strangers(send: Send) -> list[Recipient]:
    """Who is mentioned without being in the group."""
    known = {*send.users, send.sender_user}
    return [Recipient(user, None, "recipient_unknown") for user in send.mentions if user not in known]


def _has_devices(locked: Locked, names: Sequence[str]) -> bool:
    """Whether the user has all of them, now: a device that comes later is not meant (protocol 12.4)."""
    found = [locked.devices.get(name) for name in names]
    return all(one is not None and one.state != DeviceState.GONE for one in found)


def _earlier(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
