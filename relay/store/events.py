"""The outbox: facts for the backend, written in the transaction that makes them true.

An event gets its per-app sequence number after the commit, from one sequencer, so that accepting messages needs no lock
for the whole app (protocol §13).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from relay.store.schema.webhooks import event
from relay.store.sql import insert_missing

DELIVERIES_MAX = 150  # deliveries listed in one event: a webhook's body stays below 20 kB


class NewEvent(Struct, frozen=True, kw_only=True):
    """A fact to tell the app's backend. `data` is for JSON; the id follows from the fact (`derived_id`)."""

    app_id: str
    event_id: str
    type: str
    data: dict[str, Any]


def derived_id(prefix: str, *parts: str | int) -> str:
    """An id made from what it is about: the same fact told twice has the same id. No dot in it (Standard Webhooks)."""
    digest = hashlib.sha256()
    for part in parts:  # one by one: for 2 KiB and more at a time, hashlib gives the interpreter's lock away
        digest.update(f"{part}\x1f".encode())
    return prefix + digest.hexdigest()[:32]


def _place(one: NewEvent) -> tuple[str, str]:
    return one.app_id, one.event_id


def emit(conn: Connection, now_ms: int, events: Sequence[NewEvent]) -> None:
    """Writes events; one that was written before is left as it is."""
    insert_missing(
        conn,
        event,
        [
            {
                "app_id": e.app_id,
                "event_id": e.event_id,
                "type": e.type,
                "data": msgspec.json.encode(e.data).decode(),
                "created_ms": now_ms,
            }
            for e in sorted(events, key=_place)  # whoever writes two of the same waits for the first one
        ],
    )
