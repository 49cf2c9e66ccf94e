"""Whether the relay says that it takes messages: asked by anybody, as often as they like."""

import asyncio
from typing import Any

from relay.api.system import Readiness
from relay.clock import SystemClock


class SlowStore:
    """Takes a write when it is told to."""

    failed, trusted = False, True

    def __init__(self) -> None:
        self.asked = 0
        self.goes_on = asyncio.Event()

    async def write(self, work: Any) -> None:
        self.asked += 1
        await self.goes_on.wait()


async def test_a_slow_store_is_asked_once_for_all_who_ask_meanwhile() -> None:
    store: Any = SlowStore()
    readiness = Readiness(store, SystemClock())

    async def goes_on() -> None:
        store.goes_on.set()

    *answers, _ = await asyncio.gather(*(readiness.obstacle() for _ in range(100)), goes_on())
    assert answers == [None] * 100
    assert store.asked == 1
