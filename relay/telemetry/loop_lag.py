"""How late the event loop comes to its work, measured all the time."""

import asyncio
import contextlib

from relay.clock import Clock
from relay.telemetry.metrics import Metrics

LAG_S = 0.5


async def measure_lag(clock: Clock, metrics: Metrics, stop: asyncio.Event) -> None:
    """Pauses for half a second, until `stop`; by how much the pause lasts too long is the lag, in seconds."""
    while not stop.is_set():
        before_ms = clock.monotonic_ms()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAG_S):
                await stop.wait()
        metrics.lag(max(0.0, (clock.monotonic_ms() - before_ms) / 1000 - LAG_S))
