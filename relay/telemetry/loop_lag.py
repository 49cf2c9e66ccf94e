"""How late the event loop comes to its work, measured all the time."""

import asyncio
import contextlib
from collections.abc import Callable

from relay.clock import Clock

LAG_S = 0.5


async def measure_lag(clock: Clock, told: Callable[[float], None], stop: asyncio.Event) -> None:
    """Pauses for half a second, until `stop`; by how much the pause lasts too long is the lag, in seconds, that is told."""
    while not stop.is_set():
        before_ms = clock.monotonic_ms()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAG_S):
                await stop.wait()
        told(max(0.0, (clock.monotonic_ms() - before_ms) / 1000 - LAG_S))
