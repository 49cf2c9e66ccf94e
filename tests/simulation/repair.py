"""A phone whose database has lost rows asks what it should hold, and fetches what it lacks (protocol 8.7)."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from relay.realtime.protocol import AckBody, VerifyBody

from .client import FULL, RAW

if TYPE_CHECKING:
    from .phone import Phone

LISTED = 64  # a range of so many numbers is listed, when its sum differs
RANGES = 16
NOTHING = {"n": 0, "fp": "0" * 32}  # says that there is nothing here: all that counts is listed


async def repair(phone: "Phone") -> None:
    """Raises Lost, Problem."""
    database, call = phone.client.database, phone.world.call
    lacking = []
    for ranges in _ranges(database.seq):
        asked = VerifyBody.model_validate({"cursor": database.cursor, "ranges": ranges})
        answer = await call(lambda node, body=asked: node.devices.comparer.verify(phone.key, body))  # type: ignore[misc]
        for one in answer["ranges"]:
            lacking += [seq for seq, id_, _ in one.get("items") or () if _lacks(phone, id_)]
    phone.world.story.tell("compared", phone.name, *lacking)
    for seq in lacking:
        reading = await call(
            lambda node, seq=seq: node.inbox.reader.read(phone.key, None, limit=1, range_=(seq - 1, seq))
        )  # type: ignore[misc]
        batch = json.loads(reading.batch.json)
        phone.world.referee.page(phone.key, batch)
        ids = phone.client.fetched(batch)
        said: dict[str, Any] = {"ids": ids, **phone._nacks()}
        phone.world.story.tell("repaired", phone.name, seq, *ids)
        if ids:
            await call(lambda node, said=said: node.devices.ack(phone.key, AckBody.model_validate(said)))  # type: ignore[misc]
            phone._heard(said)
    database.rotten = phone.rotted and not phone.stay  # once more in its last version


def _lacks(phone: "Phone", id_: str) -> bool:
    return phone.client.database.messages.get(id_) not in {FULL, RAW}


def _ranges(upto: int) -> Iterator[list[dict[str, Any]]]:
    """All numbers, in ranges that are short enough to be listed."""
    whole = [{"from": low, "to": min(low + LISTED, upto), **NOTHING} for low in range(0, upto, LISTED)]
    for start in range(0, len(whole), RANGES):
        yield whole[start : start + RANGES]
