"""Time in these tests."""

import asyncio

START_MS = 1_764_000_000_000


class SetClock:
    """A clock that goes when it is told to."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    def forward(self, *, ms: int = 0, s: float = 0) -> None:
        self.ms += ms + round(s * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.05))  # noqa: TID251 - only a retried transaction sleeps in these tests
