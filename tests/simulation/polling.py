"""A poll as a client sends it that knows the entity tag of the last answer."""

from typing import TYPE_CHECKING, NamedTuple

from relay.inbox.batch import Batch
from relay.inbox.page import page

from .client import Broken

if TYPE_CHECKING:
    from .node import Node
    from .phone import Phone


class Polled(NamedTuple):
    """What came, and under which tag the client asks next time."""

    batch: Batch
    etag: str


async def poll(phone: "Phone", node: "Node", cursor: str | None, *, limit: int) -> Polled:
    """The page after the cursor. Where the relay answers "not modified", it is the page that it has kept from sending.

    I32: that page must be empty. Raises Problem.
    """
    reader = node.inbox.reader
    at = None if cursor is None else reader.unseal(cursor, phone.key)
    reading = await reader.read(phone.key, at, limit=limit, etag=phone.etag)
    if reading.batch is not None:
        return Polled(reading.batch, reading.etag)
    assert at is not None, "without a cursor there is nothing that could be unmodified"
    now_ms = node.clock.now_ms()
    kept_back = page(phone.world.store.conn, now_ms, reading.snap, reader.keys, after=at.seq, limit=limit)
    if kept_back.to_seq != kept_back.from_seq or not kept_back.caught_up:
        raise Broken(f"I32: {phone.key} was told that nothing is new after {at.seq}, and there is {kept_back.json!r}")
    phone.world.story.tell("unmodified", phone.name, at.seq)
    return Polled(kept_back, reading.etag)
