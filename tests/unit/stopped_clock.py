"""A clock that stands where the test sets it."""

import asyncio


class SetClock:
    def __init__(self, ms: int = 0) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        """Lets others run; time goes when the test says so."""
        await asyncio.sleep(0)  # noqa: TID251
