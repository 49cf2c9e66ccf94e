"""Posting to shared timelines: one number and one entry for a message, whoever reads it (protocol 12.5).

The conversation's lock is taken before any inbox's; a wake job that covers the entry is written with it.
"""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from relay.errors import FieldError, Invalid
from relay.inbox.send import Send
from relay.model import EntryState, Kind, Policy, TimelineKey
from relay.store import fanout as job_rows
from relay.store import timelines as rows
from relay.store.engine import Conn
from relay.store.events import derived_id
from relay.store.timelines import ULTRA, Timeline


def timeline_key(send: Send) -> TimelineKey:
    return TimelineKey(send.app_id, send.group or "")


def as_post(send: Send) -> Send:
    """The send as one to a shared timeline. Raises Invalid for what only inboxes can do."""
    odd = [
        ("/deliver_at", send.deliver_ms is not None, "a shared timeline takes messages at once"),
        (
            "/scope/devices",
            bool(send.scope.devices),
            "everybody reads the same entry; name a `platform`, or send apart",
        ),
        ("/scope/state", send.scope.online, "it is read by whoever comes, whenever that is"),
        ("/scope/first_ack_wins", send.scope.first_ack_wins, "nobody's ack ends it for others"),
        ("/escalate", send.escalate is not None, "nobody's ack is waited for; send apart to whom it must reach"),
        ("/conversation/id", send.conversation_id != send.group, "the group is the conversation; leave it out"),
    ]
    errors = tuple(FieldError(pointer, "conflict", why) for pointer, given, why in odd if given)
    if errors:
        raise Invalid("This does not go with an ultra group.", errors=errors)
    return replace(send, conversation_type=ULTRA, conversation_id=send.group)


def post_expiry(expires_ms: int, now_ms: int, policy: Policy) -> int:
    """Time alone ends what is shared: nothing lives longer than it is kept."""
    return min(expires_ms, now_ms + policy.shared_retention_ms)


class Posts:
    """What one transaction adds to shared timelines."""

    def __init__(self, conn: Conn, now_ms: int) -> None:
        self._conn = conn
        self._now_ms = now_ms
        self._timelines: dict[TimelineKey, Timeline] = {}
        self._heads: dict[TimelineKey, int] = {}
        self._entries: list[dict[str, Any]] = []
        self._collapsing: set[tuple[TimelineKey, str]] = set()

    def lock(self, keys: Iterable[TimelineKey]) -> None:
        """Takes the locks of those that are shared timelines; before any inbox's."""
        self._timelines = rows.lock(self._conn, keys)

    def has(self, key: TimelineKey) -> bool:
        return key in self._timelines

    def epoch(self, key: TimelineKey) -> str:
        return self._timelines[key].epoch

    def append(self, send: Send, expires_ms: int, *, origin_session: int | None) -> int:
        """The message's number."""
        return self.add(
            timeline_key(send),
            id_=send.message_id,
            kind=Kind.MESSAGE,
            expires_ms=expires_ms,
            origin_device=None if origin_session is None else send.sender_device,
            origin_session=origin_session,
            collapse_key=send.collapse_key,
            notifiable=(send.push is not None or send.push_held is not None) and send.ttl_s > 0,
            data=rows.EVERYONE if send.everyone else None,
        )

    def add(
        self,
        key: TimelineKey,
        *,
        id_: str,
        kind: Kind,
        expires_ms: int,
        origin_device: str | None = None,
        origin_session: int | None = None,
        collapse_key: str | None = None,
        notifiable: bool = False,
        data: str | None = None,
    ) -> int:
        seq = self._heads.get(key, self._timelines[key].head_seq) + 1
        if collapse_key is not None:
            self._supersede(key, collapse_key, seq)
        self._heads[key] = seq
        self._entries.append(
            {
                "app_id": key.app_id,
                "conversation_id": key.conversation_id,
                "seq": seq,
                "message_id": id_,
                "kind": str(kind),
                "origin_device": origin_device,
                "origin_session": origin_session,
                "collapse_key": collapse_key,
                "notifiable": int(notifiable),
                "data": data,
                "state": str(EntryState.LIVE),
                "ended_by_seq": None,
                "accepted_ms": self._now_ms,
                "expires_ms": expires_ms,
            }
        )
        return seq

    def _supersede(self, key: TimelineKey, collapse_key: str, seq: int) -> None:
        """Ends what the new entry replaces. Entries of this very transaction are written first, so that they can end too."""
        if (key, collapse_key) in self._collapsing:
            self._write_entries()
        self._collapsing.add((key, collapse_key))
        old = rows.live_of_collapse_key(self._conn, key, collapse_key)
        if old:
            rows.end_entries(self._conn, key, seqs=old, state=EntryState.SUPERSEDED, by=seq)

    def _write_entries(self) -> None:
        rows.append(self._conn, self._entries)
        self._entries = []

    def write(self) -> None:
        """Entries and heads; and each timeline's wake job, an earlier one that has not begun if there is one."""
        self._write_entries()
        rows.set_heads(self._conn, self._heads)
        for key, head in sorted(self._heads.items()):
            if not job_rows.widen(self._conn, key, upto=head):
                job_rows.add_jobs(self._conn, [self._wake_job(key, self._timelines[key].head_seq + 1, head)])

    def _wake_job(self, key: TimelineKey, first: int, head: int) -> dict[str, Any]:
        return {
            "app_id": key.app_id,
            "job_id": derived_id("fan_", *key, self._timelines[key].epoch, first),
            "kind": job_rows.WAKE,
            "conversation_id": key.conversation_id,
            "message_id": None,
            "from_seq": first,
            "upto_seq": head,
            "options": "{}",
            "next_user": "",
            "accepted_ms": self._now_ms,
            "due_ms": self._now_ms,
        }
