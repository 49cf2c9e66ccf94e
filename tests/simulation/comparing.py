"""After an upgrade, a phone that runs the SDK's core compares its database as the SDK does: relay/client/repair.py, round by
round, with sums over all that it has."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from relay.client import news, wire
from relay.client.cache import Cache
from relay.client.fingerprints import Extent, Row, Span, joined
from relay.client.http import Answer
from relay.client.outcome import Outcome
from relay.client.repair import Repair
from relay.client.steps import Position
from relay.realtime.protocol import VerifyBody

from .clocks import NodeClock

if TYPE_CHECKING:
    from .node import Node
    from .phone import Phone

T = TypeVar("T")
PAGE = 7


async def compared(phone: "Phone", purpose: str, upgrade: str | None) -> news.Verified:
    """Compares, fetches what is lacking, compares that. Raises Lost, Problem."""
    shelf = _Shelf(phone)
    clock = NodeClock(phone.world.wall)
    verified = await Repair(cast(Cache, shelf), _at_once, shelf.call, lambda _: None, clock).run(purpose, upgrade)
    phone.world.story.tell("proved", phone.name, purpose, verified.state, verified.fetched, verified.extra)
    return verified


async def _at_once(what: Callable[[], T]) -> T:
    return what()


class _Shelf:
    """The phone's database, with what a repair asks of a cache and of the network."""

    def __init__(self, phone: "Phone") -> None:
        self._phone = phone
        self._page: dict[str, Any] = {}  # the last one that was fetched

    @property
    def extent(self) -> Extent:
        database = self._phone.client.database
        low = max(database.ledger.base, database.ledger.floor)
        return Extent(low, max(low, database.seq), database.cursor)

    def own_gaps(self, extent: Extent) -> list[Span]:
        own = [seq for seq in self._phone.client.database.ledger.own if extent.from_seq < seq <= extent.to_seq]
        self._phone.world.story.tell("own", self._phone.name, *sorted(own))
        return joined((Span(seq - 1, seq) for seq in own), near=PAGE)

    def rows(self, extent: Extent, *, as_of_ms: int) -> list[Row]:
        database = self._phone.client.database
        counting = database.ledger.counting(extent.from_seq, extent.to_seq, as_of_ms)
        return [Row(seq, line.id, line.h) for seq, line in counting if line.id in database.messages]

    def fill(self, page: wire.Page) -> tuple[Outcome, int]:
        client = self._phone.client
        database = client.database
        outcome = Outcome(Position(database.epoch, database.seq, database.cursor))
        if page.epoch != database.epoch:
            return outcome, 0
        before = dict(database.messages)
        client.fetched(self._page)
        return outcome, sum(before.get(id_) != form for id_, form in database.messages.items())

    async def call(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> Answer:
        if path == "/v1/device/verify":
            answer = await self._phone.world.call(partial(_verify, self._phone, VerifyBody.model_validate(body)))
            return Answer(200, json.dumps(answer).encode())
        assert params is not None
        low, high = map(int, params["range"].split("-"))
        raw = await self._phone.world.call(partial(_fetch, self._phone, low, high))
        self._page = json.loads(raw)
        self._phone.world.referee.page(self._phone.key, self._page)
        return Answer(200, b'{"batches":[%s]}' % raw)


async def _verify(phone: "Phone", body: VerifyBody, node: "Node") -> dict[str, Any]:
    return await node.devices.comparer.verify(phone.key, body)


async def _fetch(phone: "Phone", low: int, high: int, node: "Node") -> bytes:
    reading = await node.inbox.reader.read(phone.key, None, limit=PAGE, range_=(low, high))
    assert reading.batch is not None
    return bytes(reading.batch.json)
