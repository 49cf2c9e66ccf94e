"""Whether the store was set back, by what the witness and the server say; and what follows from it (protocol §4).

A store that was set back hands out numbers again that a device has already seen with other contents: a new epoch voids
every cursor made before.
"""

import random
from typing import Final

from sqlalchemy import Connection, select, update

from relay.clock import rfc3339
from relay.model import UserKey
from relay.store import apps, meta, row_security
from relay.store.events import NewEvent, derived_id, emit
from relay.store.meta import Witness
from relay.store.schema.itself import store_meta

PROOFS_MIN: Final = 3  # inboxes whose cursors prove it
PROOFS_WITHIN_MS: Final = 600_000

# Several relays may ask at once: the first to hold the row decides, the others find what it did.
_row = select(store_meta.c.timeline_mark).where(store_meta.c.id == 1).with_for_update()


def check_witness(conn: Connection, now_ms: int, rng: random.Random, witness: Witness | None) -> bool:
    """Begins a new epoch if the store is behind what it was seen at; gives whether it did."""
    conn.execute(_row)
    if not meta.behind(conn, witness):
        return False
    _set_back(conn, now_ms, rng)
    return True


def check_server(conn: Connection, now_ms: int, rng: random.Random, *, mark: str, durability: str) -> bool:
    """Begins a new epoch if this server's history is not the one that was seen before; gives whether it did.

    `mark` is "SYSTEM/TIMELINE", with empty parts for what the role may not read. A promotion loses nothing if every
    COMMIT waited for the replica when the server was last seen; another system is never the same store.
    """
    row = conn.execute(_row).one_or_none()
    if row is None:  # made by this very start
        return False
    lost = row.timeline_mark is not None and _is_other(row.timeline_mark, mark)
    seen = f"{mark}/{durability}"
    if seen != row.timeline_mark:
        conn.execute(update(store_meta).values(timeline_mark=seen))
    if lost:
        _set_back(conn, now_ms, rng)
    return lost


def _is_other(before: str, mark: str) -> bool:
    system, timeline, durability = before.split("/")
    system_now, timeline_now = mark.split("/")
    if system and system_now and system != system_now:
        return True
    return bool(timeline and timeline_now) and timeline != timeline_now and durability != "sync-replica"


def restored(conn: Connection, now_ms: int, rng: random.Random, *, at_ms: int) -> None:
    """Begins a new epoch, as the store is that of `at_ms` again; senders may repeat what they sent since then."""
    conn.execute(update(store_meta).values(timeline_mark=None))  # the server's history is known to have a new branch
    _begin_epoch(conn, now_ms, rng, "store.restored", {"point_in_time": rfc3339(at_ms)})


class SetBackProofs:
    """Cursors that we sealed and that the store contradicts: each voids its own inbox; of three within ten minutes the
    whole store must have been set back, with its witness lost (protocol §4.1).

    It counts what came to this node.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._found: dict[UserKey, int] = {}

    def found(self, conn: Connection, now_ms: int, inbox: UserKey) -> bool:
        """Notes a proof; gives whether it was the one too many, and a new store epoch has begun."""
        recent = {key: at_ms for key, at_ms in self._found.items() if now_ms - at_ms < PROOFS_WITHIN_MS}
        self._found = recent | {inbox: now_ms}
        if len(self._found) < PROOFS_MIN:
            return False
        self._found = {}
        _set_back(conn, now_ms, self._rng)
        return True


def _set_back(conn: Connection, now_ms: int, rng: random.Random) -> None:
    _begin_epoch(conn, now_ms, rng, "store.rolled_back", {})


def _begin_epoch(conn: Connection, now_ms: int, rng: random.Random, why: str, more: dict[str, str]) -> None:
    """... and tells the backend of every app, whichever app's device has brought the proof."""
    row_security.see_all(conn)
    old, new = meta.begin_epoch(conn, now_ms, rng)
    emit(
        conn,
        now_ms,
        [
            NewEvent(
                app_id=app_id,
                event_id=derived_id("evt_", why, app_id, new),
                type=why,
                data={"old_epoch": old, "new_epoch": new} | more,
            )
            for app_id in apps.apps(conn)
        ],
    )
