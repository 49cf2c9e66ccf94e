"""When the store was away, and for how long: what runs on a deadline must not run on while nothing could be written
(protocol 6.6)."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from relay.clock import Clock
from relay.errors import Problem
from relay.store.engine import Engine
from relay.waiting import pause

log = structlog.get_logger("relay.store")

PROBE_S: Final = 1.0
ANSWER_S: Final = 2.0  # a store that takes longer, and commits nothing meanwhile, is away


class StoreWatch:
    """Writes nothing, once a second, and tells when that fails for the first time and when it works again."""

    def __init__(self, engine: Engine, clock: Clock, *, away: Callable[[], None], back: Callable[[int], None]) -> None:
        """`back` is given the length of the outage: milliseconds from the last write that worked."""
        self._engine = engine
        self._clock = clock
        self._tell_away = away
        self._tell_back = back
        self._worked_ms = clock.monotonic_ms()
        self.away = False

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not await pause(PROBE_S, stop):
                await self.probe()

    async def probe(self) -> None:
        began_ms, commits = self._clock.monotonic_ms(), self._engine.commits
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._engine.write(lambda conn, _: None)
        except (Problem, TimeoutError) as error:
            code = error.code if isinstance(error, Problem) else "timeout"
            if code == "overloaded":  # a full queue is work: the store is there
                return
            if code != "timeout" or self._engine.commits == commits:  # else the queue is long, and grows shorter
                if not self.away:
                    self.away = True
                    log.warning("store.away", code=code)
                    self._tell_away()
                return
        now_ms, since_ms = self._clock.monotonic_ms(), self._worked_ms
        self._worked_ms = began_ms
        if self.away:
            self.away = False
            log.warning("store.back", elapsed_ms=now_ms - since_ms)
            self._tell_back(now_ms - since_ms)
