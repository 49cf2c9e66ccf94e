"""Delivering to inboxes, of what is accepted now and of what was to come: numbers, entries, and the wish to push (protocol 12).

The receivers' locks are taken first, in order; what a transaction delivers is gathered and written together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from relay.inbox import escalation, push_due, visibility
from relay.inbox.ending import entry_row
from relay.inbox.locked import Locked, PolicyOf, flush, with_rows
from relay.inbox.reports import end
from relay.inbox.send import Recipient, Send
from relay.model import GATEWAY, DeviceKey, DeviceState, EntryState, Kind, UserKey
from relay.store import entries as entry_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import queue as job_rows
from relay.store.engine import Conn, Overtaken

SYSTEM = "system"


class Deliveries:
    """What one transaction delivers."""

    def __init__(self, conn: Conn, now_ms: int, policy_of: PolicyOf) -> None:
        self.users: dict[UserKey, Locked] = {}
        self.strangers: set[UserKey] = set()  # of these, who had no inbox
        self._conn = conn
        self._now_ms = now_ms
        self._policy_of = policy_of
        self._messages: list[Mapping[str, Any]] = []
        self._entries: list[dict[str, Any]] = []
        self._collapsed: dict[tuple[UserKey, str], dict[str, Any]] = {}
        self._dues: dict[DeviceKey, int] = {}
        self._open_room: dict[UserKey, int] = {}

    def lock(self, sends: Iterable[Send], new_epoch: Callable[[], str]) -> None:
        """Takes the locks of who receives these and who sends them; receivers are made where the app's policy says so.

        Raises Overtaken.
        """
        wanted: set[UserKey] = set()
        may_be_made: set[UserKey] = set()
        for send in sends:
            if send.sender_user is not None:
                wanted.add(UserKey(send.app_id, send.sender_user))
            if send.waits:
                continue
            keys = [UserKey(send.app_id, user) for user in send.users]
            wanted.update(keys)
            if self._policy_of(send.app_id).create_users:
                may_be_made.update(keys)
        self.strangers = may_be_made - inbox_rows.heads_of(self._conn, may_be_made).keys()
        if self.strangers:  # before any lock (protocol 3.2)
            inbox_rows.create_inboxes(self._conn, self._now_ms, {key: new_epoch() for key in self.strangers})
        inboxes = inbox_rows.lock_inboxes(self._conn, wanted)
        if may_be_made - inboxes.keys():
            raise Overtaken
        self.users = with_rows(self._conn, self._now_ms, inboxes, self._policy_of)

    def add(self, message: Mapping[str, Any]) -> None:
        """A message's row, to be written before the entries that carry it."""
        self._messages.append(message)

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
        if locked.key not in self._open_room:
            live = entry_rows.count_live_above(self._conn, locked.key, low)
            self._open_room[locked.key] = live - (locked.inbox.head_seq)
        return self._open_room[locked.key] + locked.head_seq < limit

    def _append(
        self,
        locked: Locked,
        send: Send,
        kind: Kind,
        *,
        expires_ms: int,
        notifiable: bool,
        note: str | None = None,
        session: int | None = None,
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
            origin_session=None if origin is None else session,
            collapse_key=send.collapse_key if kind is Kind.MESSAGE else None,
            notifiable=notifiable,
            data=note,
            escalate_ms=escalation.next_ms(steps, 0, self._now_ms),
        )
        if row["collapse_key"] is not None:
            self._supersede(locked, send.collapse_key or "", seq)
            self._collapsed[locked.key, send.collapse_key or ""] = row
        self._entries.append(row)
        return seq

    def _supersede(self, locked: Locked, collapse_key: str, seq: int) -> None:
        """Ends what the new entry replaces. Entries of this very batch are written first, so that they can end too."""
        if (locked.key, collapse_key) in self._collapsed:
            self._write_rows()
        old = entry_rows.live_of_collapse_key(self._conn, locked.key, collapse_key)
        if old:
            end(locked, entry_rows.entries_at(self._conn, locked.key, old), EntryState.SUPERSEDED, by=seq)

    def _lower(self, locked: Locked, send: Send) -> int | None:
        """Makes the jobs of all devices in scope due in time, online or not: rows, not presence, carry the promise."""
        due_ms: int | None = None
        for device in locked.devices.values():
            if not device.has_address or not visibility.in_scope(send.scope, device):
                continue
            at_ms, _ = push_due.waits_until(
                device,
                accepted_ms=self._now_ms,
                policy=locked.policy,
                now_ms=self._now_ms,
                gateway=device.node_id == GATEWAY,
            )
            self._dues[device.key] = min(at_ms, self._dues.get(device.key, at_ms))
            due_ms = _earlier(due_ms, at_ms)
        return due_ms

    def session_of(self, send: Send) -> int | None:
        """Of the device that sends, now; None: it is none that is known."""
        sender = self.users.get(UserKey(send.app_id, send.sender_user or ""))
        device = None if sender is None else sender.devices.get(send.sender_device or "")
        return None if device is None else device.session

    def own_copy(self, send: Send, expires_ms: int, *, session: int | None) -> bool:
        """The sender's other devices see what was sent (protocol 12.3); gives whether there is a copy for them. `session`: of
        the device that sent it, when it did; None: not known, so that it sees it too."""
        if send.sender_user is None or send.sender_user in send.users:
            return False
        locked = self.users.get(UserKey(send.app_id, send.sender_user))
        if locked is None or not locked.policy.sender_copies:
            return False
        self._append(locked, send, Kind.OWN, expires_ms=expires_ms, notifiable=False, session=session)
        return True

    def _write_rows(self) -> None:
        message_rows.append(self._conn, self._messages, self._entries)
        self._messages, self._entries = [], []

    def write(self) -> None:
        """Messages, entries, and what else has changed of the users."""
        self._write_rows()
        flush(self._conn, self._now_ms, self.users.values())
        job_rows.lower_due(self._conn, self._dues)


def _particulars(locked: Locked, send: Send, *, mention: bool, at: int) -> str | None:
    """What to keep with this receiver's entry."""
    if send.shared:
        return msgspec.json.encode(visibility.Particulars(at=at)).decode()
    online = tuple(one.device_id for one in locked.devices.values() if one.online) if send.scope.online else None
    if online is None and not mention:
        return None
    return msgspec.json.encode(visibility.Particulars(online=online, mention=mention)).decode()


def _has_devices(locked: Locked, names: Sequence[str]) -> bool:
    """Whether the user has all of them, now: a device that comes later is not meant (protocol 12.4)."""
    return all(name in locked.devices for name in names)


def _earlier(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
