"""What is over in a shared timeline goes: by its age alone, with one count for each message (protocol 12.5, 11)."""

from bisect import bisect_left

from relay.clock import rfc3339
from relay.inbox.locked import PolicyOf
from relay.model import Kind, TimelineKey
from relay.store import readers, timelines
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id, emit
from relay.store.timelines import PRUNE_MAX


def prune_timeline(conn: Conn, now_ms: int, key: TimelineKey, policy_of: PolicyOf, *, frozen_until_ms: int) -> bool:
    """Raises the floor over what is older than is kept; gives whether there may be more. Nobody's reading holds it back."""
    timeline = timelines.lock(conn, [key]).get(key)
    if timeline is None or now_ms < frozen_until_ms:
        return False
    old = timelines.old_entries(conn, timeline, now_ms - policy_of(key.app_id).shared_retention_ms)
    if not old:
        return False
    acked = readers.acked_above(conn, key, timeline.floor_seq)
    begins, ends = sorted(low for low, _ in acked), sorted(high for _, high in acked)
    counted = [
        {"message_id": id_, "seq": seq, "counts": {"acked": bisect_left(begins, seq) - bisect_left(ends, seq)}}
        for seq, id_, kind in old
        if kind == Kind.MESSAGE
    ]
    if counted:
        place = {"conversation": key.conversation_id, "at": rfc3339(now_ms)}
        id_ = derived_id("evt_", "completed", *key, timeline.epoch, old[0][0])
        event = NewEvent(app_id=key.app_id, event_id=id_, type="message.completed", data=place | {"messages": counted})
        emit(conn, now_ms, [event])
    timelines.prune(conn, key, floor=old[-1][0])
    return len(old) == PRUNE_MAX
