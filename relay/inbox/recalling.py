"""Taking a message back from a shared timeline: its entry ends, and another one tells the readers (protocol 12.5)."""

from typing import Any

import msgspec

from relay.ids import message_id, tag_of
from relay.inbox.posting import Posts
from relay.model import EntryState, Kind, Policy, TimelineKey
from relay.store import fanout as job_rows
from relay.store import timelines
from relay.store.engine import Conn
from relay.store.events import derived_id

RECALL = '{"devices_named":false,"ttl_s":0,"recall":true}'  # options of a job that takes pointers back


def recall_post(conn: Conn, now_ms: int, policy: Policy, *, app_id: str, message: str) -> TimelineKey | None:
    """Takes the conversation's lock; gives the timeline in which the message was alive until now.

    Where all members have it in their inboxes too, a job takes it back there.
    """
    before = timelines.posted(conn, app_id, message)
    if before is None:
        return None
    key = TimelineKey(app_id, before.conversation_id)
    posts = Posts(conn, now_ms)
    posts.lock([key])
    found = timelines.posted(conn, app_id, message)
    if not posts.has(key) or found is None or found.state != EntryState.LIVE or found.expires_ms <= now_ms:
        return None
    epoch = posts.epoch(key)
    # As ids of other entries of the relay's own: derived from what they are about, so that a repeat gives the same one.
    place = f"{epoch}:{before.conversation_id}:recall:{message}"
    seq = posts.add(
        key,
        id_=message_id(now_ms, tag_of(place, namespace="control", secret=epoch.encode())),
        kind=Kind.RECALL,
        expires_ms=now_ms + policy.shared_retention_ms,
        data=msgspec.json.encode({"of": [message]}).decode(),
    )
    timelines.end_entries(conn, key, seqs=[found.seq], state=EntryState.RECALLED, by=seq)
    posts.write()
    if found.everyone:
        job_rows.add_jobs(conn, [_job(key, message, found.seq, now_ms)])
    return key


def _job(key: TimelineKey, message: str, seq: int, now_ms: int) -> dict[str, Any]:
    return {
        "app_id": key.app_id,
        "job_id": derived_id("fan_", *key, message, "recall"),
        "kind": job_rows.POINT,
        "conversation_id": key.conversation_id,
        "message_id": message,
        "from_seq": seq,
        "upto_seq": seq,
        "options": RECALL,
        "next_user": "",
        "accepted_ms": now_ms,
        "due_ms": now_ms,
    }
