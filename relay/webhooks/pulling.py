"""Events by pull: what webhooks would bring, for a backend that would rather ask (protocol 11.5)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from relay.errors import CursorRefused
from relay.list_cursor import Name, Number, parsed, printed
from relay.store import event_log
from relay.store.engine import Engine
from relay.webhooks import event_types
from relay.webhooks.asked import PAGE_DEFAULT, page_limit, refuse
from relay.webhooks.event_types import EVERY, OFF_BY_DEFAULT


class EventPlace(msgspec.Struct, frozen=True, tag="e", array_like=True):
    """Has every event up to `sequence`, as numbered in this epoch."""

    epoch8: Name
    sequence: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledEvent:
    """One event as a backend gets it."""

    id: str
    type: str
    created_ms: int
    sequence: int
    data: msgspec.Raw  # JSON as it stands


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events in the order of their numbers."""

    events: tuple[PulledEvent, ...]
    cursor: str  # for the next call; there always is one
    more: bool  # False: that is all for now


async def pull(
    engine: Engine,
    app_id: str,
    *,
    cursor: str | None = None,
    limit: int = PAGE_DEFAULT,
    types: Sequence[str] = (EVERY,),
) -> EventPage:
    """Events after the cursor, in the order of their numbers; without one, from the oldest that is kept.

    Raises Malformed (invalid_cursor), CursorRefused (cursor_too_old, cursor_epoch_changed; `resync.cursor` in its
    `extra` is where to go on), Invalid.
    """
    page_limit(limit)
    refuse(event_types.type_errors(types))
    place = None if cursor is None else parsed(cursor, EventPlace, app_id=app_id)
    every = EVERY in types
    found = await engine.read(
        lambda conn, _: event_log.events_after(
            conn,
            app_id,
            after_seq=None if place is None else place.sequence,
            limit=limit,
            types=OFF_BY_DEFAULT if every else types,
            all_but=every,
        )
    )

    def cursor_at(sequence: int) -> str:
        return printed(EventPlace(_epoch8(found.epoch), sequence), app_id=app_id)

    if place is not None:
        resync = {"resync": {"cursor": cursor_at(found.floor_seq)}}
        if place.epoch8 != _epoch8(found.epoch) or place.sequence > found.head_seq:
            detail = "The numbering of events has begun anew; go on from the cursor in `resync`, dropping known ids."
            raise CursorRefused(detail, extra=resync)
        if place.sequence < found.floor_seq:
            detail = "Some events after this cursor are gone; go on from the cursor in `resync`."
            raise CursorRefused(detail, code="cursor_too_old", extra=resync)
    return EventPage(
        events=tuple(
            PulledEvent(
                id=one.event_id,
                type=one.type,
                created_ms=one.created_ms,
                sequence=one.sequence,
                data=msgspec.Raw(one.data.encode()),
            )
            for one in found.rows
        ),
        cursor=cursor_at(found.upto_seq),
        more=found.upto_seq < found.head_seq,
    )


def _epoch8(epoch: str) -> str:
    """The short form of the store's epoch, as cursors have it."""
    return hashlib.sha256(epoch.encode()).hexdigest()[:16]
