"""Comparing reads whole inboxes, so few are compared at a time, and of very many some are sent away: pages go first."""

import asyncio
from typing import Any

import pytest

from relay.errors import Unavailable
from relay.inbox.comparing import Comparison, Range
from relay.model import DeviceKey
from relay.realtime.comparing import COMPARED_AT_ONCE, COMPARED_NEXT, Comparer

PHONE = DeviceKey("shop", "ann", "phone")
WHOLE = [Range(0, 1, 0, 0)]


class Inbox:
    """Takes as long as it is told to."""

    def __init__(self) -> None:
        self.reader = self
        self.at_once = self.most = 0
        self.go_on = asyncio.Event()

    async def compare(self, _device: DeviceKey, _ranges: Any, **_: Any) -> Comparison:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.go_on.wait()
        self.at_once -= 1
        return Comparison(base_seq=0, as_of_ms=0, ranges=(), whole=True)


async def test_few_are_compared_at_a_time_and_of_very_many_some_are_sent_away() -> None:
    inbox: Any = Inbox()
    clock: Any = None
    comparer = Comparer(inbox=inbox, clock=clock)
    taken = COMPARED_AT_ONCE + COMPARED_NEXT
    tasks = [asyncio.ensure_future(comparer.compare(PHONE, WHOLE)) for _ in range(taken)]
    await asyncio.wait(tasks, timeout=0)
    with pytest.raises(Unavailable):
        await comparer.compare(PHONE, WHOLE)
    inbox.go_on.set()
    assert len(await asyncio.gather(*tasks)) == taken
    assert inbox.most == COMPARED_AT_ONCE
    assert (await comparer.compare(PHONE, WHOLE)).same
