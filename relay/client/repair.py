"""Comparing a cache with the relay and fetching what differs: the calls around `compare` (protocol 8.7, 10.4)."""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from relay.client import http, news, wire
from relay.client.cache import Cache
from relay.client.compare import Comparison
from relay.client.fingerprints import Row, Span
from relay.client.wire import instant_ms
from relay.clock import Clock

T = TypeVar("T")


class OnDisk(Protocol):
    """Runs something that reads or writes the cache, away from the event loop."""

    def __call__(self, what: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(slots=True)
class Repair:
    """One comparison with what follows from it. `words` are owed to the relay afterwards."""

    cache: Cache
    on_disk: OnDisk
    call: Callable[..., Awaitable[http.Answer]]
    tell: Callable[[news.News], None]
    clock: Clock
    words: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def run(self, purpose: str, upgrade: str | None) -> news.Verified:
        """Compares, fetches, and compares once more what was mended. Raises Problem, Unreachable, sqlite3.Error."""
        first = await self._compared(purpose, upgrade)
        missing, extra = first.to_fetch(), set(first.extra)
        if not missing and not (extra and upgrade):
            await self._report(first, len(extra))
            return news.Verified("ok", 0, first.rounds, len(extra))
        mended = 0
        for span in missing:
            mended += await self.fetch(span)
        second = await self._compared(purpose, upgrade, beside=extra, mended=bool(missing))
        state = "failed" if second.to_fetch() else "repaired" if missing else "ok"
        extra |= set(second.extra)
        await self._report(second, len(extra))
        return news.Verified(state, mended, first.rounds + second.rounds, len(extra))

    async def _report(self, comparison: Comparison, extra: int) -> None:
        """Tells the relay of what only the cache has. If that fails, the next comparison does."""
        if extra:
            with suppress(http.Problem, http.Unreachable):
                await self.call("POST", "/v1/device/verify", body=comparison.report(extra))

    async def _compared(
        self, purpose: str, upgrade: str | None, *, beside: Collection[Row] = (), mended: bool = False
    ) -> Comparison:
        extent = await self.on_disk(lambda: self.cache.extent)
        # The relay counts what was sent in this device's name. Where others sent it, it has not been here: that is no loss.
        for span in await self.on_disk(lambda: self.cache.own_gaps(extent)):
            await self.fetch(span)

        def rows_of(as_of: str | None) -> list[Row]:
            at_ms = instant_ms(as_of)
            return self.cache.rows(extent, as_of_ms=self.clock.now_ms() if at_ms is None else at_ms)

        comparison = await self.on_disk(
            lambda: Comparison(
                extent=extent, rows_of=rows_of, purpose=purpose, upgrade=upgrade, beside=beside, mended=mended
            )
        )
        while (question := await self.on_disk(comparison.request)) is not None:
            answer = await self.call("POST", "/v1/device/verify", body=question)
            await self.on_disk(partial(comparison.answered, answer.read(wire.verification)))
        return comparison

    async def fetch(self, span: Span) -> int:
        """Fetches a range, page by page; gives how many messages it mended."""
        mended, low = 0, span.low
        while low < span.high:
            answer = await self.call("GET", "/v1/device/sync", params={"range": f"{low}-{span.high}"})
            page = answer.read(wire.ranged)
            outcome, changed = await self.on_disk(partial(self.cache.fill, page))
            mended += changed
            self.words |= outcome.words
            for one in outcome.told:
                self.tell(one)
            if page.to_seq <= low:
                break
            low = page.to_seq
        return mended
