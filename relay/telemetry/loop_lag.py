"""How late the event loop comes to its work, measured all the time."""

import asyncio
from collections.abc import Callable

from relay.clock import Clock
from relay.waiting import pause

LAG_S = 0.5


async def measure_lag(clock: Clock, told: Callable[[float], None], stop: asyncio.Event) -> None:
    """Pauses for half a second, until `stop`; by how much the pause lasts too long is the lag, in seconds, that is told."""
    while not stop.is_set():
        before_ms = clock.monotonic_ms()
        await pause(LAG_S, stop)
        told(max(0.0, (clock.monotonic_ms() - before_ms) / 1000 - LAG_S))
