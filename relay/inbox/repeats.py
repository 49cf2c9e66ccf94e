"""Repeats: whether the key of a message has come before, and what was answered then (protocol 12.1).

A key is claimed by writing its row, never looked up first: of two equal sends at once, one writes and the other finds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from relay.errors import Conflict
from relay.inbox.send import Accepted, Send, expiry, replayed
from relay.model import TimelineKey
from relay.store import fanout as fanout_rows
from relay.store import messages as message_rows
from relay.store import timelines as timeline_rows
from relay.store.engine import Conn
from relay.store.timelines import ULTRA

KEY_KEPT_MS = 72 * 3_600_000
KEY_AFTER_LIFE_MS = 24 * 3_600_000

Answer = Accepted | Exception


@dataclass(frozen=True, slots=True)
class Repeats:
    """The messages of a batch that are not new, by their places in it."""

    answers: dict[int, Answer] = field(default_factory=dict)  # of those that came before, or whose key is taken
    same_as: dict[int, int] = field(default_factory=dict)  # a repeat within the batch -> the one it repeats

    def __contains__(self, index: int) -> bool:
        return index in self.answers or index in self.same_as

    def answer(self, new: Mapping[int, Answer], index: int) -> Answer:
        """What to answer at this place; `new` are the answers to what is no repeat."""
        if index in self.answers:
            return self.answers[index]
        if index not in self.same_as:
            return new[index]
        first = self.answer(new, self.same_as[index])
        return replace(first, replay=True, wakes=(), due_ms=None) if isinstance(first, Accepted) else first


NO_REPEATS = Repeats()


def claim_keys(conn: Conn, now_ms: int, sends: Sequence[Send]) -> Repeats:
    """Writes the keys of these messages; what stood there, or came earlier in the batch, tells the repeats."""
    first: dict[tuple[str, str], int] = {}
    again: list[int] = []
    rows = []
    for index, send in enumerate(sends):
        if send.key is None:
            continue
        name = (send.app_id, send.key)
        if name in first:
            again.append(index)
            continue
        first[name] = index
        rows.append(_key_row(send, now_ms))
    if not rows:
        return NO_REPEATS
    found = Repeats()
    earlier = message_rows.claim_keys(conn, rows)
    before: dict[int, str] = {}
    maybe: dict[int, str] = {}
    for index in [*first.values(), *again]:
        send = sends[index]
        row, leader = earlier.get((send.app_id, send.key or "")), first[send.app_id, send.key or ""]
        if send.body_hash != (sends[leader] if row is None else row).body_hash:
            found.answers[index] = _conflict()
        elif row is not None:
            before[index] = row.message_id
        elif index != leader:
            found.same_as[index] = leader
        elif send.id_from_key:  # the record of its key may have ended, and the message still be here
            maybe[index] = send.message_id
    stored = _stored(conn, sends, before | maybe)
    for index in before:
        found.answers[index] = _replayed(conn, stored[index])
    for index in maybe:
        if index in stored:
            found.answers[index] = _replayed(conn, stored[index])
    return found


def _key_row(send: Send, now_ms: int) -> dict[str, Any]:
    life_ms = max(KEY_KEPT_MS, expiry(send, now_ms) - now_ms + KEY_AFTER_LIFE_MS)
    return {
        "app_id": send.app_id,
        "key": send.key,
        "body_hash": send.body_hash,
        "message_id": send.message_id,
        "writer": send.nonce,
        "expires_ms": now_ms + life_ms,
    }


def _stored(conn: Conn, sends: Sequence[Send], ids: Mapping[int, str]) -> dict[int, Any]:
    """The rows of those of these messages that are there, by the same places."""
    apps: dict[str, set[str]] = {}
    for index, id_ in ids.items():
        apps.setdefault(sends[index].app_id, set()).add(id_)
    rows = {app_id: message_rows.messages(conn, app_id, some) for app_id, some in apps.items()}
    return {index: row for index, id_ in ids.items() if (row := rows[sends[index].app_id].get(id_)) is not None}


def _replayed(conn: Conn, row: Any) -> Accepted:
    """What was answered the first time, as far as that has come since."""
    answer = replayed(row)
    if row.conversation_type != ULTRA:
        return answer
    found = timeline_rows.posted(conn, row.app_id, row.message_id)
    if found is None:
        return answer
    job = fanout_rows.job_id(row.app_id, row.message_id) if found.everyone else answer.job
    key = TimelineKey(row.app_id, found.conversation_id)
    return replace(answer, posted=(key, found.seq), everyone=found.everyone, job=job)


def _conflict() -> Conflict:
    return Conflict(
        "This key was used for a message with another content; use a new key for a new message.",
        code="idempotency_conflict",
    )
